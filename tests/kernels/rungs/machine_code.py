"""Rung 4: registers, spills, shared memory, loads and occupancy, read from what was compiled.

The assembler's report has the first three for every architecture. Loads are read from the machine
code where nvdisasm knows it (Turing and later), else from the PTX.
"""

import importlib.metadata
import re
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from gpubench.program import THREADS
from rungs.compiling import Compiled

DISASSEMBLER = "nvidia-cuda-nvdisasm"
DISASSEMBLED_FROM = 75
REGISTERS = 65536  # of a multiprocessor, on every architecture since Maxwell
# Threads that a multiprocessor holds, and its shared memory in KiB (CUDA C++ Programming Guide
# 12.9, "Technical Specifications per Compute Capability").
THREADS_RESIDENT = {"75": 1024, "86": 1536, "89": 1536, "120": 1536}
SHARED_KIB = {"60": 64, "61": 96, "70": 96, "75": 64, "80": 164, "86": 100, "89": 100}
SHARED_KIB |= {"90": 228, "100": 228, "120": 100}

_ENTRY = re.compile(r"Compiling entry function '(\w+)'")
_USED = re.compile(
    r"(\d+) bytes spill stores, (\d+) bytes spill loads.*?Used (\d+) registers([^\n]*)", re.DOTALL
)
_SHARED = re.compile(r"(\d+) bytes smem")
_WIDE_PTX = re.compile(r"\bld\.global(?:\.nc)?(?:\.\w+)*\.(?:v4\.[fbsu]32|v2\.[fbsu]64)")
_WIDE_SASS = re.compile(r"\bLDG\.E\.128[.\w]*\s+R(\d+)")
_CONVERSION = re.compile(r"\bcvt\.[.\w]*f16[.\w]*")
# To the nearest, ties to even, and denormal numbers kept: what g++ does on rung 5.
EXACT_CONVERSIONS = {"cvt.f32.f16", "cvt.rn.f16.f32", "cvt.f32.bf16", "cvt.rn.bf16.f32"}
_INSTRUCTION = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(.*?);")
_REGISTER = re.compile(r"\bR(\d+)\b")


@dataclass(frozen=True)
class Figures:
    """Of one kernel for one architecture.

    Attributes:
        wide_loads: 16-byte loads from global memory.
        loads_in_flight: the most of them that go out before the first one's data is used; None
            where the machine code can't be read.
        threads: of a multiprocessor that find room at the same time.
    """

    registers: int
    spilled_bytes: int
    shared_bytes: int
    wide_loads: int
    loads_in_flight: int | None
    threads: int


@cache
def disassembler() -> str:
    """The program's path.

    Raises:
        importlib.metadata.PackageNotFoundError: its package isn't installed.
    """
    files = importlib.metadata.files(DISASSEMBLER) or []
    (path,) = (file for file in files if file.name == "nvdisasm")
    return str(path.locate())


def resident_threads(architecture: str) -> int:
    return THREADS_RESIDENT.get(architecture, 2048)


def threads_with_room(architecture: str, registers: int, shared_bytes: int) -> int:
    """By NVIDIA's occupancy calculator: whole blocks, as many as the scarcest resource allows.

    Registers are handed out to warps in units of 256, shared memory to blocks in units of 1 KiB
    at most, of which each block takes one for the system from Ampere on.
    """
    warps = THREADS // 32
    by_registers = REGISTERS // (warps * -(-registers * 32 // 256) * 256)
    taken = -(-(shared_bytes + (1024 if int(architecture) >= 80 else 0)) // 1024) * 1024
    by_shared = SHARED_KIB[architecture] * 1024 // taken if taken else by_registers
    threads = resident_threads(architecture)
    return min(by_registers, by_shared, threads // THREADS) * THREADS


def figures(compiled: Compiled) -> dict[str, Figures]:
    """By kernel."""
    found = {}
    reports = dict(_split(_ENTRY, compiled.log))
    loads = _loads_in_machine_code(compiled) or _loads_in_ptx(compiled)
    for kernel in compiled.program.kernels():
        used = _USED.search(reports[kernel])
        assert used, f"no report on {kernel}:\n{compiled.log}"
        stores, spilled, registers = (int(number) for number in used.groups()[:3])
        shared = _SHARED.search(used[4])
        shared_bytes = int(shared[1]) if shared else 0
        wide_loads, in_flight = loads[kernel]
        found[kernel] = Figures(
            registers=registers,
            spilled_bytes=stores + spilled,
            shared_bytes=shared_bytes,
            wide_loads=wide_loads,
            loads_in_flight=in_flight,
            threads=threads_with_room(compiled.architecture, registers, shared_bytes),
        )
    return found


def conversions(compiled: Compiled) -> set[str]:
    """The PTX instructions that convert from or to a 16-bit float."""
    return set(_CONVERSION.findall(compiled.ptx))


def _split(heading: re.Pattern[str], text: str) -> list[tuple[str, str]]:
    """What follows each heading, with the name that the heading has."""
    parts = heading.split(text)
    return list(zip(parts[1::2], parts[2::2], strict=True))


def _loads_in_ptx(compiled: Compiled) -> dict[str, tuple[int, int | None]]:
    entries = _split(re.compile(r"\.entry (\w+)\("), compiled.ptx)
    return {kernel: (len(_WIDE_PTX.findall(text)), None) for kernel, text in entries}


def _loads_in_machine_code(compiled: Compiled) -> dict[str, tuple[int, int | None]]:
    if int(compiled.architecture) < DISASSEMBLED_FROM:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernels.cubin")
        path.write_bytes(compiled.machine_code)
        command = [disassembler(), "--print-code", "--no-dataflow", path]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    entries = _split(re.compile(r"\.section\s+\.text\.(\w+)"), text)
    return {kernel: _count_loads(_INSTRUCTION.findall(code)) for kernel, code in entries}


def _count_loads(instructions: list[str]) -> tuple[int, int]:
    """How many wide loads there are, and how many are out at most before one is waited for.

    Walked through from top to bottom: an instruction that names a register that a load fills has
    to wait for it, and a branch ends what is known.
    """
    total = most = 0
    out: set[int] = set()
    in_flight = 0
    for instruction in instructions:
        load = _WIDE_SASS.search(instruction)
        named = {int(number) for number in _REGISTER.findall(instruction)}
        if load:
            target = int(load[1])
            total += 1
            named -= {target}
        if named & out or "BRA" in instruction:
            out, in_flight = set(), 0
        if load:
            out |= set(range(target, target + 4))
            in_flight += 1
            most = max(most, in_flight)
    return total, most
