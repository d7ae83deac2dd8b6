"""Each check of the machine and its software, with the fault that it is for."""

import json
import sys
from collections import namedtuple
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpubench import doctor, errors, stack
from gpubench.backends import _health, _nvml
from gpubench.cards import catalogue
from gpubench.cli import main
from gpubench.device import DeviceInfo
from gpubench.doctor import Check, Finding, Here, ok, problem
from gpubench.errors import UsageError
from gpubench.run import Started

A_CARD = DeviceInfo(
    "cuda:0",
    "cuda",
    "NVIDIA GeForce RTX 3090",
    "geforce-rtx-3090",
    "Ampere",
    compute_capability="8.6",
    driver="580.65.06",
)


# --- a card that is not here --------------------------------------------------------------------


@pytest.mark.parametrize("card_id", sorted(catalogue()))
def test_what_a_card_needs_is_said_without_a_card(card_id, capsys, monkeypatch):
    def asked(*_):
        raise AssertionError("no driver may be asked")

    monkeypatch.setattr(_nvml, "devices", asked)
    assert main(["doctor", "--card", card_id, "--format", "json"]) == 0
    envelope = json.loads(capsys.readouterr().out)
    assert envelope["kind"] == "installs"
    rows = envelope["rows"]
    assert rows[0]["card_id"] == card_id
    old = catalogue()[card_id].architecture in {"Pascal", "Volta"}
    assert ("whl/cu126" in rows[0]["install"]) == old
    assert rows[0]["driver"] == ("525 to 580" if old else "580 or newer")
    for row in rows:
        assert row["install"].startswith("pip install ")
        assert row["install"].endswith(f"pip install -e '.[cuda{row['cuda']}]'")


def test_a_card_that_the_catalogue_lacks_is_refused_with_the_nearest(capsys):
    assert main(["doctor", "--card", "geforce-gtx-1081-ti"]) == errors.EXIT_USAGE
    assert "did you mean 'geforce-gtx-1080-ti'" in capsys.readouterr().err


def test_the_line_for_a_card_is_in_the_table_for_people(capsys):
    assert main(["doctor", "--card", "geforce-gtx-1080-ti"]) == 0
    assert "--index-url https://download.pytorch.org/whl/cu126" in capsys.readouterr().out


# --- the machine --------------------------------------------------------------------------------


