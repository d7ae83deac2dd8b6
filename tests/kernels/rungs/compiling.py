"""Rung 3: NVRTC without a driver, with the functions of CuPy's binding, for all architectures."""

import ctypes
import importlib.metadata
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache

from gpubench.program import Program

PACKAGE = "nvidia-cuda-nvrtc-cu12"
# Every architecture of the catalogue's cards, Pascal to Blackwell.
ARCHITECTURES = ("60", "61", "70", "75", "80", "86", "89", "90", "100", "120")
# The assembler's report; it changes nothing else, and a test says so.
VERBOSE = "--ptxas-options=--verbose"


class CompilationFailed(Exception):
    """As CuPy's binding has one of its own."""


@cache
def library() -> ctypes.CDLL:
    """NVRTC from its package.

    Raises:
        importlib.metadata.PackageNotFoundError: it isn't installed.
    """
    # Else a kernel that the compiler finds in its cache comes without the assembler's report.
    os.environ["CUDA_CACHE_DISABLE"] = "1"
    files = importlib.metadata.files(PACKAGE) or []
    (path,) = (file for file in files if re.fullmatch(r"libnvrtc\.so\.\d+", file.name))
    return ctypes.CDLL(str(path.locate()))


@dataclass
class Nvrtc:
    """What ``Program.compile`` asks of ``cupy.cuda.nvrtc``, and the log and PTX of the last."""

    extra: Sequence[str] = (VERBOSE,)
    log: str = ""
    ptx: str = ""
    _library: ctypes.CDLL = field(default_factory=library)

    def _call(self, name: str, *arguments: object) -> None:
        status = self._library[f"nvrtc{name}"](*arguments)
        if status:
            raise CompilationFailed(f"nvrtc{name} gave {status}")

    def _bytes(self, kind: str, handle: ctypes.c_void_p) -> bytes:
        size = ctypes.c_size_t()
        self._call(f"Get{kind}Size", handle, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        self._call(f"Get{kind}", handle, buffer)
        return buffer.raw

    def createProgram(  # noqa: N802 - CuPy's names
        self, source: str, name: str, headers: Sequence[str], names: Sequence[str]
    ) -> ctypes.c_void_p:
        handle = ctypes.c_void_p()
        text = (source.encode(), name.encode())
        self._call("CreateProgram", ctypes.byref(handle), *text, len(headers), None, None)
        return handle

    def compileProgram(self, handle: ctypes.c_void_p, options: Sequence[str]) -> None:  # noqa: N802
        given = [option.encode() for option in (*options, *self.extra)]
        array = (ctypes.c_char_p * len(given))(*given)
        self._call("CompileProgram", handle, len(given), array)
        self.log = self.getProgramLog(handle)
        self.ptx = self._bytes("PTX", handle).rstrip(b"\0").decode()

    def getCUBIN(self, handle: ctypes.c_void_p) -> bytes:  # noqa: N802
        return self._bytes("CUBIN", handle)

    def getProgramLog(self, handle: ctypes.c_void_p) -> str:  # noqa: N802
        return self._bytes("ProgramLog", handle).rstrip(b"\0").decode()

    def getVersion(self) -> tuple[int, int]:  # noqa: N802
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._call("Version", ctypes.byref(major), ctypes.byref(minor))
        return major.value, minor.value

    def destroyProgram(self, handle: ctypes.c_void_p) -> None:  # noqa: N802
        self._call("DestroyProgram", ctypes.byref(handle))


@dataclass(frozen=True)
class Compiled:
    """What came of one program for one architecture."""

    program: Program
    architecture: str
    machine_code: bytes
    ptx: str
    log: str


def compile_one(program: Program, architecture: str) -> Compiled:
    nvrtc = Nvrtc()
    machine_code = program.compile(nvrtc, architecture)
    return Compiled(program, architecture, machine_code, nvrtc.ptx, nvrtc.log)


def compile_all(
    programs: Sequence[Program], architectures: Sequence[str] = ARCHITECTURES
) -> dict[tuple[str, str], Compiled]:
    """Every program for every architecture, by both names, two at a time."""
    with ThreadPoolExecutor(2) as pool:
        pairs = [(program, architecture) for program in programs for architecture in architectures]
        done = pool.map(lambda pair: compile_one(*pair), pairs)
        return {(one.program.name, one.architecture): one for one in done}
