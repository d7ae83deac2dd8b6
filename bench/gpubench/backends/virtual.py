"""A simulated card on a virtual clock: the real loop, in no time, with scripted trouble.

``virtual:geforce-rtx-4090`` takes its step times from the catalogue's peaks at nominal shares.
A script behind it makes trouble on purpose, ``virtual:tesla-t4,noise=0.05,crash=bert*``; its keys
are the fields of `Script`. Rows carry ``provenance = "virtual"``: they show what the tool does,
never what a card can do.
"""

import math
import os
import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from gpubench.cards import Card, get_card, unsupported_precision
from gpubench.device import Device, DeviceInfo, Reading, Samples, split_name
from gpubench.errors import Unsupported, UsageError, unknown_name
from gpubench.workload import Case, Prepared

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gpubench.doctor import Check
    from gpubench.workload import Value, Work, Workload

EXAMPLE = "virtual:geforce-rtx-3090"
PRIORITY = -1

# Under load a card warms up by this much, two thirds of it in the first minute.
COLD_C, WARMING_C, WARMING_S = 40.0, 35.0, 60.0


@dataclass(frozen=True)
class Script:
    """What the simulated card does; the defaults are a card in good health.

    Attributes:
        seed: of the noise.
        noise: relative standard deviation of a step.
        warmup: how much slower the first step is (0.5: half as slow again) …
        warmup_steps: … and over how many steps that fades to a third.
        drift: relative slow-down per second of virtual time, as a card that heats up.
        throttle_after: virtual seconds until the card throttles.
        throttle: factor on times from then on.
        throttle_reason: what the driver says of it: power, thermal or other.
        second_mode: share of steps that take ``second_mode_factor`` as long (bimodal times).
        second_mode_factor: see ``second_mode``.
        slowdown: factor on all times: a regression to be found.
        hot: share of a step's time that remains when its data is in the cache.
        launch_s: what the host takes to enqueue a step; a shorter step waits for it.
        other_processes: how many others compute on the card.
        unreadable: pattern of the readings that the card can't give, such as energy_j or *.
        tick: resolution of the clock, in seconds.
        timer_error: factor on the times that are measured, while the clock goes on as before.
        energy_error: factor on what the counter of energy counts.
        oom: pattern of case ids that run out of memory.
        crash: pattern of case ids at which the process dies.
        hang: pattern of case ids that never return.
        wrong: pattern of case ids whose result is wrong.
    """

    seed: int = 0
    noise: float = 0.01
    warmup: float = 0.5
    warmup_steps: int = 5
    drift: float = 0.0
    throttle_after: float = float("inf")
    throttle: float = 1.0
    throttle_reason: str = "thermal"
    second_mode: float = 0.0
    second_mode_factor: float = 1.0
    slowdown: float = 1.0
    hot: float = 0.9
    launch_s: float = 0.0
    other_processes: int = 0
    unreadable: str = ""
    tick: float = 1e-9
    timer_error: float = 1.0
    energy_error: float = 1.0
    oom: str = ""
    crash: str = ""
    hang: str = ""
    wrong: str = ""


class VirtualOutOfMemory(MemoryError):
    """The simulated card has too little memory, or its script says so."""


def present() -> list[DeviceInfo]:
    """None: a simulated card is never here."""
    return []


def checks(name: str) -> "Iterator[Check]":
    """What `gpubench doctor` says of a simulated card, where it is named."""
    from gpubench.doctor import Check, note

    if name:
        card = open(split_name(name)[1]).info.card
        text = f"{card}: it shows what the tool does, never what a card does"
        yield Check(name, "device", lambda: note(text))


def open(selector: str) -> "VirtualDevice":  # noqa: A001 - the name of the backend contract
    """Open ``CARD[,key=value…]``."""
    card_id, *settings = selector.split(",")
    if not card_id:
        raise UsageError(
            "a virtual device needs a card",
            "give --device virtual:geforce-rtx-4090; `gpubench list cards` shows them all",
        )
    return VirtualDevice(get_card(card_id), parse_script(settings))


def parse_script(settings: list[str]) -> Script:
    """``["noise=0.05", "crash=bert*"]`` → Script.

    Raises:
        UsageError: an unknown key or a value that is not of its type.
    """
    kinds: dict[str, type] = {field.name: type(field.default) for field in fields(Script)}
    values: dict[str, object] = {}
    for setting in settings:
        key, _, text = setting.partition("=")
        if key not in kinds:
            raise unknown_name("setting of a virtual device", key, kinds)
        try:
            values[key] = kinds[key](text)
        except ValueError as error:
            raise UsageError(
                f"{key} of a virtual device takes a {kinds[key].__name__}, got {text!r}"
            ) from error
    return Script(**values)  # type: ignore[arg-type]  # checked against the fields just above


