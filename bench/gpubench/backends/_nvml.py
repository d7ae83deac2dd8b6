"""NVIDIA's management library, with every unreadable value as None.

Old drivers lack functions, virtual machines forbid some, a lost card refuses all: none of that
may end a measurement, so each call stands alone.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from gpubench.cards import find_card
from gpubench.device import DeviceInfo, Reading

# Bits of the clocks' event reasons, from "NvmlClocksEventReasons" of NVIDIA's NVML API reference.
# An idle card and clocks set by the user are no throttling, so those bits are not listed.
HW_SLOWDOWN = 0x08
# No machine has more; a library that counts more is broken, and would be asked for ever.
MOST_CARDS = 256
THROTTLE_BITS = {
    "power": 0x04 | 0x80,  # software power cap, hardware power brake
    "thermal": 0x20 | 0x40,  # software and hardware thermal slowdown
    "other": 0x10 | 0x100 | 0x200 | 0x400,  # sync boost, display, board limit, reliability
}


@contextmanager
def library() -> Iterator[Any]:
    """The loaded library, or None where there is no driver."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield None
        return
    try:
        yield pynvml
    finally:
        read(pynvml.nvmlShutdown)  # a card that was lost meanwhile may refuse even that


def read(call: Callable[..., Any], *arguments: Any) -> Any:
    """What a call returns; None where this card or driver can't tell."""
    import pynvml

    try:
        value = call(*arguments)
    except (pynvml.NVMLError, OSError, AttributeError, UnicodeDecodeError):
        return None
    return value.decode() if isinstance(value, bytes) else value


def devices() -> list[DeviceInfo]:
    """The cards that CUDA would number, in the order of their bus, without loading CUDA."""
    with library() as nvml:
        return [info for info, _ in numbered(nvml)] if nvml else []


def numbered(nvml: Any) -> list[tuple[DeviceInfo, Any]]:
    """The same with their handles; None is that of a slice which the library doesn't find."""
    handles = [handle for handle in by_index(nvml) if handle]
    known = [(handle, read(nvml.nvmlDeviceGetUUID, handle)) for handle in handles]
    chosen = _visible(known, lambda uuid: read(nvml.nvmlDeviceGetHandleByUUID, uuid))
    names = [f"cuda:{number}" for number in range(len(chosen))]
    return [
        (describe(nvml, handle, name) if handle else _unknown_slice(nvml, name), handle)
        for name, handle in zip(names, chosen, strict=True)
    ]


def by_index(nvml: Any) -> list[Any]:
    """A handle for each card that the library counts; None for one that it can't reach."""
    count = min(read(nvml.nvmlDeviceGetCount) or 0, MOST_CARDS)
    return [read(nvml.nvmlDeviceGetHandleByIndex, index) for index in range(count)]


def by_uuid(uuid: str, name: str) -> DeviceInfo | None:
    """The card, or the MIG slice of one, of this identity; None where the library can't tell.

    Args:
        uuid: as CUDA reports it, without the ``GPU-`` or ``MIG-`` in front.
        name: what ``--device`` takes.
    """
    with library() as nvml:
        if nvml is None:
            return None
        for kind in ("GPU", "MIG"):
            if handle := read(nvml.nvmlDeviceGetHandleByUUID, f"{kind}-{uuid}"):
                return describe(nvml, handle, name)
        return None


def describe(nvml: Any, handle: Any, name: str) -> DeviceInfo:
    """All that the library tells of one card, or of a MIG slice of one.

    A slice has its own memory; that its name is the slice's keeps it from being taken for the
    whole card, whose peaks and whose power limit it hasn't.
    """
    parent = read(nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle, handle)
    card = parent or handle
    card_name = read(nvml.nvmlDeviceGetName, handle) or read(nvml.nvmlDeviceGetName, card)
    card_name = card_name or "NVIDIA card of unknown name"
    if parent and "MIG" not in card_name:
        card_name += " MIG"
    memory = read(nvml.nvmlDeviceGetMemoryInfo, handle)
    capability = read(nvml.nvmlDeviceGetCudaComputeCapability, card)
    limit = None if parent else read(nvml.nvmlDeviceGetEnforcedPowerLimit, card)
    ecc = read(nvml.nvmlDeviceGetEccMode, card)
    # An idle link reports generation 1, so the most that card and slot can do is kept.
    generation = read(nvml.nvmlDeviceGetMaxPcieLinkGeneration, card)
    width = read(nvml.nvmlDeviceGetMaxPcieLinkWidth, card)
    bandwidth = None if parent else _bandwidth(nvml, card)
    return replace(
        identify(name, card_name, int(memory.total) if memory else None, capability, bandwidth),
        uuid=read(nvml.nvmlDeviceGetUUID, handle),
        driver=read(nvml.nvmlSystemGetDriverVersion),
        power_limit_w=limit / 1000 if limit else None,
        ecc=bool(ecc[0]) if ecc else None,
        pcie=f"{generation}.0 x{width}" if generation and width else None,
    )


