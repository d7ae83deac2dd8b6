"""What went on beside a measurement: clocks, power, temperature, throttling, and others' work.

It is read before, during and after the samples and never inside one. A thread takes the readings
in between; it may be late or miss some, and what can't be read is None.
"""

import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import psutil

from gpubench.device import Device, Reading
from gpubench.record import Spread

#: share of the processor in others' hands, or in a hypervisor's, from which a row is flagged
FOREIGN_LOAD_LIMIT = 0.08
#: a clock whose readings lie further apart than this, relative to their mean, was not steady
CLOCK_LIMIT = 0.05
#: energy counters are updated every 20 to 100 ms: of shorter windows one is over 2 %
LEAST_ENERGY_WINDOW_S = 5.0
#: from one reading to the next, as often as power and clocks are worth reading
INTERVAL_S = 0.1
#: of one core's time that reading may take; where a reading is slow they get rarer
MOST_SHARE = 0.005
#: what ``Reading.throttle`` can say, in the order that it is reported in
THROTTLE_REASONS = ("power", "thermal", "other")

CORES = Path("/sys/devices/system/cpu")


@dataclass(frozen=True)
class Moment:
    """One reading: when it was complete, on the device's clock, and what it found."""

    at_s: float
    device: Reading
    processor_clock_hz: float | None


