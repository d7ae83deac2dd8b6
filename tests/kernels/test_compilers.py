"""Which compiler is taken, what is skipped without one, and that no rung is skipped with one."""

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rungs import compilers, elf

ROOT = Path(__file__).parents[2]
ON_CPU, STUB = "tests/kernels/test_on_cpu.py::test_one", "tests/nvml/test_nvml.py::test_one"
SANITIZER = "tests/kernels/test_sanitizers.py::test_one"


@pytest.fixture
def machine(monkeypatch):
    """A machine with these programs and packages."""

    def has(*names, platform="linux"):
        monkeypatch.setattr(sys, "platform", platform)
        monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}" if name in names else None)
        monkeypatch.setattr(
            "importlib.util.find_spec", lambda name: name if name in names else None
        )
        return compilers.command("g++", "c++")

    return has


def test_the_systems_compiler_comes_first_then_zigs_then_none(machine):
    assert machine("g++", "ziglang") == ("/bin/g++",)
    assert machine("ziglang")[:4] == (sys.executable, "-m", "ziglang", "c++")
    assert machine() == ()
    assert machine("g++", "ziglang", platform="darwin") == ()  # its libraries are no ELF files


@pytest.mark.parametrize(
    ("here", "ran", "skipped", "idle"),
    [
        (("/bin/g++",), {ON_CPU, STUB, SANITIZER}, set(), []),
        (("/bin/g++",), {ON_CPU}, {STUB, SANITIZER}, ["rung 2", "rung 5's sanitizers"]),
        (("/bin/g++",), {STUB}, {ON_CPU}, ["rung 5"]),
        (("/bin/g++",), {"tests/unit/test_run.py::test_one"}, set(), []),  # nobody asked for them
        (("python", "-m", "ziglang"), {STUB, ON_CPU}, {SANITIZER}, []),
        (("python", "-m", "ziglang"), set(), {ON_CPU}, ["rung 5"]),
        ((), set(), {ON_CPU, STUB, SANITIZER}, []),
    ],
)
def test_a_rung_that_tested_nothing_though_it_could_have_is_named(
    monkeypatch, here, ran, skipped, idle
):
    monkeypatch.setattr(compilers, "C", here)
    monkeypatch.setattr(compilers, "CPP", here)
    monkeypatch.setattr(compilers, "IS_GNU", len(here) == 1)
    assert compilers.unproven(ran, skipped) == idle


def test_a_run_that_skipped_a_rung_though_its_compiler_is_here_fails(tmp_path):
    if not compilers.CPP:
        pytest.skip(compilers.MISSING)
    for path in compilers.RUNGS.values():
        assert (ROOT / path).exists()
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path)
    folder = tmp_path / "tests" / "kernels"
    folder.mkdir(parents=True)
    skips = "import pytest\n\ndef test_one():\n    pytest.skip('as if there were none')\n"
    (folder / "test_on_cpu.py").write_text(skips)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "nothing was tested of rung 5, though a compiler is here" in done.stdout


def test_a_librarys_symbols_are_those_that_the_compiler_gave_it(tmp_path):
    if not compilers.C:
        pytest.skip(compilers.MISSING)
    source, library = tmp_path / "one.c", tmp_path / "one.so"
    source.write_text("int here[3]; int answer(void) { static char of[7]; return of[here[0]]; }")
    subprocess.run([*compilers.C, "-O0", "-shared", "-fPIC", source, "-o", library], check=True)
    found = elf.symbols(library)
    assert found["here"][1] == 12
    assert any("of" in name and size == 7 for name, (_, size) in found.items())
    loaded = ctypes.CDLL(str(library))
    distance = ctypes.addressof(ctypes.c_int.in_dll(loaded, "here")) - address(loaded.answer)
    assert distance == found["here"][0] - found["answer"][0]


def address(function):
    return ctypes.cast(function, ctypes.c_void_p).value
