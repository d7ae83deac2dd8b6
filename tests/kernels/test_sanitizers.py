"""Rung 5 under sanitizers: races in whatever order, and every access to memory."""

import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest

from rungs import child, compilers
from rungs.programs import PROGRAMS


@pytest.fixture(scope="module")
def complaint(build_all):
    """What each mode finds in all programs; two modes at a time."""
    if not compilers.IS_GNU:
        pytest.skip(compilers.NO_RUNTIME if compilers.CPP else compilers.MISSING)
    if shutil.which("setarch") is None:
        pytest.skip("needs setarch, which fixes addresses for the sanitizers")
    built = {kind: build_all(kind) for kind in ("thread", "address")}

    def climb(mode, names):
        paths = built[child.MODES[mode][0]]
        return child.complaint(mode, {paths[name]: name for name in names})

    # The thread sanitizer takes 8128 threads in a process; a program has 1024 at most.
    parts = [list(PROGRAMS)[start::3] for start in range(3)]
    with ThreadPoolExecutor(2) as pool:
        asked = {
            mode: [pool.submit(climb, mode, names) for names in parts]
            for mode in ("thread", "blocks", "address")
        }
    return lambda mode: "".join(filter(None, (part.result() for part in asked[mode])))


@pytest.mark.parametrize("mode", ["thread", "blocks", "address"])
def test_the_sanitizer_finds_nothing(complaint, mode):
    assert complaint(mode) == ""
