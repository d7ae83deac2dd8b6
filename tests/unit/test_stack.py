"""Which wheels serve which card, for every card of the catalogue and every build of the table."""

import re
import sys
from itertools import product
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpubench import stack
from gpubench.cards import catalogue
from gpubench.device import DeviceInfo
from gpubench.errors import Unsupported
from gpubench.program import require_cupy
from gpubench.stack import Stack, build_for, builds, builds_for, runs_on

CARDS = sorted(catalogue())
# What `torch.cuda.get_arch_list()` tells of three builds, as their users report it.
TORCH_2_7 = ("sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90")
TORCH_2_8 = ("sm_70", "sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120")


@pytest.mark.parametrize(
    ("targets", "capability", "runs"),
    [
        (["sm_80"], (8, 0), True),
        (["sm_80", "sm_90"], (8, 6), True),  # later minor versions of a major run it
        (["sm_86"], (8, 9), True),
        (["sm_86"], (8, 0), False),  # earlier ones don't
        (["sm_89", "sm_90"], (8, 6), False),
        (["sm_60"], (6, 1), True),
        (["sm_70", "sm_75", "sm_80"], (6, 1), False),
        (["sm_120"], (10, 0), False),
        (["sm_100"], (12, 0), False),
        (["sm_80", "compute_90"], (12, 0), True),  # PTX is compiled for all later cards
        (["compute_90"], (8, 9), False),
        (["compute_90"], (9, 0), True),
        (["sm_90a"], (9, 0), True),
        (["sm_100a"], (10, 3), False),  # of that chip alone
        (["sm_100f"], (10, 3), True),  # of its family
        (["compute_90a"], (12, 0), False),
        (["sm_"], (8, 0), False),
        (["gfx942", "sm_ninety", ""], (9, 0), False),
        ([], (9, 0), False),
    ],
)
def test_code_runs_on_its_own_version_later_minors_and_as_ptx_on_all_later_cards(
    targets, capability, runs
):
    assert runs_on(targets, capability) == runs


@given(st.lists(st.text(max_size=12), max_size=5), st.tuples(st.integers(0, 20), st.integers(0, 9)))
def test_no_list_of_targets_ends_a_check(targets, capability):
    assert runs_on(targets, capability) in {True, False}


@pytest.mark.parametrize("card_id", CARDS)
def test_every_card_of_the_catalogue_has_a_build_under_some_driver_that_still_knows_it(card_id):
    card = catalogue()[card_id]
    for driver in (None, 580):
        build = build_for(card.capability, driver)
        assert build is not None
        assert runs_on(build.architectures, card.capability)
        line = build.install_line()
        assert line.startswith("pip install ")
        # The extra that brings CuPy is of the CUDA that torch brings.
        assert f"pip install -e '.[cuda{build.cuda}]'" in line
        assert build.cupy == f"cupy-cuda{build.cuda}x"
        assert build.index in line


CU126 = (
    "pip install --force-reinstall 'torch<2.15' --index-url https://download.pytorch.org/whl/cu126"
    " && pip install -e '.[cuda12]'"
)
CU128 = (
    "pip install --force-reinstall 'torch<2.12' --index-url https://download.pytorch.org/whl/cu128"
    " && pip install -e '.[cuda12]'"
)
PYPI = "pip install -e '.[cuda13]'"
NO_DRIVER = "install a driver of branch {}; `nvidia-smi` shows which is here"


