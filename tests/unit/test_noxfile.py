"""What the routines choose before anything is installed: PyTorch by the cards and their driver."""

import contextlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from gpubench import stack
from gpubench.cards import catalogue

NOXFILE = Path(__file__).parents[2] / "noxfile.py"


@pytest.fixture
def noxfile(monkeypatch):
    """The file as nox loads it, with nothing of nox but what it asks for at once."""
    double = SimpleNamespace(
        options=SimpleNamespace(),
        session=lambda function=None, **given: function or (lambda later: later),
        Session=object,
    )
    monkeypatch.setitem(sys.modules, "nox", double)
    monkeypatch.setattr(sys, "path", [*sys.path])
    spec = importlib.util.spec_from_file_location("noxfile", NOXFILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def with_cards(noxfile, monkeypatch, *cards, status=0):
    """Let nvidia-smi show these compute capabilities and drivers."""
    lines = "".join(f"{capability}, {driver}\n" for capability, driver in cards)

    def run(command, **options):
        assert command[1:] == ["--query-gpu=compute_cap,driver_version", "--format=csv,noheader"]
        return SimpleNamespace(stdout=lines, returncode=status)

    monkeypatch.setattr(noxfile.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(noxfile.subprocess, "run", run)
    monkeypatch.setattr(noxfile.sys, "platform", "linux")


@pytest.mark.parametrize(
    "routine",
    [
        *("bench", "tests", "coverage", "results", "agreement", "telemetry_cost", "mutations"),
        *("validate_memory", "verdict_study", "validate_prediction", "time_to_precision"),
        *("efficiency", "verification_matrix"),
    ],
)
def test_the_list_of_routines_says_which_take_minutes(noxfile, routine):
    """`noxfile.py -l` shows the first line."""
    assert "minute" in getattr(noxfile, routine).__doc__.partition("\n")[0]


def test_the_torch_of_a_processor_is_the_one_that_gpubench_names(noxfile, monkeypatch, tmp_path):
    """One release for everybody, so that numbers of processors can be compared."""
    asked = []
    monkeypatch.setattr(noxfile, "accelerator", lambda: None)
    monkeypatch.setattr(noxfile, "pypi_torch_is_cpu_only", lambda: False)
    monkeypatch.setattr(noxfile, "pip", lambda *words, **options: asked.append(words) or "")
    monkeypatch.setattr(noxfile, "call", lambda *words: "2.13.0+cpu\n")
    monkeypatch.setattr(noxfile, "make_environment", lambda: None)
    for name in ("INSTALLED", "CONSTRAINTS"):
        monkeypatch.setattr(noxfile, name, tmp_path / name)
    for release in (stack.TORCH_CPU, stack.TORCH_CPU, "torch==9.9"):
        monkeypatch.setattr(stack, "TORCH_CPU", release)
        noxfile.ready("run")
    taken = [words for words in asked if f"{words[-1]}".startswith("torch==")]
    assert [words[-1] for words in taken] == ["torch==2.13.0+cpu", "torch==9.9+cpu"]
    assert all(stack.TORCH_CPU_INDEX in words for words in taken)


@pytest.mark.parametrize("driver", ["550.54.15", "580.65.06"])
@pytest.mark.parametrize("card_id", sorted(catalogue()))
def test_a_card_gets_the_build_that_gpubench_names_for_it(noxfile, monkeypatch, card_id, driver):
    major, minor = capability = catalogue()[card_id].capability
    with_cards(noxfile, monkeypatch, (f"{major}.{minor}", driver))
    assert noxfile.accelerator() == stack.build_for(capability, stack.major(driver))


@pytest.mark.parametrize(
    ("cards", "build"),
    [
        ([("8.6", "580.1"), ("6.1", "580.1")], "cu126"),  # serves both; PyPI's only the first
        ([("9.0", "580.1"), ("7.5", "580.1")], "pypi"),
        ([("8.9", "550.1"), ("3.5", "550.1")], "cu126"),  # nothing serves the other
        ([("12.0", "580.1"), ("6.1", "580.1")], "pypi"),  # nothing serves both
        ([("6.1", "580.1"), ("12.0", "580.1")], "cu126"),
        ([("3.5", "470.1")], None),
        ([("[N/A]", "580.1")], "pypi"),
        ([], None),
    ],
)
def test_all_cards_are_served_where_a_build_does(noxfile, monkeypatch, cards, build):
    with_cards(noxfile, monkeypatch, *cards)
    found = noxfile.accelerator()
    assert (found and found.build) == build


def test_without_a_driver_that_answers_it_is_the_cpus(noxfile, monkeypatch):
    with_cards(noxfile, monkeypatch, ("No devices were found", "x"), status=6)
    assert noxfile.accelerator() is None
    monkeypatch.setattr(noxfile.shutil, "which", lambda name: None)
    assert noxfile.accelerator() is None


def test_a_build_comes_from_its_index_and_with_its_extra(noxfile, monkeypatch, tmp_path):
    asked = []
    with_cards(noxfile, monkeypatch, ("6.1", "580.1"))
    monkeypatch.setattr(noxfile, "pip", lambda *words, **options: asked.append(words))
    monkeypatch.setattr(noxfile, "call", lambda *words: "2.14.0+cu126\n")
    monkeypatch.setattr(noxfile, "make_environment", lambda: None)
    for name in ("INSTALLED", "CONSTRAINTS"):
        monkeypatch.setattr(noxfile, name, tmp_path / name)
    noxfile.ready("run")
    index = "https://download.pytorch.org/whl/cu126"
    assert asked[1] == ("install", "torch<2.15", "--index-url", index)
    assert asked[2][-1] == ".[cuda12,run]"


@pytest.mark.parametrize(
    ("here", "platform", "needs", "words"),
    [
        (("gcc", "g++"), "linux", ("run", "test"), ""),
        (("gcc",), "linux", ("run", "test", "compiler"), "g++ missing"),
        ((), "linux", ("run", "test", "compiler"), "apt install gcc g++"),
        ((), "darwin", ("run", "test"), ""),
    ],
)
def test_without_a_compiler_one_comes_from_the_index_and_that_is_said(
    noxfile, monkeypatch, capsys, here, platform, needs, words
):
    monkeypatch.setattr(noxfile.shutil, "which", lambda name: name if name in here else None)
    monkeypatch.setattr(noxfile.sys, "platform", platform)
    assert noxfile.needs_of_tests() == needs
    said = capsys.readouterr().err
    assert words in said
    assert bool(said) == bool(words)


def test_the_choice_needs_nothing_installed():
    code = "import sys; sys.path.insert(0, 'bench'); from gpubench import stack; stack.builds()"
    subprocess.run([sys.executable, "-I", "-S", "-c", code], cwd=NOXFILE.parent, check=True)


@pytest.mark.parametrize(
    ("writes", "fails", "reported"),
    [
        (["new"], False, ["new"]),
        (["new"], True, ["new"]),  # what it measured before it failed
        (["old"], False, ["old"]),  # --resume
        ([], False, []),  # --dry-run
    ],
)
def test_the_bench_reports_its_own_result_alone_and_says_what_to_type_next(
    noxfile, monkeypatch, tmp_path, capsys, writes, fails, reported
):
    folder, calls = tmp_path / "results", []
    folder.mkdir()
    for name in ("committed", "old"):
        path = folder / f"{name}.parquet"
        path.touch()
        os.utime(path, (0, 0))

    def gpubench(session, verb, *words):
        calls.append((verb, *words))
        if verb == "run":
            for name in writes:
                (folder / f"{name}.parquet").write_bytes(b"rows")
            if fails:
                raise RuntimeError

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(noxfile, "gpubench", gpubench)
    monkeypatch.setattr(noxfile, "ready", lambda *extras: None)
    with pytest.raises(RuntimeError) if fails else contextlib.nullcontext():
        noxfile.bench(SimpleNamespace(posargs=[]))
    files = [f"results/{name}.parquet" for name in reported]
    assert calls[1:] == [("report", *files, "-o", "reports/index.html")] * bool(files)
    said = capsys.readouterr().err
    assert all(f". .venv/bin/activate`, then `gpubench show {file}`" in said for file in files)
    assert bool(said) == bool(files)