def test_a_machine_without_a_card_is_told_what_it_can_do_and_what_a_card_would_need(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(doctor, "PCI", tmp_path)
    found = doctor.card(Here([]))
    assert found.state == "note"
    assert "measure its processor" in found.found
    assert "gpubench doctor --card" in found.remedy
    assert doctor.card(Here([A_CARD])).state == "ok"


@pytest.mark.parametrize(
    ("vendor", "kind", "state"),
    [
        ("0x10de", "0x030000", "problem"),
        ("0x10de", "0x030200", "problem"),  # "3D controller": a card without a display
        ("0x10de", "0x040300", "note"),  # the sound of a card that is passed to another machine
        ("0x1002", "0x030000", "note"),
    ],
)
def test_a_card_on_the_bus_without_a_driver_is_a_problem(
    tmp_path, monkeypatch, vendor, kind, state
):
    folder = tmp_path / "0000:01:00.0"
    folder.mkdir()
    (folder / "vendor").write_text(f"{vendor}\n")
    (folder / "class").write_text(f"{kind}\n")
    monkeypatch.setattr(doctor, "PCI", tmp_path)
    found = doctor.card(Here([]))
    assert found.state == state
    assert ("modprobe nvidia" in found.remedy) == (state == "problem")


def test_a_sound_card_of_nvidias_before_its_graphics_hides_nothing(tmp_path, monkeypatch):
    for name, kind in (("0000:01:00.1", "0x040300"), ("0000:01:00.0", "0x030000")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "vendor").write_text("0x10de\n")
        (tmp_path / name / "class").write_text(kind)
    monkeypatch.setattr(doctor, "PCI", tmp_path)
    assert doctor.card(Here([])).state == "problem"


@pytest.mark.parametrize(
    ("governors", "state", "words"),
    [
        (["performance", "performance"], "ok", "performance"),
        (["performance", "powersave"], "note", "performance, powersave"),
        ([], "ok", "doesn't tell"),
    ],
)
def test_a_governor_that_follows_the_load_is_noted(tmp_path, monkeypatch, governors, state, words):
    for number, name in enumerate(governors):
        folder = tmp_path / f"cpu{number}" / "cpufreq"
        folder.mkdir(parents=True)
        (folder / "scaling_governor").write_text(f"{name}\n")
    monkeypatch.setattr(doctor, "CORES", tmp_path)
    found = doctor.governor(Here([]))
    assert found.state == state
    assert words in found.found
    assert ("cpupower" in found.remedy) == (state == "note")


@pytest.mark.parametrize(
    ("foreign", "steal", "state"),
    [(0.02, 0.0, "ok"), (0.3, 0.0, "note"), (0.01, 0.2, "note"), (None, None, "ok")],
)
def test_a_machine_that_others_use_is_noted(monkeypatch, foreign, steal, state):
    class Load:
        def __enter__(self):
            return SimpleNamespace(foreign=foreign, steal=steal)

        def __exit__(self, *_):
            return

    monkeypatch.setattr(doctor, "HostLoad", Load)
    monkeypatch.setattr(doctor, "LOAD_S", 0)
    assert doctor.load(Here([])).state == state


@pytest.mark.parametrize(("free", "state"), [(2**30, "note"), (16 * 2**30, "ok")])
def test_little_memory_is_noted(monkeypatch, free, state):
    fake = SimpleNamespace(virtual_memory=lambda: SimpleNamespace(available=free))
    monkeypatch.setattr(doctor, "psutil", fake)
    assert doctor.memory(Here([])).state == state


@pytest.mark.parametrize(("free", "state"), [(2**20, "problem"), (2**34, "ok")])
def test_a_full_disk_is_a_problem(monkeypatch, tmp_path, free, state):
    Usage = namedtuple("Usage", "free")  # noqa: PYI024 - as psutil's
    asked = []
    fake = SimpleNamespace(disk_usage=lambda path: asked.append(path) or Usage(free))
    monkeypatch.setattr(doctor, "psutil", fake)
    assert doctor.disk(Here([], str(tmp_path / "not" / "yet.parquet"))).state == state
    assert asked == [str(tmp_path)]


def test_a_folder_that_cannot_be_written_is_a_problem(monkeypatch, tmp_path):
    here = Here([], str(tmp_path / "not" / "yet"))
    assert doctor.results(here).state == "ok"
    assert list(tmp_path.iterdir()) == []

    def refused(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", refused)
    found = doctor.results(here)
    assert found.state == "problem"
    assert "Permission denied" in found.found
    assert "-o" in found.remedy


# --- the software -------------------------------------------------------------------------------


def a_torch(cuda="13.0", built=("sm_80", "sm_86")):
    return SimpleNamespace(
        __version__="2.13.0",
        version=SimpleNamespace(cuda=cuda),
        cuda=SimpleNamespace(get_arch_list=lambda: list(built)),
        get_num_threads=lambda: 2,
    )


def with_torch(monkeypatch, torch):
    imported = doctor.import_module

    def instead(name):
        if name != "torch":
            return imported(name)
        if isinstance(torch, Exception):
            raise torch
        return torch

    monkeypatch.setattr(doctor, "import_module", instead)


@pytest.mark.parametrize(
    ("torch", "card", "state", "words", "remedy"),
    [
        (a_torch(), A_CARD, "ok", "for CUDA 13.0: sm_80, sm_86", ""),
        (a_torch(built=("sm_90",)), A_CARD, "problem", "no kernels", "--force-reinstall"),
        (a_torch(cuda=None), A_CARD, "problem", "without CUDA", "--force-reinstall"),
        (a_torch(), replace(A_CARD, driver="535.1"), "problem", "580 or newer", "cu126"),
        (ModuleNotFoundError("torch"), A_CARD, "problem", "not installed", "cuda13"),
        (
            ModuleNotFoundError("torch"),
            None,
            "note",
            "read results",
            "--index-url https://download.pytorch.org/whl/cpu && pip install -e '.[run]'",
        ),
        (OSError("libcudnn.so.9: cannot open"), A_CARD, "problem", "libcudnn", "pip install"),
        (OSError("libcudnn.so.9: cannot open"), None, "problem", "can't be loaded", "pip install"),
        (a_torch(cuda=None), None, "ok", "2 threads", ""),
        (a_torch(built=()), replace(A_CARD, compute_capability=None), "ok", "doesn't tell", ""),
    ],
)
def test_each_fault_of_torch_is_found(monkeypatch, torch, card, state, words, remedy):
    with_torch(monkeypatch, torch)
    found = doctor.torch_build(Here([card] if card else []), card)
    assert (found.state, words in found.found) == (state, True), found
    assert remedy in found.remedy


@pytest.mark.parametrize(
    ("installed", "card", "state", "words"),
    [
        ({}, None, "ok", "not needed"),
        ({}, A_CARD, "note", "not installed"),
        ({"cupy-cuda13x": "14.0"}, A_CARD, "ok", "cupy-cuda13x 14.0"),
        ({"cupy-cuda12x": "14.0"}, A_CARD, "problem", "two CUDA majors"),
        ({"cupy-cuda12x": "1", "cupy-cuda13x": "2"}, A_CARD, "problem", "both installed"),
        ({"cupy-cuda12x": "14.0"}, None, "ok", "cupy-cuda12x 14.0"),
    ],
)
def test_each_fault_of_cupy_is_found(monkeypatch, installed, card, state, words):
    with_torch(monkeypatch, a_torch())
    monkeypatch.setattr(stack, "installed_cupy", lambda: installed)
    found = doctor.cupy(Here([]), card)
    assert (found.state, words in found.found) == (state, True), found
    assert ("pip" in found.remedy) == (state != "ok")


class Compiler(ModuleType):
    """As much of cupy.cuda.nvrtc as is called; it knows some architectures."""

    def __init__(self, known):
        super().__init__("cupy.cuda.nvrtc")
        self.NVRTCError = type("NVRTCError", (Exception,), {})
        self.known = known

    def createProgram(self, source, name, headers, include_names):  # noqa: N802 - as CuPy calls it
        assert "__global__" in source
        return "a program"

    def compileProgram(self, program, options):  # noqa: N802
        if options[0].removeprefix("-arch=") not in self.known:
            raise self.NVRTCError("NVRTC_ERROR_INVALID_OPTION (5)")

    def getVersion(self):  # noqa: N802
        return 13, 0


@pytest.mark.parametrize(
    ("installed", "compiler", "state", "words", "remedy"),
    [
        ({}, None, "ok", "not needed", ""),
        ({"cupy-cuda13x": "14"}, Compiler({"sm_86"}), "ok", "NVRTC 13.0 makes code for sm_86", ""),
        ({"cupy-cuda13x": "14"}, Compiler({"sm_75"}), "problem", "no code for sm_86", "pip"),
        (
            {"cupy-cuda13x": "14"},
            ImportError("libnvrtc.so.13: cannot open shared object file"),
            "problem",
            "libnvrtc",
            "cupy-cuda13x[ctk]",
        ),
    ],
)
def test_a_compiler_that_makes_no_code_for_the_card_is_found(
    monkeypatch, installed, compiler, state, words, remedy
):
    def imported(name):
        if isinstance(compiler, Exception):
            raise compiler
        return compiler if name == "cupy.cuda.nvrtc" else a_torch()

    with_torch(monkeypatch, a_torch())
    here = Here([A_CARD])
    assert here.torch
    monkeypatch.setattr(doctor, "import_module", imported)
    monkeypatch.setattr(stack, "installed_cupy", lambda: installed)
    found = doctor.compiler(here, A_CARD)
    assert (found.state, words in found.found) == (state, True), found
    assert remedy in found.remedy


# --- all of them --------------------------------------------------------------------------------


@pytest.fixture
def no_cards(monkeypatch):
    monkeypatch.setattr(_nvml, "devices", list)
    monkeypatch.setattr(_health, "checks", lambda name: iter(()))
    monkeypatch.setattr(doctor, "LOAD_S", 0)
    with_torch(monkeypatch, a_torch(cuda=None))


def test_every_check_is_announced_before_it_runs_and_named_in_what_it_finds(no_cards):
    announced = []
    found = []
    for finding in doctor.examine("auto", announce=announced.append):
        found.append(finding.check)
        assert announced[-1] == finding.check
    assert found == [*doctor.MACHINE, *doctor.SOFTWARE] == announced


def test_a_check_that_fails_is_a_finding_without_the_names_of_this_machine(monkeypatch, tmp_path):
    def fails():
        raise RuntimeError(f"cannot open {tmp_path}/secret/file")

    found = doctor._safely(Check("cuda:0", "odd", fails))
    assert (found.check, found.device, found.state) == ("odd", "cuda:0", "note")
    assert "RuntimeError" in found.found
    assert str(tmp_path) not in found.found


def test_a_virtual_device_says_that_it_is_one(no_cards):
    found = {one.check: one for one in doctor.examine("virtual:tesla-t4,noise=0.1")}
    assert found["device"].state == "note"
    assert "Tesla T4 (virtual)" in found["device"].found
    assert "never what a card does" in found["device"].found


def test_a_device_that_is_not_here_or_of_no_backend_is_refused(no_cards, capsys):
    with pytest.raises(UsageError, match="no device is named 'tpu:0'"):
        list(doctor.examine("tpu:0"))
    with pytest.raises(UsageError, match="no cuda:7 here"):
        list(doctor.examine("cuda:7"))
    assert main(["doctor", "--device", "virtual:no-such-card"]) == errors.EXIT_USAGE


@pytest.mark.parametrize(
    ("found", "status", "said"),
    [([ok("fine")], 0, ""), ([ok("fine"), problem("bad", "mend it")], 4, "1 problem\n")],
)
def test_a_problem_and_nothing_less_is_exit_status_4(monkeypatch, capsys, found, status, said):
    monkeypatch.setattr(doctor, "examine", lambda *_: iter(found))
    assert main(["doctor", "--format", "json"]) == status
    out, err = capsys.readouterr()
    assert err == said
    assert [row["state"] for row in json.loads(out)["rows"]] == [one.state for one in found]


def test_a_check_that_takes_long_is_named_on_standard_error(monkeypatch, capsys):
    import time

    from gpubench.verbs import doctor as verb

    def slowly(device, output, announce):
        announce("quick one")
        announce("slow one")
        time.sleep(0.3)
        yield ok("done")

    monkeypatch.setattr(verb, "PATIENCE_S", 0.05)
    monkeypatch.setattr(doctor, "examine", slowly)
    assert main(["doctor"]) == 0
    assert capsys.readouterr().err == "still checking: slow one …\nfit to measure\n"


@pytest.mark.parametrize(
    ("finding", "reason"),
    [
        (ok("fine"), ""),
        (Finding("note", "follow the load", "cpupower", "governor"), ""),
        (Finding("note", "can't be checked here: OSError", "", "load"), ""),
        (
            Finding("note", "other processes take 97% of the processor; from …", "wait", "load"),
            "load (other processes take 97% of the processor)",
        ),
        (Finding("note", "not installed", "pip", "torch"), "torch (not installed)"),
        (
            Finding("problem", "2 on it", "wait", "other processes", "cuda:0"),
            "cuda:0 other processes (2 on it)",
        ),
    ],
)
def test_it_concludes_whether_the_machine_is_fit_to_measure(monkeypatch, capsys, finding, reason):
    monkeypatch.setattr(doctor, "examine", lambda *_: iter([ok("fine"), finding]))
    said = f"not fit to measure now: {reason}" if reason else "fit to measure"
    main(["doctor"])
    assert capsys.readouterr().err.splitlines()[-1] == said
    main(["doctor", "--format", "json"])
    envelope = json.loads(capsys.readouterr().out)
    assert (envelope["fit"], envelope["conclusion"]) == (not reason, said)


# --- whatever the management library says ---------------------------------------------------------

ANYTHING = (
    st.none()
    | st.integers(-(2**63), 2**64)
    | st.floats()
    | st.text(max_size=5)
    | st.lists(st.integers(0, 3), max_size=3)
    | st.builds(
        SimpleNamespace,
        total=st.integers(0, 2**64),
        free=st.integers(0, 2**64),
        used=st.integers(0, 2**64),
        bar1Total=st.integers(0, 2**64),
    )
)


class Oracle:
    """A library of which every function tells anything."""

    def __init__(self, data):
        self.data = data

    def __getattr__(self, name):
        if not name.startswith("nvml"):
            return 1
        return lambda *arguments: self.data.draw(ANYTHING)


@given(st.data(), st.sampled_from(sorted(_health.CHECKS)))
def test_no_answer_of_the_library_ends_an_examination(data, name):
    sensors = _nvml.Sensors(Oracle(data), "handle", data.draw(st.sampled_from([None, "card"])))
    subject = _health.Subject(
        A_CARD, data.draw(st.sampled_from([None, catalogue()["tesla-t4"]])), sensors
    )
    found = doctor._safely(Check("cuda:0", name, lambda: _health.CHECKS[name](subject)))
    assert found.state in {"ok", "note", "problem"}
    assert found.found
    assert (found.check, found.device) == (name, "cuda:0")


def asked(card, **answers):
    """A card with this row of the catalogue, whose library tells these things and no other."""
    told = {
        f"nvmlDeviceGet{name}": lambda handle, value=value: value for name, value in answers.items()
    }
    return _health.Subject(A_CARD, card, _nvml.Sensors(SimpleNamespace(**told), "handle", None))


def test_a_card_of_the_catalogue_is_known_by_it_and_so_is_its_slot():
    link = {"CurrPcieLinkWidth": 16, "MaxPcieLinkWidth": 16, "MaxPcieLinkGeneration": 2}
    t4 = catalogue()["tesla-t4"]
    assert _health.in_catalogue(asked(t4)) == ok(f"{A_CARD.card} is tesla-t4")
    found = _health.pcie(asked(t4, **link))
    assert (found.state, "could do generation 3" in found.found) == ("note", True)
    assert _health.pcie(asked(None, **link)).state == "ok"


def test_the_double_of_torch_is_like_torch():
    torch = pytest.importorskip("torch", reason="compares the double with torch")
    fake = a_torch()
    assert isinstance(torch.cuda.get_arch_list(), list)
    assert hasattr(torch, "get_num_threads")
    assert hasattr(torch.version, "cuda")
    assert fake.version.cuda
    assert sys.modules["torch"] is torch


@pytest.mark.parametrize(
    ("device", "finding", "said"),
    [
        (
            "cpu",
            Finding("note", "others take 97%; from …"),
            "this machine is busy: others take 97%;",
        ),
        ("cpu", ok("others take 1%"), ""),
        ("virtual:tesla-t4", Finding("note", "others take 97%; from …"), ""),
    ],
)
def test_a_run_says_beforehand_that_the_machine_is_busy(
    monkeypatch, capsys, tmp_path, device, finding, said
):
    from gpubench import console

    monkeypatch.setattr(doctor, "load", lambda here: finding)
    follow = console.follow
    monkeypatch.setattr(console, "follow", lambda execution, notice: follow(NoCases(), notice))
    assert main(["run", "--device", device, "-o", str(tmp_path)]) == 0
    opening, *rest = capsys.readouterr().err.splitlines()
    assert opening.startswith("opening")
    assert [line[: len(said)] for line in rest if "busy" in line] == ([said] if said else [])


class NoCases:
    """A run of a single event."""

    device = "cpu"

    def __iter__(self):
        yield Started("a case", 1, 1, 1, 1.0, 1.0)
