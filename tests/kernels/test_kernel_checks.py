"""What `gpubench doctor --verify` launches on a card, with this processor in the card's place."""

from types import SimpleNamespace

import pytest
import torch

from gpubench import kernel_checks
from gpubench.device import open_device
from gpubench.errors import WrongResult
from gpubench.program import THREADS, Program
from rungs import on_cpu
from rungs.mutations import MUTATIONS
from rungs.on_cpu import FORWARD
from rungs.programs import PROGRAMS, bias_gelu, changed, reduction, softmax


@pytest.fixture
def card(library, monkeypatch):
    """A card of two multiprocessors: what was launched on it, and programs with other text."""
    found = SimpleNamespace(launched=set(), instead={})

    def function(self, kernel, device):
        def call(grid, block, arguments):
            assert block == (THREADS,)
            found.launched.add((self.name, kernel))
            built = found.instead.get(self.name) or library(self.name)
            built.launch(kernel, grid, arguments, FORWARD)

        return call

    properties = SimpleNamespace(multi_processor_count=2, max_threads_per_multi_processor=1024)
    monkeypatch.setattr(Program, "function", function)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    for module in (reduction, softmax, bias_gelu):
        monkeypatch.setattr(module, "require_cupy", lambda device: None)
        monkeypatch.setattr(module, "on_torch_stream", lambda call: call)
    # A card takes longer ones in no time.
    monkeypatch.setattr(kernel_checks, "SIZES", (*kernel_checks.SIZES[:-1], (20_003, 1)))
    monkeypatch.setattr(kernel_checks, "LARGE", 5001)
    monkeypatch.setattr(kernel_checks, "LARGE_ROWS", 5)
    return found


def look(program, kernel):
    kernel_checks.check(open_device("cpu"), program, kernel)


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_kernel_of_every_program_is_launched_and_passes_as_it_is(card, program):
    for kernel in kernel_checks.looks()[program]:
        look(program, kernel)
    assert card.launched == {(program, kernel) for kernel in PROGRAMS[program].kernels()}


def test_there_is_a_look_at_every_program():
    assert set(kernel_checks.looks()) == set(PROGRAMS)


# Those that show in a result, whatever order the threads run in, with the kernel that shows them.
VISIBLE = {
    "one halving of the warp too few": "shuffle",
    "one element too many": "shared",
    "last pack left out": "vectorized",
    "accumulated in half": "shuffle",
    "integers added up in 32 bits": "shared",
    "NaN forgotten": "vectorized",
    "the last of equal ones taken": "naive",
}
PLANTED = [
    *(
        (one.program, VISIBLE[one.name], one.old, one.new)
        for one in MUTATIONS
        if one.name in VISIBLE
    ),
    # Numbers below the normal ones read as zero, as `-ftz=true` has it.
    *(
        (
            f"{kernel} fp32",
            variant,
            "float widen(float value) { return value; }",
            "float widen(float value) { return value < 1e-38f && value > -1e-38f ? 0 : value; }",
        )
        for kernel, variant in (("reduction argmax", "vectorized"), ("reduction sum", "shared"))
    ),
    (
        "reduction sum bf16",
        "vectorized",
        "if (first_index() < head)",
        "if (first_index() + 1 < head)",
    ),
    ("softmax fp32", "softmax", "1.0f / of_row.sum", "1.001f / of_row.sum"),
    ("bias_gelu fp16", "bias_gelu", "return 0.5f * value", "return 0.501f * value"),
]


@pytest.mark.parametrize(("program", "kernel", "old", "new"), PLANTED)
def test_a_planted_fault_is_found(card, build_folder, program, kernel, old, new):
    built = on_cpu.build(changed(program, old, new), build_folder)
    card.instead[program] = on_cpu.Library(built)
    with pytest.raises(WrongResult, match=r"arrays, first .* instead of|its workload's own"):
        look(program, kernel)


@pytest.mark.parametrize(
    ("program", "kernel", "place", "more"),
    [
        ("reduction sum int32", "naive", 1, -1),  # elements
        ("reduction argmax bf16", "shuffle", 1, -1),
        ("softmax fp16", "softmax", 2, -1),  # columns
        ("bias_gelu bf16", "bias_gelu", 3, -1),  # rows
        ("reduction sum int32", "shared", 1, 1),  # what lies behind the array is seen in its sum
        ("reduction sum fp32", "naive", 1, 1),
    ],
)
def test_a_launch_that_leaves_out_the_last_one_or_takes_one_too_many_is_found(
    card, monkeypatch, program, kernel, place, more
):
    right = Program.function

    def another_count(self, kernel, device):
        call = right(self, kernel, device)

        def changing(grid, block, arguments):
            changed = list(arguments)
            changed[place] += more * (kernel != "finish")
            call(grid, block, tuple(changed))

        return changing

    monkeypatch.setattr(Program, "function", another_count)
    with pytest.raises(
        WrongResult, match="first 1 numbers, 0 others" if more > 0 else "arrays, first"
    ):
        look(program, kernel)