class Telemetry:
    """What a device and its host did while the block ran.

    Attributes are set when the block ends, and are None where nothing could be read. Spreads are
    over the readings inside the block; those at its two ends, where the device may be idle, stand
    in when it was too short for others.

    Attributes:
        window_s: seconds of the block, on the device's clock.
        energy_j: joules that the device took in that time; None of windows that are shorter than
            ``LEAST_ENERGY_WINDOW_S``.
        throttle_reasons: why the clocks were held down at any time; empty if they never were.
        other_processes: whether another process computed on the device.
        foreign: share of the processor that other processes of this machine used, 0 to 1.
        steal: share of it that a hypervisor gave to other machines, 0 to 1.
    """

    window_s: float = 0.0
    sm_clock_hz: Spread | None = None
    memory_clock_hz: Spread | None = None
    power_w: Spread | None = None
    temperature_c: Spread | None = None
    processor_clock_hz: Spread | None = None
    energy_j: float | None = None
    throttle_reasons: list[str] | None = None
    other_processes: bool | None = None
    foreign: float | None = None
    steal: float | None = None

    def __init__(self, device: Device) -> None:
        self._device = device
        self._is_processor = device.timer == "host"
        # On a virtual clock no time passes, and this machine has no part in what is measured.
        self._is_real = device.provenance == "measured"
        self._load = HostLoad()
        self._moments: list[Moment] = []
        self._cost_s = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="telemetry", daemon=True)

    def __enter__(self) -> Self:
        """Take the first reading and start the thread."""
        self._moments.append(self._read())
        if self._is_real:
            self._load.__enter__()
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the thread, take the last reading and sum up."""
        if self._is_real:
            self._load.__exit__()
            self._ended.set()
            self._thread.join(timeout=1.0)
            self.foreign, self.steal = self._load.foreign, self._load.steal
        # A thread that hangs in a driver would take this reading with it.
        if not self._thread.is_alive():
            self._moments.append(self._read())
        self._sum_up(list(self._moments))

    def flags(self, timer: str) -> tuple[str, ...]:
        """What to know before believing samples that ``timer`` took.

        Other processes disturb a host's clock by using the processor, a device's events by using
        the device.
        """
        on_host = timer == "host"
        clock = self.processor_clock_hz if on_host else self.sm_clock_hz
        crowded = _is_over(self.foreign) if on_host else bool(self.other_processes)
        reasons = self.throttle_reasons or []
        moving = clock is not None and clock.max - clock.min > CLOCK_LIMIT * clock.mean
        found = {
            "throttled_power": "power" in reasons,
            "throttled_thermal": "thermal" in reasons,
            "clocks_moving": moving,
            "other_processes": crowded,
            "stolen": on_host and _is_over(self.steal),
        }
        return tuple(name for name, holds in found.items() if holds)

    def _watch(self) -> None:
        while not self._ended.wait(max(INTERVAL_S, self._cost_s / MOST_SHARE)):
            self._moments.append(self._read())

    def _read(self) -> Moment:
        begin = time.thread_time()  # without the time it waits for a driver or for its turn
        try:
            reading = self._device.reading()
        except Exception:  # noqa: BLE001 - a note beside the numbers may be missing, they may not
            reading = Reading()
        clock = None
        if self._is_processor:
            clock = reading.clock_hz
        elif self._is_real:
            clock = processor_clock_hz()
        self._cost_s = time.thread_time() - begin
        return Moment(self._device.now(), reading, clock)

    def _sum_up(self, moments: Sequence[Moment]) -> None:
        inside = moments[1:-1] or moments
        readings = [moment.device for moment in inside]
        if not self._is_processor:
            self.sm_clock_hz = _spread([reading.clock_hz for reading in readings])
        self.processor_clock_hz = _spread([moment.processor_clock_hz for moment in inside])
        self.memory_clock_hz = _spread([reading.memory_clock_hz for reading in readings])
        self.power_w = _spread([reading.power_w for reading in readings])
        self.temperature_c = _spread([reading.temperature_c for reading in readings])
        first, last = moments[0], moments[-1]
        self.window_s = last.at_s - first.at_s
        before, after = first.device.energy_j, last.device.energy_j
        long_enough = self.window_s >= LEAST_ENERGY_WINDOW_S
        # A counter that fell has started anew: the driver was loaded again.
        if long_enough and before is not None and after is not None and after >= before:
            self.energy_j = after - before
        told = [set(m.device.throttle) for m in moments if m.device.throttle is not None]
        if told:
            self.throttle_reasons = [name for name in THROTTLE_REASONS if name in set.union(*told)]
        counts = [m.device.other_processes for m in moments]
        known = [count for count in counts if count is not None]
        self.other_processes = any(known) if known else None


class HostLoad:
    """How much of the processor others used while the block ran.

    Attributes are set when the block ends: shares of all cores' time between 0 and 1, or None
    where the system does not tell or the block was too short for its clock.

    Attributes:
        foreign: used by other processes of this machine, but for those that this one started and
            that ended within the block.
        steal: given to other machines by a hypervisor.
    """

    foreign: float | None = None
    steal: float | None = None

    def __enter__(self) -> Self:
        """Read the clocks."""
        self._before = _processor_times()
        return self

    def __exit__(self, *_: object) -> None:
        """Read them again."""
        total, idle, steal, own = (
            after - before for after, before in zip(_processor_times(), self._before, strict=True)
        )
        # The system counts in hundredths of a second: below ten of them a share means nothing.
        if total >= 0.1:
            self.foreign = min(1.0, max(0.0, (total - idle - steal - own) / total))
            self.steal = min(1.0, max(0.0, steal / total))


def processor_clock_hz() -> float | None:
    """Mean clock of the cores that this process may use; None where Linux doesn't tell.

    Where the folder is missing, as in most virtual machines, /proc/cpuinfo still shows a clock:
    the nominal one, which is no reading.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    cores = affinity(0) if affinity else range(os.cpu_count() or 0)
    clocks = []
    for core in cores:
        try:
            text = (CORES / f"cpu{core}/cpufreq/scaling_cur_freq").read_text()
            clocks.append(int(text) * 1e3)
        except (OSError, ValueError):
            continue
    return sum(clocks) / len(clocks) if clocks else None


def _processor_times() -> tuple[float, float, float, float]:
    """Seconds since the system's start: of all cores, of idle ones, stolen, of this process.

    With this one count those that it started and that have ended.
    """
    times = psutil.cpu_times()
    # guest time is counted in user time already
    counted = {name: value for name, value in times._asdict().items() if "guest" not in name}
    idle = counted.get("idle", 0.0) + counted.get("iowait", 0.0)
    mine = os.times()
    own = mine.user + mine.system + mine.children_user + mine.children_system
    return sum(counted.values()), idle, counted.get("steal", 0.0), own


def _spread(values: Sequence[float | None]) -> Spread | None:
    known = [value for value in values if value is not None]
    return Spread(sum(known) / len(known), min(known), max(known)) if known else None


def _is_over(share: float | None) -> bool:
    return share is not None and share > FOREIGN_LOAD_LIMIT
