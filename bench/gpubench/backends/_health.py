"""What NVIDIA's management library tells of a card's fitness; `gpubench doctor` asks for it.

Each check looks at one thing. A library that is missing, a driver that is broken and a card that is
lost are findings like others.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from gpubench.backends import _nvml
from gpubench.cards import Card, catalogue
from gpubench.device import DeviceInfo
from gpubench.doctor import Check, Finding, note, ok, problem

# "NvmlClocksEventReasons": the clocks are what a user or an application set.
CLOCKS_SET = 0x02
# NVML's "nvmlTemperatureThresholds_t": from which the clocks are held down.
THRESHOLD_SLOWDOWN = 1
# Closer than this to that temperature, a card throttles under its first load.
MARGIN_C = 10
# Desktops keep some hundred MiB; more is somebody's model.
MOST_USED_SHARE = 0.1

# NVML's return codes when it is opened: what is wrong, and what to do. Others are told by number.
NO_LIBRARY = 12
TROUBLE = {
    4: ("this user may not ask the driver", "add it to the group that owns /dev/nvidia*"),
    9: ("NVIDIA's driver is installed but not loaded", "sudo modprobe nvidia"),
    15: ("a card has fallen off the bus", "restart the machine; check its power and its slot"),
    18: (
        "the driver was updated and the old one still runs",
        "restart, or unload its modules and load them again",
    ),
}


@dataclass(frozen=True)
class Subject:
    """A card under examination: what it is, its row of the catalogue, and how to ask it."""

    info: DeviceInfo
    card: Card | None
    sensors: _nvml.Sensors

    @property
    def index(self) -> str:
        """For ``nvidia-smi -i``; a card's identity holds whatever CUDA_VISIBLE_DEVICES says."""
        return self.info.uuid or self.info.name.rpartition(":")[2]

    def ask(self, what: str, *arguments: Any) -> Any:
        """``nvmlDeviceGet`` + ``what``; None where it can't be told."""
        return self.sensors.ask(what, *arguments)


def checks(name: str) -> Iterator[Check]:
    """Every check of every card, or of the one that ``--device`` names ``name``."""
    if trouble := _trouble():
        yield Check("", "driver", lambda: trouble)
        return
    with _nvml.library() as nvml:
        if nvml is None:
            return
        for number, handle in enumerate(_nvml.by_index(nvml)):
            if handle is None:
                yield Check(f"card {number}", "driver", _lost)
        for info, handle in _nvml.numbered(nvml):
            if handle is None or name not in ("", info.name):
                continue
            card = catalogue().get(info.card_id)
            subject = Subject(info, card, _nvml.Sensors.of(nvml, handle))
            for what, look in CHECKS.items():
                yield Check(info.name, what, partial(look, subject))


def _trouble() -> Finding | None:
    """Why the library can't be opened; None if it can, or where no driver is to be expected."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        code = int(error.value)
        if code == NO_LIBRARY:  # the check of the bus says whether one is missing
            return None
        text, remedy = TROUBLE.get(
            code, (f"NVIDIA's management library fails with its error {code}", "`nvidia-smi`")
        )
        return problem(text, remedy)
    _nvml.read(pynvml.nvmlShutdown)
    return None


def _lost() -> Finding:
    return problem(
        "counted and can't be reached: most often it has fallen off the bus",
        "`sudo dmesg | grep -i xid` says why; restart the machine",
    )


def _unreadable() -> Finding:
    return note("this card or driver doesn't tell")


def driver(subject: Subject) -> Finding:
    """Version of the driver, and the CUDA that it goes up to."""
    version = subject.info.driver
    if version is None:
        return _unreadable()
    cuda = _nvml.read(subject.sensors.nvml.nvmlSystemGetCudaDriverVersion_v2)
    upto = f", CUDA up to {cuda // 1000}.{cuda % 1000 // 10}" if cuda else ""
    return ok(f"{version}{upto}")


def in_catalogue(subject: Subject) -> Finding:
    """Whether the card's peaks are known."""
    if subject.card:
        return ok(f"{subject.info.card} is {subject.card.card_id}")
    return note(
        f"{subject.info.card} is unknown: no peaks to compare with, and it is planned for as slow",
        "add its row to bench/gpubench/data/cards.csv; README.md beside it tells the columns",
    )


def persistence(subject: Subject) -> Finding:
    """Whether the driver stays loaded while nobody uses the card."""
    mode = subject.ask("PersistenceMode")
    if mode is None:
        return _unreadable()
    if mode:
        return ok("on")
    return note(
        "off: each run wakes the card anew, and its first second with it",
        f"sudo nvidia-smi -i {subject.index} -pm 1",
    )


def power_limit(subject: Subject) -> Finding:
    """The power limit in force, against the one that the card came with."""
    now, default = subject.ask("EnforcedPowerLimit"), subject.ask("PowerManagementDefaultLimit")
    if not now or not default:
        return _unreadable()
    text = f"{now / 1e3:.0f} W"
    if abs(now - default) < 1000:  # in mW
        return ok(f"{text}, as it came")
    return note(
        f"{text} where {default / 1e3:.0f} W is the default: results are of that limit",
        f"sudo nvidia-smi -i {subject.index} -pl {default / 1e3:.0f}",
    )


