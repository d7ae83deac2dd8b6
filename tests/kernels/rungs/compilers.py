"""Compilers for this processor: the system's own, else zig's from PyPI.

zig's is a clang with a C library beside it, so it needs nothing else of the machine. The
sanitizers' runtimes are in it for programs only, and Python is none that it has compiled.
"""

import importlib.util
import shutil
import sys

MISSING = (
    "needs gcc and g++ (Debian and Ubuntu: apt install gcc g++) or the extra `compiler`, on Linux"
)
NO_RUNTIME = "needs g++: zig's compiler brings no sanitizer that a running Python can load"

# What a run should not end without having tested, where there is a compiler.
RUNGS = {
    "rung 2": "tests/nvml/",
    "rung 5": "tests/kernels/test_on_cpu.py",
    "rung 5's sanitizers": "tests/kernels/test_sanitizers.py",
}


def command(own: str, zig: str) -> tuple[str, ...]:
    """``own`` where it is installed, else zig's by the name that it has there, else nothing."""
    if sys.platform != "linux":
        return ()
    if found := shutil.which(own):
        return (found,)
    if importlib.util.find_spec("ziglang"):
        # Checks of undefined behaviour are rung 5's `address` run, and not on by default there.
        return (sys.executable, "-m", "ziglang", zig, "-fno-sanitize=undefined")
    return ()


C, CPP = command("gcc", "cc"), command("g++", "c++")
IS_GNU = len(CPP) == 1


def unproven(ran: set[str], skipped: set[str]) -> list[str]:
    """The rungs of which every test was skipped, though their compiler is here.

    Args:
        ran: tests that were run, by their path and name.
        skipped: tests that were not.
    """
    found = []
    for rung, path in RUNGS.items():
        able = C if rung == "rung 2" else CPP and (IS_GNU or "sanitizers" not in rung)
        was_asked = any(name.startswith(path) for name in skipped)
        if able and was_asked and not any(name.startswith(path) for name in ran):
            found.append(rung)
    return found
