"""The contract every backend fulfils, and the one way to open a device.

A backend is one file in ``backends/`` that defines::

    EXAMPLE: str                         # a name that opens one, for the contract tests
    PRIORITY: int                        # `--device auto` takes the highest that is present
    def present() -> list[DeviceInfo]    # what is here, without torch
    def open(selector: str) -> Device    # "0" of "cuda:0", the card of "virtual:CARD"
    def checks(name: str) -> Iterator[Check]    # may be left out: what `gpubench doctor` looks at,
                                                # of all its devices ("") or of one

The measuring loop knows this contract and nothing of CUDA.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from gpubench import plugins
from gpubench.errors import Unsupported, UsageError

if TYPE_CHECKING:
    from types import ModuleType

    from gpubench.workload import Prepared, Value, Work, Workload


@dataclass(frozen=True)
class DeviceInfo:
    """What is known of a device before anything runs on it; None is unknown.

    Attributes:
        name: what ``--device`` takes, such as ``cuda:0``.
        card: the device's name for people, as its driver or the operating system reports it.
        card_id: row of the card catalogue; for others a name made from ``card``.
        architecture: Pascal … Blackwell, or the processor's instruction set.
        cache_bytes: last-level cache; what a cold measurement has to clear.
        uuid: unique identity; only ever kept as a salted hash.
    """

    name: str
    backend: str
    card: str
    card_id: str
    architecture: str
    memory_bytes: int | None = None
    cache_bytes: int | None = None
    compute_capability: str | None = None
    uuid: str | None = None
    driver: str | None = None
    power_limit_w: float | None = None
    ecc: bool | None = None
    pcie: str | None = None


@dataclass(frozen=True)
class Reading:
    """A device's state at one moment; None is what it can't tell.

    Attributes:
        clock_hz: of the multiprocessors, or of a processor's cores.
        energy_j: a counter that only grows; its differences are energy.
        throttle: why the clocks are held down, by names that all backends share:
            ``power``, ``thermal``, ``other``; empty when they are not.
        other_processes: how many other processes compute on the device.
    """

    clock_hz: float | None = None
    memory_clock_hz: float | None = None
    power_w: float | None = None
    temperature_c: float | None = None
    energy_j: float | None = None
    throttle: tuple[str, ...] | None = None
    other_processes: int | None = None


@dataclass
class Samples:
    """Seconds per step, in the order taken; host seconds where enqueueing is apart from running."""

    device_s: list[float] = field(default_factory=list)
    host_s: list[float] = field(default_factory=list)

    def extend(self, other: "Samples") -> None:
        """Append another batch."""
        self.device_s += other.device_s
        self.host_s += other.host_s


class Device(ABC):
    """A device that workloads run on; the defaults suit one that runs a step synchronously."""

    timer: ClassVar[str] = "host"
    provenance: ClassVar[str] = "measured"
    #: seconds of work before the device's clocks are what they stay at; of warm-up and of samples
    settle_s: ClassVar[float] = 0.0
    info: DeviceInfo
    #: where ``Reading.energy_j`` comes from
    energy_source: ClassVar[str | None] = None
    #: how many times the last-level cache all copies of a case's data together must be, for the
    #: copy that is up next to have left it; replacement that picks at random keeps exp(-5) of it
    rotation_multiple: ClassVar[float] = 5.0
    #: asks a flush that only reads to write instead, and so to leave the cache full of what has yet
    #: to go to memory: other tools' flushes do, and a step that follows one pays for it
    flush_writes: bool = False
    #: where workloads put their tensors: the argument of torch's ``device=``
    torch_device: str = "cpu"
    #: whether something has gone wrong from which only a fresh process recovers
    spoilt: bool = False

    @abstractmethod
    def unsupported(self, precision: str) -> str | None:
        """Why the device can't do ``precision`` in hardware; None if it can."""

    @abstractmethod
    def flush(self) -> None:
        """Clear the last-level cache, so that the next step reads from memory."""

    @abstractmethod
    def expected_s(self, work: "Work", precision: str | None) -> float | None:
        """Roughly how long a step takes, from nominal rates: for planning, never a result."""

    @contextmanager
    def mode(self, precision: str | None) -> Iterator[None]:  # noqa: ARG002 - for backends with modes
        """Hold the device's arithmetic at ``precision`` (TF32 on or off) for one case."""
        yield

    def begin_trial(self, trial: int) -> None:  # noqa: ARG002 - for simulated ones
        """Called once in each worker process; a real device differs between them by itself."""
        return

    def prepare(self, workload: "Workload", params: "Mapping[str, Value]") -> "Prepared":
        """Set a case up on this device."""
        return workload.prepare(self, **params)

    def now(self) -> float:
        """Seconds on the clock that budgets are counted in."""
        return time.perf_counter()

    def synchronize(self) -> None:
        """Wait until everything queued has run."""
        return

    def sample(
        self,
        step: Callable[[], object],
        *,
        inner: int,
        count: int,
        cold: bool,
        paced: bool = False,  # noqa: ARG002 - for devices with a queue
    ) -> Samples:
        """Time ``count`` samples of ``inner`` steps each.

        Cold samples have one step each: the second step would find the first one's data. Paced
        ones follow each other as in their user's loop, and last as long as host or device need,
        whichever is slower; others are the device's time alone, if need be with the host ahead.
        """
        samples = Samples()
        for _ in range(count):
            if cold:
                self.flush()
            start = self.now()
            for _ in range(inner):
                step()
            samples.device_s.append((self.now() - start) / inner)
        return samples

    def timer_cost_s(self) -> float:
        """What timing nothing costs, the smallest of 25 tries."""
        return min(self.sample(lambda: None, inner=1, count=25, cold=False).device_s)

    def reading(self) -> Reading:
        """Clocks, power, temperature …, now; called beside the timed steps, from another thread."""
        return Reading()

    def capture(self, steps: Sequence[Callable[[], object]]) -> Callable[[], object]:  # noqa: ARG002 - for devices with graphs
        """One call that launches all ``steps`` at once, without the host in between.

        Raises:
            Unsupported: the device has no such graphs, or can't capture these steps.
        """
        raise Unsupported(f"{self.info.backend} has no graphs to capture steps in")

    def witnesses(self) -> "dict[str, Callable[[], object]]":
        """Steps that never change, by a name with its article; none where nothing can change."""
        return {}

    def reset_peak_memory(self) -> None:
        """Start a new peak, where the device counts one."""
        return

    def coherent_link(self) -> bool | None:
        """Whether a link other than PCIe joins it to the host's memory; None if it can't tell."""
        return None

    def peak_memory_bytes(self) -> int | None:
        """Most device memory in use since the last reset; None where it isn't counted."""
        return None

    def out_of_memory(self, error: BaseException) -> bool:
        """Whether ``error`` is this device running out of memory."""
        return isinstance(error, MemoryError)


