"""Rung 3: every kernel for every architecture, with the options that a card gets it with."""

import sys
from types import SimpleNamespace

import pytest

from gpubench import cards, program
from gpubench.errors import Unsupported
from rungs import compiling
from rungs.programs import PROGRAMS


@pytest.mark.parametrize("architecture", compiling.ARCHITECTURES)
@pytest.mark.parametrize("name", PROGRAMS)
def test_it_compiles(compiled, name, architecture):
    assert compiled[name, architecture].machine_code[:4] == b"\x7fELF"
    # NVRTC says of old architectures that a later one will drop them; of the source, nothing.
    assert "warning #" not in compiled[name, architecture].log


def test_every_card_of_the_catalogue_is_of_one_of_these_architectures():
    known = {f"{major}{minor}" for major, minor in map(card_capability, cards.catalogue().values())}
    assert known <= set(compiling.ARCHITECTURES)


def card_capability(card):
    return card.capability


def test_the_report_that_the_tests_read_leaves_the_machine_code_as_it_is(compiled):
    one = PROGRAMS["softmax fp16"]
    assert one.compile(compiling.Nvrtc(extra=()), "80") == compiled[one.name, "80"].machine_code


def test_a_card_gets_what_is_tested_here(compiled, monkeypatch, tmp_path):
    """The way to a card, with everything real but the card: CuPy's binding and its module."""
    kept = {}

    class RawModule:
        def __init__(self, path):
            kept["path"] = path

        def compile(self):
            with open(kept["path"], "rb") as file:  # noqa: PTH123 - as CuPy does
                kept["machine code"] = file.read()

        def get_function(self, name):
            return f"function {name}"

    class Binding(compiling.Nvrtc):
        def getCUBIN(self, handle):  # noqa: N802
            """As CuPy 14.2, which leaves out the last byte as if it ended a text."""
            return super().getCUBIN(handle)[:-1]

    fake = SimpleNamespace(RawModule=RawModule, cuda=SimpleNamespace(nvrtc=Binding(extra=())))
    monkeypatch.setitem(sys.modules, "cupy", fake)
    import torch

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 9))
    monkeypatch.setattr(torch.cuda, "device", lambda device: pytest.MonkeyPatch.context())
    program._loaded.cache_clear()
    one = PROGRAMS["reduction max bf16"]
    try:
        assert one.function("vectorized", torch.device("cuda:0")) == "function vectorized"
    finally:
        program._loaded.cache_clear()
    assert kept["machine code"] == compiled[one.name, "89"].machine_code


def test_an_architecture_that_this_compiler_does_not_know_is_said_to_be_so(compiled):
    with pytest.raises(Unsupported, match=r"sm_35 by NVRTC 12\.9.*gpu-architecture"):
        PROGRAMS["bias_gelu fp32"].compile(compiling.Nvrtc(), "35")


def test_denormals_are_kept():
    """CuPy would add an option that rounds them to zero; torch doesn't do that."""
    assert not any(
        "ftz" in option or "fast" in option
        for option in next(iter(PROGRAMS.values())).options("90")
    )