@pytest.mark.parametrize(
    ("card_id", "lines"),
    [
        ("geforce-gtx-1080-ti", {470: NO_DRIVER.format("525 to 580"), 525: CU126, 580: CU126}),
        ("tesla-v100-sxm2-32gb", {470: NO_DRIVER.format("525 to 580"), 550: CU126, 580: CU126}),
        ("tesla-t4", {470: NO_DRIVER.format("525 or newer"), 525: CU126, 580: PYPI}),
        ("geforce-rtx-3090", {524: NO_DRIVER.format("525 or newer"), 550: CU126, 580: PYPI}),
        ("geforce-rtx-4090", {550: CU126, 579: CU126, 590: PYPI}),
        ("nvidia-h200-sxm", {535: CU126, 580: PYPI}),
        ("geforce-rtx-5090", {565: NO_DRIVER.format("570 or newer"), 570: CU128, 580: PYPI}),
        ("nvidia-b200-sxm", {569: NO_DRIVER.format("570 or newer"), 579: CU128, 580: PYPI}),
    ],
)
def test_a_card_of_each_generation_is_told_exactly_this(card_id, lines):
    for branch, line in lines.items():
        here = Stack(card_id, catalogue()[card_id].capability, driver=f"{branch}.1")
        assert here.install_line == line, branch


@pytest.mark.parametrize("card_id", CARDS)
def test_before_turing_only_the_cu126_build_serves_and_never_cuda_13(card_id):
    card = catalogue()[card_id]
    names = [build.build for build in builds_for(card.capability)]
    if card.architecture in {"Pascal", "Volta"}:
        assert names == ["cu126"]
        assert stack.drivers_for(card.capability) == "525 to 580"
    elif card.architecture == "Blackwell":
        assert names == ["pypi", "cu128"]
        assert stack.drivers_for(card.capability) == "570 or newer"
    else:
        assert names == ["pypi", "cu126"]
        assert stack.drivers_for(card.capability) == "525 or newer"


@pytest.mark.parametrize(
    ("capability", "driver", "build"),
    [
        ((6, 1), 470, None),
        ((6, 1), 525, "cu126"),
        ((6, 1), 580, "cu126"),
        ((7, 0), 550, "cu126"),
        ((7, 5), 550, "cu126"),
        ((8, 6), 535, "cu126"),
        ((8, 9), 579, "cu126"),
        ((8, 9), 580, "pypi"),
        ((9, 0), 590, "pypi"),
        ((12, 0), 569, None),
        ((12, 0), 570, "cu128"),
        ((12, 0), 580, "pypi"),
        ((10, 0), None, "pypi"),
        ((5, 2), 580, "cu126"),
        ((3, 5), 470, None),
        (None, None, "pypi"),
        (None, 535, "cu126"),
    ],
)
def test_the_best_build_is_the_newest_that_card_and_driver_run(capability, driver, build):
    found = build_for(capability, driver)
    assert (found and found.build) == build


def test_each_row_of_the_table_says_where_it_is_from_and_needs_its_cudas_driver():
    assert len({build.build for build in builds()}) == len(builds())
    for build in builds():
        assert build.source
        assert build.first_driver >= stack.FIRST_DRIVER[build.cuda]
        assert all(runs_on([target], _capability(target)) for target in build.architectures)


def _capability(target):
    digits = target.removeprefix("sm_")
    return int(digits[:-1]), int(digits[-1])


def a_stack(**different):
    whole = {
        "card": "NVIDIA GeForce RTX 4090",
        "capability": (8, 9),
        "driver": "580.65.06",
        "torch": "2.13.0+cu130",
        "cuda": "13.0",
        "architectures": ("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"),
        "cupy": {"cupy-cuda13x": "14.2.0"},
    }
    return Stack(**(whole | different))


def test_a_sound_stack_has_no_problem():
    assert stack.torch_problem(a_stack()) is None
    assert stack.cupy_problem(a_stack()) is None
    # What can't be read is no problem by itself.
    assert stack.torch_problem(a_stack(driver=None, architectures=(), capability=None)) is None