def _bandwidth(nvml: Any, card: Any) -> float | None:
    """Bytes/s of the memory at its highest clock: the library tells half of what a pin transfers.

    As MHz and bits: 9751 and 384 of an RTX 3090, 877 and 4096 of a V100.
    """
    clock = read(nvml.nvmlDeviceGetMaxClockInfo, card, nvml.NVML_CLOCK_MEM)
    width = read(nvml.nvmlDeviceGetMemoryBusWidth, card)
    return 2 * clock * 1e6 * width / 8 if clock and width else None


def _unknown_slice(nvml: Any, name: str) -> DeviceInfo:
    slice_ = identify(name, "NVIDIA MIG slice of unknown card", None, None)
    return replace(slice_, driver=read(nvml.nvmlSystemGetDriverVersion))


@dataclass(frozen=True)
class Sensors:
    """One card's sensors, in a session of the library that stays open until the process ends.

    Opening a session takes tens of milliseconds, far more than reading a sensor does.

    Attributes:
        handle: of what computes here: a card, or a MIG slice of one.
        parent: the card that a slice is of; None of a card itself.
        averages: the library's power is the mean of the last second, as from Ampere on, but for
            GA100 (A100, A30).
    """

    nvml: Any
    handle: Any
    parent: Any = None
    averages: bool = False

    @classmethod
    def of(cls, nvml: Any, handle: Any) -> "Sensors":
        """Those of a card or a slice that the library knows by this handle."""
        parent = read(nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle, handle)
        capability = read(nvml.nvmlDeviceGetCudaComputeCapability, parent or handle)
        averages = capability is not None and tuple(capability) > (8, 0)
        return cls(nvml, handle, parent, averages)

    def reading(self) -> Reading:
        """Everything as of now; each value stands alone.

        A slice shares its card's clocks and temperature. The card's power and energy are those of
        all slices together, and say nothing of this one.
        """
        nvml = self.nvml
        clock = self.ask("ClockInfo", nvml.NVML_CLOCK_SM)  # in MHz
        memory_clock = self.ask("ClockInfo", nvml.NVML_CLOCK_MEM)
        power = None if self.parent else self._power()  # in mW
        energy = None if self.parent else self.ask("TotalEnergyConsumption")  # in mJ
        temperature = self.ask("TemperatureV", nvml.NVML_TEMPERATURE_GPU)
        if temperature is None:  # an older driver or binding
            temperature = self.ask("Temperature", nvml.NVML_TEMPERATURE_GPU)
        reasons = self.ask("CurrentClocksEventReasons")
        if reasons is None:  # the name that older drivers know it by
            reasons = self.ask("CurrentClocksThrottleReasons")
        return Reading(
            clock_hz=None if clock is None else clock * 1e6,
            memory_clock_hz=None if memory_clock is None else memory_clock * 1e6,
            power_w=None if power is None else power / 1e3,
            temperature_c=None if temperature is None else float(temperature),
            energy_j=None if energy is None else energy / 1e3,
            throttle=None if reasons is None else throttle_names(reasons),
            other_processes=self._other_processes(),
        )

    def _power(self) -> Any:
        """As of now, in mW; None where a driver before 530 tells of the last second only.

        Most steps are measured for less than a second, right after the card was idle.
        """
        fields = self.ask("FieldValues", [self.nvml.NVML_FI_DEV_POWER_INSTANT])
        if fields is not None and fields[0].nvmlReturn == self.nvml.NVML_SUCCESS:
            return fields[0].value.uiVal
        return None if self.averages else self.ask("PowerUsage")

    def ask(self, what: str, *arguments: Any) -> Any:
        """``nvmlDeviceGet`` + ``what`` of the card; None where card, driver or binding lack it."""
        call = getattr(self.nvml, f"nvmlDeviceGet{what}", None)
        return None if call is None else read(call, self.parent or self.handle, *arguments)

    def processes(self) -> set[int] | None:
        """The processes that compute here, by the numbers that the library knows them by."""
        # The name without a version raises, with an older driver, what `read` doesn't expect.
        for version in ("_v3", "_v2"):
            call = getattr(self.nvml, f"nvmlDeviceGetComputeRunningProcesses{version}", None)
            found = None if call is None else read(call, self.handle)
            if found is not None:
                return {process.pid for process in found}
        return None

    def _other_processes(self) -> int | None:
        """How many processes compute here beside this one.

        The library may know this one by another number than it does itself, in a container for
        instance; that one of them is this one holds all the same.
        """
        found = self.processes()
        return None if found is None else max(0, len(found) - 1)


