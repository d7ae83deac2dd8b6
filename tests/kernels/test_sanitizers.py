"""Rung 5 under sanitizers: races in whatever order, and every access to memory."""

import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest

from rungs import child


@pytest.fixture(scope="module")
def complaint(build_all):
    """What each mode finds in all programs; two modes at a time."""
    if shutil.which("setarch") is None:
        pytest.skip("needs setarch, which fixes addresses for the sanitizers")
    built = {kind: build_all(kind) for kind in ("thread", "address")}

    def climb(mode):
        paths = built[child.MODES[mode][0]]
        return child.complaint(mode, {path: name for name, path in paths.items()})

    with ThreadPoolExecutor(2) as pool:
        asked = {mode: pool.submit(climb, mode) for mode in ("thread", "blocks", "address")}
    return lambda mode: asked[mode].result()


@pytest.mark.parametrize("mode", ["thread", "blocks", "address"])
def test_the_sanitizer_finds_nothing(complaint, mode):
    assert complaint(mode) is None, complaint(mode)
