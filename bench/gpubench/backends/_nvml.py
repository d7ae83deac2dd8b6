"""NVIDIA's management library, with every unreadable value as None.

Old drivers lack functions, virtual machines forbid some, a lost card refuses all: none of that
may end a measurement, so each call stands alone.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from gpubench.cards import find_card
from gpubench.device import DeviceInfo


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
        pynvml.nvmlShutdown()


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
        if nvml is None:
            return []
        count = read(nvml.nvmlDeviceGetCount) or 0
        handles = [read(nvml.nvmlDeviceGetHandleByIndex, index) for index in range(count)]
        known = [(handle, read(nvml.nvmlDeviceGetUUID, handle)) for handle in handles if handle]
        return [
            describe(nvml, handle, f"cuda:{number}")
            for number, handle in enumerate(_visible(known))
        ]


def by_uuid(uuid: str, name: str) -> DeviceInfo | None:
    """The card of this identity; None where the library can't tell."""
    with library() as nvml:
        handle = read(nvml.nvmlDeviceGetHandleByUUID, uuid) if nvml else None
        return describe(nvml, handle, name) if handle else None


def describe(nvml: Any, handle: Any, name: str) -> DeviceInfo:
    """All that the library tells of one card."""
    card_name = read(nvml.nvmlDeviceGetName, handle) or "NVIDIA card of unknown name"
    memory = read(nvml.nvmlDeviceGetMemoryInfo, handle)
    capability = read(nvml.nvmlDeviceGetCudaComputeCapability, handle)
    limit = read(nvml.nvmlDeviceGetEnforcedPowerLimit, handle)
    ecc = read(nvml.nvmlDeviceGetEccMode, handle)
    # An idle link reports generation 1, so the most that card and slot can do is kept.
    generation = read(nvml.nvmlDeviceGetMaxPcieLinkGeneration, handle)
    width = read(nvml.nvmlDeviceGetMaxPcieLinkWidth, handle)
    return replace(
        identify(name, card_name, int(memory.total) if memory else None, capability),
        uuid=read(nvml.nvmlDeviceGetUUID, handle),
        driver=read(nvml.nvmlSystemGetDriverVersion),
        power_limit_w=limit / 1000 if limit else None,
        ecc=bool(ecc[0]) if ecc else None,
        pcie=f"{generation}.0 x{width}" if generation and width else None,
    )


def identify(
    name: str, card_name: str, memory_bytes: int | None, capability: tuple[int, int] | None
) -> DeviceInfo:
    """A card by what any driver tells, with the rest from the catalogue."""
    card = find_card(card_name, memory_bytes)
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


def _visible(known: list[tuple[Any, str | None]]) -> list[Any]:
    """What CUDA_VISIBLE_DEVICES leaves, in its order; CUDA ignores all behind a bad entry."""
    setting = os.environ.get("CUDA_VISIBLE_DEVICES")
    if setting is None:
        return [handle for handle, _ in known]
    chosen = []
    for entry in filter(None, (entry.strip() for entry in setting.split(","))):
        by_number = known[int(entry)][0] if entry.isdigit() and int(entry) < len(known) else None
        by_name = next((handle for handle, uuid in known if uuid and uuid.startswith(entry)), None)
        if (handle := by_number or by_name) is None:
            break
        chosen.append(handle)
    return chosen