class VirtualDevice(Device):
    """Steps that only advance a clock of their own."""

    timer = "virtual"
    provenance = "virtual"
    energy_source = "virtual"

    def __init__(self, card: Card, script: Script | None = None) -> None:
        self.card = card
        self.script = script or Script()
        self.random = random.Random(self.script.seed)
        self._now_s = 0.0
        self._steps = 0
        self._host_s = 0.0
        self._is_replaying = False
        self._cached: object = None
        self._peak_memory: int | None = None
        self.info = DeviceInfo(
            name=f"virtual:{card.card_id}",
            backend="virtual",
            card=f"{card.name} (virtual)",
            card_id=card.card_id,
            architecture=card.architecture,
            memory_bytes=card.memory_bytes,
            cache_bytes=card.cache_bytes,
            compute_capability=card.compute_capability,
            power_limit_w=card.power_w,
        )

    def begin_trial(self, trial: int) -> None:
        """Other noise in each process, the same again in the same trial."""
        self.random = random.Random(f"{self.script.seed}:{trial}")

    def unsupported(self, precision: str) -> str | None:
        """By the card's compute capability."""
        return unsupported_precision(self.card.capability, precision)

    def flush(self) -> None:
        """Writing twice the cache takes its time, too."""
        self._now_s += 2 * self.card.cache_bytes / self.card.bandwidth
        self._cached = None

    def now(self) -> float:
        """The virtual clock."""
        return round(self._now_s / self.script.tick) * self.script.tick

    def expected_s(self, work: "Work", precision: str | None) -> float | None:
        """The catalogue's nominal time."""
        return self.card.nominal_s(work.flops, work.bytes, precision)

    def prepare(self, workload: "Workload", params: "Mapping[str, Value]") -> Prepared:
        """A step that advances the clock by what the case's declared work would take.

        Raises:
            Unsupported: the workload declares no work before preparing.
        """
        case_id = Case(workload.name, tuple(params.items())).id
        work = workload.work(params)
        if work is None:
            raise Unsupported(f"{workload.name} declares no work, so a virtual card can't price it")
        self._follow_script(case_id, work)
        self._steps = 0
        self._peak_memory = int(work.footprint) if work.footprint else None
        precision = params.get("precision")
        base = self.expected_s(work, precision if isinstance(precision, str) else None) or 0.0

        def another() -> Callable[[], None]:
            # Data that is larger than the cache is never in it.
            data = object() if (work.bytes or 0) <= self.card.cache_bytes else None
            return lambda: self._advance(base, data)

        return Prepared(
            step=another(),
            check=(self._wrong if fnmatchcase(case_id, self.script.wrong) else None),
            another=another,
            work=work,
        )

    def sample(
        self,
        step: Callable[[], object],
        *,
        inner: int,
        count: int,
        cold: bool,
        paced: bool = False,
    ) -> Samples:
        """As any device does; with a script that makes launching cost time, the host's part too."""
        samples = Samples()
        for _ in range(count):
            before = self._host_s
            samples.extend(super().sample(step, inner=inner, count=1, cold=cold, paced=paced))
            samples.device_s[-1] *= self.script.timer_error
            if self.script.launch_s:
                samples.host_s.append((self._host_s - before) / inner)
        return samples

    def capture(self, steps: Sequence[Callable[[], object]]) -> Callable[[], object]:
        """One call that runs all of them, with nothing to enqueue for each."""

        def replay() -> None:
            self._is_replaying = True
            try:
                for step in steps:
                    step()
            finally:
                self._is_replaying = False

        return replay

    def reading(self) -> Reading:
        """The card's rated power all the time, and clocks that fall as its script slows it down."""
        script, now_s = self.script, self.now()
        throttles = self._now_s >= script.throttle_after
        reading = Reading(
            clock_hz=self.card.boost_clock_hz / self._slower(),
            power_w=self.card.power_w,
            temperature_c=COLD_C + WARMING_C * -math.expm1(-now_s / WARMING_S),
            energy_j=self.card.power_w * now_s * script.energy_error,
            throttle=(script.throttle_reason,) if throttles else (),
            other_processes=script.other_processes,
        )
        hidden = [field.name for field in fields(Reading)]
        hidden = [name for name in hidden if fnmatchcase(name, script.unreadable)]
        return replace(reading, **dict.fromkeys(hidden))

    def peak_memory_bytes(self) -> int | None:
        """The declared footprint."""
        return self._peak_memory

    def _follow_script(self, case_id: str, work: "Work") -> None:
        if fnmatchcase(case_id, self.script.crash):
            os.kill(os.getpid(), signal.SIGKILL)
        if fnmatchcase(case_id, self.script.hang):
            time.sleep(3600)
        too_large = (work.footprint or 0) > self.card.memory_bytes
        if too_large or fnmatchcase(case_id, self.script.oom):
            raise VirtualOutOfMemory(f"the virtual {self.card.name} is out of memory")

    def _wrong(self) -> None:
        raise AssertionError("the script of the virtual device says that this result is wrong")

    def _slower(self) -> float:
        """How many times slower the card is by now than when its work began."""
        throttles = self._now_s >= self.script.throttle_after
        return (1 + self.script.drift * self._now_s) * (self.script.throttle if throttles else 1)

    def _advance(self, base: float, data: object = "the same") -> None:
        script = self.script
        seconds = base * script.slowdown * self._slower()
        seconds *= 1 + script.warmup * 3 ** (-self._steps / script.warmup_steps)
        if self.random.random() < script.second_mode:
            seconds *= script.second_mode_factor
        if data is not None and data is self._cached:
            seconds *= script.hot
        seconds *= max(0.1, self.random.gauss(1, script.noise))
        if not self._is_replaying:
            self._host_s += script.launch_s
            seconds = max(seconds, script.launch_s)
        self._now_s += seconds
        self._steps += 1
        self._cached = data
