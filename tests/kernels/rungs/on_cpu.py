"""Rung 5: the very same .cu text as a library for this processor, and a launch of its kernels."""

import contextlib
import ctypes
import subprocess
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from pathlib import Path

import numpy as np

from gpubench.program import THREADS, Program
from rungs import compilers, elf

HERE = Path(__file__).parent
# Without -fno-gnu-unique and with visible symbols all libraries of a process would share the
# variables of one template, the __shared__ ones among them, and hide each other's races.
FLAGS = ("-std=c++17", "-O1", "-g1", "-fPIC", "-fvisibility=hidden")
FLAGS += ("-fno-gnu-unique",) if compilers.IS_GNU else ("-Wno-unused-const-variable",)
SANITIZERS = {
    "none": ((), ()),
    "thread": (("-fsanitize=thread",), ("-DWITH_TSAN",)),
    "address": (
        ("-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
        ("-DWITH_ASAN",),
    ),
}
ORDERS = {"forward": 0, "backward": 1, "random": 2}


@dataclass(frozen=True)
class Schedule:
    """An order in which threads that could go on do so; every seed is another random one."""

    order: str
    seed: int = 0


FORWARD, BACKWARD = Schedule("forward"), Schedule("backward")


def random_schedules(count: int) -> list[Schedule]:
    return [Schedule("random", seed) for seed in range(count)]


class DoesNotCompile(Exception):
    """What the compiler said."""


def compiled(command: list[str]) -> None:
    done = subprocess.run([*compilers.CPP, *command], capture_output=True, text=True)
    if done.returncode:
        raise DoesNotCompile(f"{' '.join(command)}:\n{done.stderr}")


@cache
def scheduler(folder: Path, sanitizer: str) -> Path:
    """The part that every library has, compiled once."""
    made = folder / f"scheduler-{sanitizer}.o"
    only = SANITIZERS[sanitizer][1]
    compiled([*FLAGS, "-Wall", "-Wextra", *only, "-c", f"{HERE}/cuda_on_cpu.cpp", "-o", f"{made}"])
    return made


def build(program: Program, folder: Path, sanitizer: str = "none") -> Path:
    """A library of a program's kernels."""
    text = program.source()
    stem = "-".join([*program.name.split(), sanitizer, sha256(text.encode()).hexdigest()[:8]])
    source, library = folder / f"{stem}.cu", folder / f"{stem}.so"
    source.write_text(text)
    macros = [f"-D{name}={value}" for name, value in program.macros.items()]
    compiled(
        [
            *(*FLAGS, "-shared", "-Wall", "-Wextra", "-Wno-unknown-pragmas", *macros),
            *SANITIZERS[sanitizer][0],
            *("-include", f"{HERE}/cuda_on_cpu.h", "-o", f"{library}"),
            *(f"{scheduler(folder, sanitizer)}", "-x", "c++", f"{source}"),
        ]
    )
    return library


@dataclass
class Library:
    """A built library, ready to launch."""

    path: Path
    binary: ctypes.CDLL = field(init=False)

    def __post_init__(self) -> None:
        self.binary = ctypes.CDLL(str(self.path))
        self.binary.launch.restype = ctypes.c_char_p
        symbols = elf.symbols(self.path)
        base = ctypes.cast(self.binary.launch, ctypes.c_void_p).value - symbols["launch"][0]
        # A variable that is static inside a function is one that was __shared__; those of functions
        # in a namespace (_ZZN) are the C++ library's, where that is part of this one.
        for name, (offset, size) in symbols.items():
            if name.startswith("_ZZ") and not name.startswith("_ZZN"):
                self.binary.add_shared(ctypes.c_void_p(base + offset), ctypes.c_size_t(size))

    def launch(
        self,
        kernel: str,
        grid: tuple[int, ...],
        arguments: tuple[int, ...],
        schedule: Schedule,
        only: int = -1,
    ) -> None:
        """Run all blocks of a kernel to their end, or ``only`` the one of a number.

        Raises:
            AssertionError: threads wait for each other in vain, or break a rule of CUDA's.
        """
        problem = self.binary.launch(
            ctypes.cast(self.binary[kernel], ctypes.c_void_p),
            (ctypes.c_uint * 3)(*grid, *[1] * (3 - len(grid))),
            (ctypes.c_uint * 3)(THREADS, 1, 1),
            (ctypes.c_uint64 * 6)(*arguments),
            ORDERS[schedule.order],
            schedule.seed,
            ctypes.c_longlong(only),
        )
        assert problem is None, f"{kernel}: {problem.decode()}"


class Memory:
    """An array behind ``offset`` elements, and nothing around it: a sanitizer sees both ends."""

    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    libc.malloc.argtypes = (ctypes.c_size_t,)
    libc.free.argtypes = (ctypes.c_void_p,)

    def __init__(self, values: np.ndarray, offset: int = 0) -> None:
        skipped = offset * values.itemsize
        self._block = self.libc.malloc(max(1, skipped + values.nbytes))
        self.address = self._block + skipped
        self._like = values
        ctypes.memmove(self.address, values.ctypes.data, values.nbytes)
        with contextlib.suppress(AttributeError):  # only there under the sanitizer
            self.libc.__asan_poison_memory_region(
                ctypes.c_void_p(self._block), ctypes.c_size_t(skipped)
            )

    def read(self) -> np.ndarray:
        found = np.empty_like(self._like)
        ctypes.memmove(found.ctypes.data, self.address, found.nbytes)
        return found

    def __del__(self) -> None:
        self.libc.free(self._block)