@pytest.mark.parametrize(
    ("different", "words", "line"),
    [
        ({"torch": None, "cuda": None}, "not installed", "pip install -e '.[cuda13]'"),
        (
            {"torch": None, "cuda": None, "capability": (6, 1)},
            "not installed",
            ("--index-url https://download.pytorch.org/whl/cu126 && pip install -e '.[cuda12]'"),
        ),
        (
            {"torch": "2.13.0+cpu", "cuda": None},
            "(2.13.0+cpu) was built without CUDA",
            # pip takes the CPU's build for good enough, unless it is told to replace it.
            "pip install --force-reinstall 'torch>=2.11' && pip install -e '.[cuda13]'",
        ),
        (
            {"torch": "2.8.0", "cuda": "12.8", "architectures": TORCH_2_8, "capability": (6, 0)},
            "no kernels for NVIDIA GeForce RTX 4090 (sm_60); it was built for sm_70, sm_75",
            (
                "pip install --force-reinstall 'torch<2.15' "
                "--index-url https://download.pytorch.org/whl/cu126"
            ),
        ),
        (
            {"torch": "2.7.1", "cuda": "12.6", "architectures": TORCH_2_7, "capability": (12, 0)},
            "(sm_120)",
            "pip install --force-reinstall 'torch>=2.11'",
        ),
        (
            {"driver": "550.54.15"},
            "CUDA 13.0, which needs a driver of branch 580 or newer; the driver is 550.54.15",
            "update the driver, or pip install --force-reinstall 'torch<2.15' --index-url",
        ),
        (
            {"driver": "560.35", "capability": (12, 0)},
            "branch 580 or newer",
            "install a driver of branch 570 or newer",
        ),
        (
            {"architectures": ("sm_50",), "capability": (3, 5), "driver": None},
            "(sm_35)",
            "from source",
        ),
    ],
)
def test_each_fault_of_torch_is_one_error_with_the_line_for_that_card(different, words, line):
    found = stack.torch_problem(a_stack(**different))
    assert words in str(found)
    assert line in found.remedy
    assert found.exit_code == 4


@pytest.mark.parametrize(
    ("cuda", "architectures", "first"),
    [("12.6", TORCH_2_7, 525), ("11.8", TORCH_2_7, 450), ("13.0", TORCH_2_8, 580)],
)
def test_torch_is_refused_under_each_driver_that_is_too_old_for_its_cuda(
    cuda, architectures, first
):
    for branch in (390, 449, 450, 470, 524, 525, 579, 580, 590):
        driver = f"{branch}.1"
        here = a_stack(torch="2.7.1", cuda=cuda, architectures=architectures, driver=driver)
        refusal = stack.torch_problem(here)
        assert (refusal is None) == (branch >= first), driver
        if refusal:
            assert f"needs a driver of branch {first} or newer; the driver is {driver}" in str(
                refusal
            )


@pytest.mark.parametrize(
    ("different", "words", "line"),
    [
        ({"cupy": {}}, "not installed", "pip install cupy-cuda13x"),
        ({"cupy": {}, "cuda": "12.6"}, "not installed", "pip install cupy-cuda12x"),
        (
            {"cupy": {}, "cuda": None, "torch": None, "capability": (7, 0)},
            "not installed",
            "pip install cupy-cuda12x",
        ),
        (
            {"cupy": {"cupy-cuda12x": "13.6.0"}},
            (
                "two CUDA majors in one process: torch 2.13.0+cu130 brings CUDA 13.0, and "
                "cupy-cuda12x 13.6.0 another"
            ),
            "pip uninstall --yes cupy-cuda12x && pip install cupy-cuda13x",
        ),
        (
            {"cupy": {"cupy-cuda12x": "13.6.0", "cupy-cuda13x": "14.0"}},
            "cupy-cuda12x 13.6.0 and cupy-cuda13x 14.0 are both installed",
            "pip uninstall --yes cupy-cuda12x cupy-cuda13x && pip install cupy-cuda13x",
        ),
    ],
)
def test_each_fault_of_cupy_is_one_error_with_its_line(different, words, line):
    found = stack.cupy_problem(a_stack(**different))
    assert words in str(found)
    assert found.remedy == line