def clocks(subject: Subject) -> Finding:
    """Whether the clocks are held down, set by somebody, or left to the card."""
    reasons = subject.ask("CurrentClocksEventReasons")
    if reasons is None:
        reasons = subject.ask("CurrentClocksThrottleReasons")
    if reasons is None:
        return _unreadable()
    clock = subject.sensors.reading().clock_hz
    text = "" if clock is None else f", {clock / 1e6:.0f} MHz now"
    if held := [name for name in _nvml.throttle_names(reasons) if name != "other"]:
        return problem(
            f"held down ({' and '.join(held)}) while nothing is measured{text}",
            "`nvidia-smi -q -d PERFORMANCE,TEMPERATURE,POWER`; let it cool, end what runs on it",
        )
    if reasons & CLOCKS_SET:
        return note(
            f"set by a user: steady, and not what others measure{text}",
            f"sudo nvidia-smi -i {subject.index} -rgc; sudo nvidia-smi -i {subject.index} -rac",
        )
    return ok(f"moving as the card chooses{text}; rows tell what they were")


def ecc(subject: Subject) -> Finding:
    """Error correction of the memory; GeForce cards have none."""
    modes = subject.ask("EccMode")
    if not modes:
        return ok("none")
    now, pending = (bool(mode) for mode in modes)
    text = "on" if now else "off"
    if now != pending:
        return note(f"{text}, and {'on' if pending else 'off'} after a restart")
    return ok(text)


def pcie(subject: Subject) -> Finding:
    """The link's width now, and its generation at most, against what the card could do.

    An idle link goes back to generation 1, so the generation now says nothing; its width stays.
    """
    width, most = subject.ask("CurrPcieLinkWidth"), subject.ask("MaxPcieLinkWidth")
    slot = subject.ask("MaxPcieLinkGeneration")
    own = subject.ask("GpuMaxPcieLinkGeneration")
    if own is None and subject.card:
        own = subject.card.pcie_generation
    if not width or not most:
        return _unreadable()
    text = f"generation {slot or '?'} at most, {width} lanes"
    if width < most:
        return note(
            f"{text} of {most}: copies from and to the host take longer",
            "seat the card anew, or use a slot with all its lanes",
        )
    if own and slot and slot < own:
        return note(f"{text}; the card could do generation {own:.0f}", "a newer slot")
    return ok(text)


def others(subject: Subject) -> Finding:
    """Who computes on the card beside this process, which doesn't."""
    found = subject.sensors.processes()
    if found is None:
        return _unreadable()
    if count := len(found - {os.getpid()}):
        return problem(
            f"{count} on it, and times would be theirs as well",
            "`nvidia-smi` lists them; wait for their end",
        )
    return ok("none")


def mig(subject: Subject) -> Finding:
    """Whether the card is cut into slices."""
    modes = subject.ask("MigMode")
    if subject.sensors.parent:
        return note("a slice of a card: no peaks to compare with, no power of its own")
    if modes and modes[0]:
        return note(
            "on: CUDA sees slices and not the card",
            f"name a slice in CUDA_VISIBLE_DEVICES, or: sudo nvidia-smi -i {subject.index} -mig 0",
        )
    return ok("off" if modes else "none")


def temperature(subject: Subject) -> Finding:
    """How far the chip is from where it holds its clocks down."""
    now = subject.sensors.reading().temperature_c
    if now is None:
        return _unreadable()
    limit = subject.ask("TemperatureThreshold", THRESHOLD_SLOWDOWN)
    if limit and now > limit - MARGIN_C:
        return problem(
            f"{now:.0f} °C, and it slows down at {limit} °C",
            "let it cool; free its fans of dust and of its neighbours' air",
        )
    return ok(f"{now:.0f} °C" + (f", slows down at {limit} °C" if limit else ""))


def memory(subject: Subject) -> Finding:
    """How much of the card's memory is taken."""
    sensors = subject.sensors  # of a slice its own
    found = _nvml.read(sensors.nvml.nvmlDeviceGetMemoryInfo, sensors.handle)
    if found is None or not found.total:
        return _unreadable()
    text = f"{found.free / 2**30:.1f} of {found.total / 2**30:.1f} GiB free"
    if found.used > MOST_USED_SHARE * found.total:
        return note(f"{text}: large cases may not fit", "`nvidia-smi` shows who")
    return ok(text)


def resizable_bar(subject: Subject) -> Finding:
    """Whether the host sees all of the card's memory at once."""
    window, whole = subject.ask("BAR1MemoryInfo"), subject.ask("MemoryInfo")
    if window is None or whole is None or not window.bar1Total:
        return _unreadable()
    size = f"{window.bar1Total / 2**30:.3g} GiB"
    if window.bar1Total >= whole.total:
        return ok(f"on: a window of {size}")
    return ok(f"off: a window of {size}, which no case here depends on")


def sensors(subject: Subject) -> Finding:
    """Which of a measurement's conditions this card can tell."""
    missing = [name for name, value in vars(subject.sensors.reading()).items() if value is None]
    if missing:
        return note(f"not told, so null in results: {', '.join(missing)}")
    return ok("clocks, power, energy, temperature and throttling are told")


CHECKS: dict[str, Callable[[Subject], Finding]] = {
    "driver": driver,
    "catalogue": in_catalogue,
    "persistence": persistence,
    "power limit": power_limit,
    "clocks": clocks,
    "ECC": ecc,
    "PCIe": pcie,
    "other processes": others,
    "MIG": mig,
    "temperature": temperature,
    "memory": memory,
    "resizable BAR": resizable_bar,
    "sensors": sensors,
}
