"""What the rungs share: what was built and compiled, kept for the session."""

import importlib.metadata
from concurrent.futures import ThreadPoolExecutor

import pytest

from rungs import compilers, compiling, machine_code, on_cpu
from rungs.programs import PROGRAMS


@pytest.fixture(scope="session")
def build_folder(tmp_path_factory):
    if not compilers.CPP:
        pytest.skip(compilers.MISSING)
    return tmp_path_factory.mktemp("kernels")


@pytest.fixture(scope="session")
def build_all(build_folder):
    """All programs' libraries of a kind, by name, built two at a time."""

    def build(sanitizer):
        on_cpu.scheduler(build_folder, sanitizer)
        with ThreadPoolExecutor(2) as pool:
            building = {
                name: pool.submit(on_cpu.build, program, build_folder, sanitizer)
                for name, program in PROGRAMS.items()
            }
        return {name: future.result() for name, future in building.items()}

    return build


@pytest.fixture(scope="session")
def library(build_all):
    """A program's library by its name."""
    built = {name: on_cpu.Library(path) for name, path in build_all("none").items()}
    return built.__getitem__


def require(package):
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"needs {package}, which the extra `test` installs on Linux")


@pytest.fixture(scope="session")
def compiled():
    """Every program for every architecture, by both names."""
    require(compiling.PACKAGE)
    return compiling.compile_all(list(PROGRAMS.values()))


@pytest.fixture(scope="session")
def figures(compiled):
    """What the machine code of each says."""
    require(machine_code.DISASSEMBLER)
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(compiled, pool.map(machine_code.figures, compiled.values()), strict=True))