def split_name(name: str) -> tuple[str, str]:
    """``cuda:1`` → (``cuda``, ``1``)."""
    backend, _, selector = name.partition(":")
    return backend, selector


def open_device(name: str) -> Device:
    """Open ``auto``, ``cpu``, ``cuda:0``, ``virtual:CARD`` or what another backend offers.

    Raises:
        UsageError: no such backend or device.
        EnvironmentRefused: the device is there but its software can't drive it.
    """
    name = resolve(name)
    device: Device = backend_of(name).open(split_name(name)[1])
    return device


def backend_of(name: str) -> "ModuleType":
    """The module of the backend that a device's name begins with.

    Raises:
        UsageError: there is no such backend.
    """
    known = list(plugins.files("backends", ".py"))
    backend = split_name(name)[0]
    if backend not in known:
        raise UsageError(
            f"no device is named {name!r}",
            f"give auto, {', '.join(known)} (cuda:1 for the second card, virtual:CARD for a "
            "simulated one); `gpubench devices` shows what is here",
        )
    return plugins.module("backends", backend)


def resolve(name: str) -> str:
    """What ``auto`` stands for here: the best device that is present."""
    return present()[0].name if name == "auto" else name


def present() -> list[DeviceInfo]:
    """Every device that is here, best first; simulated ones are not here."""
    backends = sorted(plugins.modules("backends"), key=lambda module: -module.PRIORITY)
    return [info for backend in backends for info in backend.present()]
