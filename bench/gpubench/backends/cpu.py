"""The processor: real measurements on any laptop, through the same loop as a GPU."""

import ctypes
import os
import platform
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from gpubench.backends import _witness
from gpubench.device import Device, DeviceInfo, Reading
from gpubench.environment import core_count, processor_facts, processor_name
from gpubench.errors import EnvironmentRefused, UsageError
from gpubench.stack import install_line_for_cpu
from gpubench.telemetry import processor_clock_hz

if TYPE_CHECKING:
    from gpubench.workload import Work

EXAMPLE = "cpu"
PRIORITY = 0

# A core of a recent server or laptop does about this much in torch's large kernels. Planning
# needs a figure that is the same in every run of one machine, so it is not measured.
NOMINAL_FLOPS_PER_CORE = 8e10
NOMINAL_BYTES_PER_S = 1e10
UNKNOWN_CACHE_BYTES = 32 * 2**20
# What Linux tells of each core's caches: one file each in cpu0/cache/index3 and the like.
CORES = Path("/sys/devices/system/cpu")
CACHE_FILES = ("level", "shared_cpu_list", "size")
UNITS = {"K": 2**10, "M": 2**20}

# Linux's folder of energy counters, of AMD's processors too. Beside packages it has their parts
# ("core", "dram") and the whole platform ("psys"), in which the same joules are counted again.
POWERCAP = Path("/sys/class/powercap")


def present() -> list[DeviceInfo]:
    """The one processor; it is always here."""
    return [describe()]


def open(selector: str) -> "ProcessorDevice":  # noqa: A001 - the name of the backend contract
    """Open the processor; it takes no selector.

    Raises:
        UsageError: a selector was given.
        EnvironmentRefused: torch is not installed.
    """
    if selector:
        raise UsageError(f"the cpu takes no number, got 'cpu:{selector}'", "give --device cpu")
    try:
        import torch  # noqa: F401 - its version and threads belong to the environment
    except ModuleNotFoundError as error:
        raise EnvironmentRefused(
            "measuring needs torch, which is not installed",
            f"{install_line_for_cpu()}, or --device virtual:CARD to try the tool",
        ) from error
    return ProcessorDevice()


class ProcessorDevice(Device):
    """Runs steps synchronously; time is the monotonic clock."""

    # As much as a flush writes. Steps timed here did not change from 0.5 to 5 times the cache.
    rotation_multiple = 2.0
    # Else a lucky streak of a few milliseconds would count as all there is to know.
    settle_s = 0.3

    energy_source = "rapl"

    def __init__(self) -> None:
        self.info = describe()
        self._energy = EnergyCounter()

    def reading(self) -> Reading:
        """The cores' clock and the packages' energy, where Linux lets us read them."""
        return Reading(clock_hz=processor_clock_hz(), energy_j=self._energy.read_j())

    def unsupported(self, precision: str) -> str | None:
        """Formats that this processor lacks or that torch only emulates on it."""
        if precision == "tf32":
            return "tf32 is a format of NVIDIA tensor cores (Ampere and later); a CPU has none"
        if precision == "fp8":
            return "fp8 is a format of NVIDIA tensor cores (Ada and later); a CPU has none"
        facts = processor_facts()
        flags = set((facts.get("flags") or facts.get("Features") or "").split())
        if precision == "bf16" and flags and not flags & {"avx512_bf16", "amx_bf16", "bf16"}:
            return "this processor has no bf16 instructions; torch would emulate them"
        if precision == "fp16" and flags and not flags & {"avx512_fp16", "amx_fp16", "asimdhp"}:
            return "this processor has no fp16 arithmetic; torch would emulate it"
        return None

    def witnesses(self) -> dict[str, Callable[[], object]]:
        """A product and a copy on this processor."""
        return _witness.steps(self.torch_device)

    @cached_property
    def _eviction_buffer(self) -> ctypes.Array[ctypes.c_char]:
        return ctypes.create_string_buffer(2 * (self.info.cache_bytes or UNKNOWN_CACHE_BYTES))

    def flush(self) -> None:
        """Write twice the last-level cache, so that nothing of the last step is left in it."""
        ctypes.memset(self._eviction_buffer, 1, len(self._eviction_buffer))

    def expected_s(self, work: "Work", precision: str | None) -> float | None:
        """Compute plus memory at nominal rates."""
        rate = NOMINAL_FLOPS_PER_CORE * core_count() * (0.5 if precision == "fp64" else 1.0)
        return (work.flops or 0.0) / rate + (work.bytes or 0.0) / NOMINAL_BYTES_PER_S

    def out_of_memory(self, error: BaseException) -> bool:
        """Python's own error, and the text of torch's allocator, which has no type for it."""
        return isinstance(error, MemoryError) or "can't allocate memory" in str(error)


class EnergyCounter:
    """Joules that all packages of the processor have taken since the first reading.

    The counters start anew at a range of their own, after minutes under load; what is added up
    here goes on. Most kernels since 2020 let only root read them.
    """

    def __init__(self) -> None:
        self._packages = [
            folder
            for folder in sorted(POWERCAP.glob("intel-rapl:*"))
            if _text(folder / "name").startswith("package")
        ]
        self._last: dict[Path, int] = {}
        self._total = 0

    def read_j(self) -> float | None:
        """The sum so far; None where there are no packages or one can't be read."""
        try:
            now = {folder: int(_text(folder / "energy_uj")) for folder in self._packages}
            rises = [self._rise(folder, value) for folder, value in now.items()]
        except ValueError:
            return None
        self._last = now
        self._total += sum(rises)
        return self._total / 1e6 if now else None

    def _rise(self, folder: Path, value: int) -> int:
        rise = value - self._last.get(folder, value)
        return rise if rise >= 0 else rise + int(_text(folder / "max_energy_range_uj"))


def _text(path: Path) -> str:
    """A file of one line; empty if it can't be read."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def describe() -> DeviceInfo:
    """What the operating system tells of the processor."""
    card = processor_name()
    return DeviceInfo(
        name="cpu",
        backend="cpu",
        card=card,
        card_id="cpu-" + "-".join("".join(c if c.isalnum() else " " for c in card).lower().split()),
        architecture=platform.machine().replace("AMD64", "x86_64"),
        memory_bytes=psutil.virtual_memory().total,
        cache_bytes=last_level_cache_bytes(),
    )


def last_level_cache_bytes(cores: Path = CORES) -> int | None:
    """All last-level caches of the cores that this process may use; None where Linux tells none.

    A processor of several dies has one on each, and its threads' data may lie in any.
    """
    if not hasattr(os, "sched_getaffinity"):
        return None
    usable = {f"cpu{number}" for number in os.sched_getaffinity(0)}
    found: dict[tuple[int, str], int] = {}
    for folder in cores.glob("cpu*/cache/index*"):
        texts = [(folder / name).read_text().strip() for name in CACHE_FILES]
        level, shared, size = texts
        if folder.parent.parent.name in usable and size[-1] in UNITS:
            found[int(level), shared] = int(size[:-1]) * UNITS[size[-1]]
    last = max((level for level, _ in found), default=0)
    return sum(size for (level, _), size in found.items() if level == last) or None