def sensors(uuid: str | None) -> Sensors | None:
    """The sensors of the card or slice of this identity (with ``GPU-`` or ``MIG-`` in front).

    None where the library is missing, or doesn't know it.
    """
    import pynvml

    try:
        pynvml.nvmlInit()
    except (pynvml.NVMLError, OSError):
        return None
    handle = read(pynvml.nvmlDeviceGetHandleByUUID, uuid) if uuid else None
    return Sensors.of(pynvml, handle) if handle else None


def throttle_names(reasons: int) -> tuple[str, ...]:
    """The bits of the driver's word as the names that all backends share.

    Hardware slowdown comes with the bit that says what caused it, where the card knows.
    """
    names = tuple(name for name, bits in THROTTLE_BITS.items() if reasons & bits)
    return names or (("other",) if reasons & HW_SLOWDOWN else ())


def identify(
    name: str,
    card_name: str,
    memory_bytes: int | None,
    capability: tuple[int, int] | None,
    bandwidth: float | None = None,
) -> DeviceInfo:
    """A card by what any driver tells, with the rest from the catalogue."""
    card = find_card(card_name, memory_bytes, bandwidth)
    return DeviceInfo(
        name=name,
        backend="cuda",
        card=card_name,
        card_id=card.card_id if card else "unlisted-" + "-".join(card_name.lower().split()),
        architecture=card.architecture if card else _architecture(capability),
        memory_bytes=memory_bytes,
        cache_bytes=card.cache_bytes if card else None,
        compute_capability=f"{capability[0]}.{capability[1]}" if capability else None,
    )


def _architecture(capability: tuple[int, int] | None) -> str:
    """By compute capability, for cards that the catalogue lacks."""
    if capability is None:
        return "unknown"
    major, minor = capability
    if major == 7:
        return "Turing" if minor == 5 else "Volta"
    if major == 8:
        return "Ada" if minor == 9 else "Ampere"
    names = {6: "Pascal", 9: "Hopper", 10: "Blackwell", 11: "Blackwell", 12: "Blackwell"}
    return names.get(major, f"compute capability {major}.{minor}")


def _visible(known: list[tuple[Any, str | None]], find_slice: Callable[[str], Any]) -> list[Any]:
    """What CUDA_VISIBLE_DEVICES leaves, in its order; CUDA ignores all behind a bad entry.

    Args:
        known: handle and identity of each card.
        find_slice: the handle of a MIG slice, by its identity. A slice that the library can't
            find, being a container's or an older driver's, is still there: it is a None.
    """
    setting = os.environ.get("CUDA_VISIBLE_DEVICES")
    if setting is None:
        return [handle for handle, _ in known]
    chosen = []
    for entry in filter(None, (entry.strip() for entry in setting.split(","))):
        if entry.startswith("MIG-"):
            chosen.append(find_slice(entry))
            continue
        by_number = known[int(entry)][0] if entry.isdigit() and int(entry) < len(known) else None
        by_name = next((handle for handle, uuid in known if uuid and uuid.startswith(entry)), None)
        if (handle := by_number or by_name) is None:
            break
        chosen.append(handle)
    return chosen