TORCHES = (
    {"torch": None, "cuda": None, "architectures": ()},
    {"torch": "2.13.0+cpu", "cuda": None, "architectures": ()},
    {"torch": "2.7.1+cu126", "cuda": "12.6", "architectures": TORCH_2_7},
    {"torch": "2.8.0+cu128", "cuda": "12.8", "architectures": TORCH_2_8},
    {},  # 2.13.0+cu130
    {"architectures": ()},  # the same, which doesn't tell them
)
CUPIES = (
    {},
    {"cupy-cuda12x": "14"},
    {"cupy-cuda13x": "14"},
    {"cupy-cuda12x": 1, "cupy-cuda13x": 2},
)


def cudas(remedy):
    """The major versions of CUDA that a line installs, however it names them."""
    text = re.sub(r"pip uninstall \S+( cupy\S+)*", "", remedy)
    return {int(number) for number in re.findall(r"(?:cuda|whl/cu)(1[123])", text)}


@pytest.mark.parametrize("card_id", CARDS)
def test_no_line_for_cupy_names_another_cuda_than_that_for_torch(card_id):
    capability = catalogue()[card_id].capability
    serving = {build.cuda for build in builds_for(capability)}
    drivers = (None, "470.1", "525.1", "550.54.15", "570.1", "580.65.06", "590.1")
    for driver, torch, cupy in product(drivers, TORCHES, CUPIES):
        here = a_stack(capability=capability, driver=driver, cupy=cupy, **torch)
        wrong = stack.torch_problem(here)
        remedy = stack.cupy_problem(here)
        installs = cudas(remedy.remedy) if remedy else {stack.cuda_for(here)}
        assert len(installs) == 1
        wanted = cudas(wrong.remedy) if wrong else {stack.major(here.cuda)}
        assert installs == (wanted or installs), (driver, torch, cupy)
        assert installs <= serving or not wrong
        assert remedy or set(cupy) == {f"cupy-cuda{next(iter(installs))}x"}


def test_pascal_on_the_last_driver_that_knows_it_is_told_of_cuda_12_alone():
    here = a_stack(capability=(6, 1), cupy={})
    assert stack.torch_problem(here).remedy.endswith("whl/cu126 && pip install -e '.[cuda12]'")
    assert stack.cupy_problem(here).remedy == "pip install cupy-cuda12x"
    right = a_stack(capability=(6, 1), cupy={"cupy-cuda12x": "14.2.0"})
    assert stack.cupy_problem(right) is None
    wrong = stack.cupy_problem(a_stack(capability=(6, 1)))
    assert "cupy-cuda13x 14.2.0 is of another CUDA than the torch to install" in str(wrong)
    assert wrong.remedy == "pip uninstall --yes cupy-cuda13x && pip install cupy-cuda12x"


def test_kernels_are_not_run_with_two_cuda_majors_in_one_process(monkeypatch):
    torch = SimpleNamespace(__version__="2.13.0", version=SimpleNamespace(cuda="13.0"))
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setattr(stack, "installed_cupy", lambda: {"cupy-cuda12x": "13.6.0"})
    card = DeviceInfo("cuda:0", "cuda", "A card", "a-card", "Ada", compute_capability="8.9")
    with pytest.raises(Unsupported, match=r"two CUDA majors.*pip install cupy-cuda13x"):
        require_cupy(SimpleNamespace(info=card))


def test_a_cupy_that_was_built_here_is_taken_for_what_is_here():
    assert stack.cupy_problem(a_stack(cupy={"cupy": "14.0"})) is None


@pytest.mark.parametrize(
    ("text", "number"), [("13.0", 13), ("550.54.15", 550), ("", None), (None, None), ("x", None)]
)
def test_the_major_of_a_version_is_its_first_number(text, number):
    assert stack.major(text) == number


def test_what_is_installed_is_read_from_the_metadata(monkeypatch):
    def version(name):
        if name != "cupy-cuda12x":
            raise stack.metadata.PackageNotFoundError
        return "13.6.0"

    monkeypatch.setattr(stack.metadata, "version", version)
    found = stack.installed("a card", None, None, None)
    assert found.cupy == {"cupy-cuda12x": "13.6.0"}
    assert (found.torch, found.cuda) == (None, None)
