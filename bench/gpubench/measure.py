"""Measure one case: check the result, warm until stable, sample, stop when it is precise enough.

The order matters and is the whole method (docs/method.md tells why): prepare → first step, which
pays for compilation and autotuning → check against the reference → warm-up → samples. The loop
runs on any backend, and on the virtual one in no time.
"""

import gc
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any

from gpubench import stats
from gpubench.device import Device, Samples
from gpubench.errors import Unsupported
from gpubench.telemetry import Telemetry
from gpubench.workload import Cache, Case, Prepared, Step, Work, get_workload, run_check

# A sample must last this many times what timing nothing costs, so that the timer's share of it
# stays below 2 %.
TIMER_MULTIPLE = 50
# From this share of enqueueing in the device's time on, the device waits for the host.
LAUNCH_BOUND_SHARE = 0.8
# A window of the warm-up: this many steps, or as many as take this long.
WARM_STEPS = 5
WARM_WINDOW_S = 0.025
WARM_TOLERANCE = 0.02
# A CUDA stream takes about a thousand launches before it makes the host wait.
MOST_QUEUED = 500
MOST_SAMPLES = 10_000
# Whoever looks too early stops at a lucky streak: from 20 samples on the interval keeps its 94 %.
FIRST_LOOK = 20
# Samples beyond the estimate of what is missing, so that the next look is most often the last.
SLACK = 1.1
# How much wider the 99 % interval of a median is than the 95 % one: their normal quantiles' ratio.
WIDER_AT_99 = 1.314
# Copies of a case's data that take turns; and how much of the memory they may fill.
MOST_COPIES = 512
COPIES_MEMORY_SHARE = 0.25
# Steps in one CUDA graph, where copies don't ask for more: launching it is then one in twenty.
GRAPH_STEPS = 20
# Energy counts as that of the steps where they fill this share of the time it was read over.
BUSY_SHARE = 0.95
# Times that drift by more than this from the first third of the samples to the last are flagged.
DRIFT_LIMIT = 0.02


@dataclass(frozen=True)
class StopRule:
    """When a case counts as measured, and how its steps are launched.

    Attributes:
        half_width: relative half-width of the median's 95 % interval to stop at.
        budget_s: seconds of sampling at most.
        warmup_s: seconds of warm-up at most.
        least: samples at least, unless one step takes longer than the budget.
        sustain_s: seconds of sampling at least, to see what a card does once it is hot.
        graph: launch steps as one CUDA graph, which takes the host's part out.
    """

    half_width: float = 0.01
    budget_s: float = 2.0
    warmup_s: float = 1.0
    least: int = 10
    sustain_s: float = 0.0
    graph: bool = False


@dataclass(frozen=True)
class Measurement:
    """What one case gave, in seconds per step and bytes."""

    samples: Samples
    timer: str
    cache: Cache
    inner: int
    first_step_s: float
    warmup_s: float
    stop: str
    work: Work
    conditions: Mapping[str, Any] = field(default_factory=dict)
    cold_by: str | None = None
    peak_memory_bytes: int | None = None
    notes: Mapping[str, str] = field(default_factory=dict)
    outcome: Mapping[str, float] = field(default_factory=dict)
    flags: tuple[str, ...] = ()

    def columns(self) -> dict[str, Any]:
        """By the names of the result file's columns, all but the work."""
        return {
            "samples_s": self.samples.device_s,
            "host_samples_s": self.samples.host_s or None,
            "timer": self.timer,
            "cache": self.cache,
            "cold_by": self.cold_by,
            "inner": self.inner,
            "first_step_s": self.first_step_s,
            "warmup_s": self.warmup_s,
            "stop": self.stop,
            "peak_memory_bytes": self.peak_memory_bytes,
            "outcome": dict(self.outcome),
            "notes": dict(self.notes),
            "flags": list(self.flags),
            **self.conditions,
        }


@dataclass(frozen=True)
class Launch:
    """How the steps of one case are launched and timed.

    Attributes:
        step: what a sample calls ``inner`` times.
        each: steps of the case in one such call (more than one in a graph).
        flushed: whether the cache is flushed before each sample.
        paced: whether it runs as its user's loop does, the host's pace being part of it.
    """

    step: Step
    timer: str
    each: int = 1
    flushed: bool = False
    paced: bool = False
    cold_by: str | None = None
    note: str | None = None

    def sample(self, device: Device, *, inner: int, count: int, cold: bool) -> Samples:
        """Samples per step of the case."""
        taken = device.sample(self.step, inner=inner, count=count, cold=cold, paced=self.paced)
        if self.each == 1:
            return taken
        return Samples([seconds / self.each for seconds in taken.device_s])


def measure(device: Device, case: Case, rule: StopRule | None = None) -> Measurement:
    """Measure ``case`` on ``device``.

    Raises:
        Unsupported: the device lacks what the case needs; nothing was run.
        WrongResult: the result differs from the reference; nothing was timed.
    """
    params = dict(case.params)
    if case.precision and (reason := device.unsupported(case.precision)):
        raise Unsupported(reason)
    workload = get_workload(case.workload)
    with device.mode(case.precision):
        prepared = device.prepare(workload, params)
        work = prepared.work or workload.work(params)
        return measure_step(device, prepared, cache=case.cache, rule=rule, work=work)


def measure_step(
    device: Device,
    prepared: Prepared,
    *,
    cache: Cache = "hot",
    rule: StopRule | None = None,
    work: Work | None = None,
) -> Measurement:
    """Check, warm and time a step that is ready on ``device``, in whatever mode that is now.

    Raises:
        WrongResult: the result differs from the reference; nothing was timed.
    """
    rule, work = rule or StopRule(), work or prepared.work or Work()
    first_step_s = _elapsed(device, prepared.step)
    run_check(prepared)
    with _garbage_collector_off():
        device.reset_peak_memory()  # neither the check's reference nor the last case's model
        peak = _peak_without_copies(device, prepared.step) if cache == "cold" else None
        launch = _launch(device, prepared, cache, rule, work)
        warmup_s, step_s, settled = _warm(device, launch, rule)
        least_s = TIMER_MULTIPLE * device.timer_cost_s()
        inner = _calls_per_sample(launch, step_s, least_s, rule)
        with Telemetry(device) as telemetry:
            samples, stop = _sample(device, launch, step_s, rule, inner)
        if prepared.waits:
            samples.host_s.clear()
        outcome = prepared.outcome() if prepared.outcome else {}
        if cache == "hot":
            peak = device.peak_memory_bytes()
    inner *= launch.each
    return Measurement(
        samples=samples,
        timer=launch.timer,
        cache=cache,
        cold_by=launch.cold_by,
        inner=inner,
        first_step_s=first_step_s,
        warmup_s=warmup_s,
        stop=stop,
        work=work,
        conditions=_conditions(device, telemetry, samples, inner, launch),
        peak_memory_bytes=peak,
        notes=dict(prepared.notes) | ({"graph": launch.note} if launch.note else {}),
        outcome=outcome,
        flags=(
            *_flags(samples, inner, least_s, stop, settled=settled),
            *telemetry.flags(device.timer),
        ),
    )


def witness_s(device: Device) -> dict[str, float]:
    """Seconds that the device's unchanging steps take now, by their names; none if they fail."""
    # Beside each test of a user, so neither long nor exact.
    rule = StopRule(half_width=0.02, budget_s=0.3, warmup_s=0.1)
    try:
        with device.mode("fp32"):
            return {
                name: stats.median(measure_step(device, Prepared(step), rule=rule).samples.device_s)
                for name, step in device.witnesses().items()
            }
    except Exception:  # noqa: BLE001 - beside a test that fills the memory there is no place for them
        return {}


def _launch(device: Device, prepared: Prepared, cache: Cache, rule: StopRule, work: Work) -> Launch:
    """Decide how cold is had and whether a graph launches the steps."""
    steps = _cold_steps(device, prepared, work) if cache == "cold" else [prepared.step]
    flushed = not steps
    cold_by = None if cache == "hot" else "flush" if flushed else "rotation"
    steps = steps or [prepared.step]
    note = None
    if rule.graph and flushed:
        note = "not used: inside a graph only copies that take turns stay cold"
    elif rule.graph and prepared.waits:
        # Nor tried: what a refused capture breaks off in the middle is the step's own state.
        note = "not used: the step waits for the device"
    elif rule.graph:
        repeated = steps * max(1, round(GRAPH_STEPS / len(steps)))
        try:
            replay = device.capture(repeated)
        except Unsupported as error:
            note = f"not used: {error}"
        else:
            timer = "cuda_graph" if device.timer == "cuda_event" else device.timer
            return Launch(replay, timer, each=len(repeated), cold_by=cold_by, note="used")
    return Launch(
        _in_turn(steps),
        device.timer,
        flushed=flushed,
        paced=cache == "hot",
        cold_by=cold_by,
        note=note,
    )


def _peak_without_copies(device: Device, step: Step) -> int | None:
    """Memory of one more step, before there are copies for a cold cache, which no user has."""
    if device.peak_memory_bytes() is None:
        return None
    _elapsed(device, step)
    return device.peak_memory_bytes()


def _calls_per_sample(launch: Launch, step_s: float, least_s: float, rule: StopRule) -> int:
    """How many calls one sample has to hold: after a flush only one step is cold.

    Copies that take turns stay cold for any number.
    """
    if launch.flushed:
        return 1
    call_s = max(step_s * launch.each, 1e-9)
    # A tenth more than needed: the samples may come out shorter than the warm-up said. And so many
    # that the most samples there may be last long enough.
    by_timer = math.ceil(1.1 * least_s / call_s)
    by_time = math.ceil(2 * rule.sustain_s / (MOST_SAMPLES * call_s))
    return max(1, by_timer, by_time)


def _in_turn(steps: Sequence[Step]) -> Step:
    """One step after another at each call, from the first again after the last.

    What a step returns is kept until its next turn: freed at once, its memory would be the next
    step's, and results would be written where the cache still holds the last ones.
    """
    if len(steps) == 1:
        return steps[0]
    turn = cycle(range(len(steps)))
    kept: list[object] = [None] * len(steps)

    def step() -> None:
        index = next(turn)
        kept[index] = None
        kept[index] = steps[index]()

    return step


def _cold_steps(device: Device, prepared: Prepared, work: Work) -> list[Step]:
    """Steps on copies of the case's data that take turns; none if the cache has to be flushed.

    When a copy's turn comes, the others have passed through the cache since: together they are
    several times as large. That keeps any number of steps cold, in a graph too, and spends no
    time on clearing.
    """
    cache, touched = device.info.cache_bytes, work.bytes
    if not cache or not touched:
        return []
    copies = math.ceil(device.rotation_multiple * cache / touched)
    if copies == 1:  # one step leaves nothing of itself
        return [prepared.step]
    available = COPIES_MEMORY_SHARE * (device.info.memory_bytes or 0)
    if prepared.another is None or copies > MOST_COPIES or copies * touched > available:
        return []
    return [prepared.step, *(prepared.another() for _ in range(copies - 1))]


def _conditions(
    device: Device, telemetry: Telemetry, samples: Samples, inner: int, launch: Launch
) -> dict[str, Any]:
    """What went on during the samples, by the names of the result file's columns."""
    # Flushes, and pauses in which the host gets ahead, would count as steps.
    busy_s = sum(samples.device_s) * inner
    is_busy = not launch.flushed and busy_s >= BUSY_SHARE * telemetry.window_s
    energy_j = telemetry.energy_j if is_busy else None
    return {
        "sm_clock_hz": telemetry.sm_clock_hz,
        "memory_clock_hz": telemetry.memory_clock_hz,
        "power_w": telemetry.power_w,
        "temperature_c": telemetry.temperature_c,
        "processor_clock_hz": telemetry.processor_clock_hz,
        "foreign_load": telemetry.foreign,
        "steal": telemetry.steal,
        "throttle_reasons": telemetry.throttle_reasons,
        "energy_j": None if energy_j is None else energy_j / len(samples.device_s) / inner,
        "energy_source": None if energy_j is None else device.energy_source,
    }


def _elapsed(device: Device, step: Step) -> float:
    """Seconds of one step as its caller sees them."""
    device.synchronize()  # set-up may still be queued
    start = device.now()
    step()
    device.synchronize()
    return device.now() - start


def _warm(device: Device, launch: Launch, rule: StopRule) -> tuple[float, float, bool]:
    """Step until two neighbouring windows agree in their medians, and on a GPU in their clocks.

    Windows are queued and timed as samples are, so that the host's share of a lone step does not
    count; and the device gets ``settle_s`` at least, however short its steps: clocks take their
    time to rise, and steps that all run before they do agree with each other.

    Returns:
        Seconds spent, seconds a step takes now, and whether the times settled before the cap.
    """
    begin = device.now()
    step_s, before = _elapsed(device, launch.step) / launch.each, math.nan
    clock, clock_before = _clock_hz(device), None
    while True:
        spent = device.now() - begin
        settled = _close(step_s, before) and _close(clock, clock_before)
        if (settled and spent >= device.settle_s) or spent >= rule.warmup_s:
            return spent, step_s, settled
        before, clock_before = step_s, clock
        call_s = max(step_s * launch.each, 1e-9)
        count = max(WARM_STEPS, min(MOST_QUEUED, int(WARM_WINDOW_S / call_s)))
        window = launch.sample(device, inner=1, count=count, cold=False)
        step_s = stats.median(window.device_s)
        clock = _clock_hz(device)


def _clock_hz(device: Device) -> float | None:
    """Now; None of a processor, whose clock moves with whatever its other cores do."""
    return None if device.timer == "host" else device.reading().clock_hz


def _close(now: float | None, before: float | None) -> bool:
    """Within the tolerance; what can't be read doesn't hold anything up."""
    return now is None or before is None or abs(now - before) <= WARM_TOLERANCE * before


def _sample(
    device: Device, launch: Launch, step_s: float, rule: StopRule, inner: int
) -> tuple[Samples, str]:
    """Take samples until they are precise enough, too many, or out of time."""
    samples = Samples()
    begin = device.now()
    sample_s = step_s * launch.each * inner
    first_look = max(rule.least, FIRST_LOOK)
    batch = max(1, min(first_look, int(rule.budget_s / max(sample_s, 1e-9))))
    while True:
        samples.extend(launch.sample(device, inner=inner, count=batch, cold=launch.flushed))
        taken = len(samples.device_s)
        spent = device.now() - begin
        enough = taken >= first_look and spent >= max(device.settle_s, rule.sustain_s)
        reached = _half_width(samples.device_s) if enough else math.inf
        if reached <= rule.half_width:
            return samples, "precise"
        too_few = taken < rule.least and sample_s < rule.budget_s
        if spent >= max(rule.budget_s, rule.sustain_s) and not too_few:
            return samples, "budget"
        if taken >= MOST_SAMPLES:
            return samples, "count"
        # The interval narrows with the root of the count; the estimate says where it is due.
        missing = SLACK * taken * (reached / rule.half_width) ** 2 - taken if enough else taken
        left = int((max(rule.budget_s, rule.sustain_s) - spent) / (spent / taken)) + 1
        wanted = max(taken / 2, min(missing, 9 * taken))
        batch = max(1, min(math.ceil(wanted), left, MOST_SAMPLES - taken))


def _half_width(times: Sequence[float]) -> float:
    """Relative half-width of the median's 95 % interval, as a rule for stopping may trust it.

    Its bounds are samples, which lie close together by luck at times, and then sampling would
    stop; those of the 99 % interval are others, so they have to agree.
    """
    wider = stats.sample_interval(times, 0.99).half_width / WIDER_AT_99
    return max(stats.sample_interval(times).half_width, wider)


def _flags(
    samples: Samples, inner: int, least_s: float, stop: str, *, settled: bool
) -> tuple[str, ...]:
    """What a reader should know before believing the number."""
    times = samples.device_s
    middle = stats.median(times)
    found = {
        "unconverged": stop != "precise",
        "unsettled": not settled,
        "short": middle * inner < least_s,
        # The least: where the stream is full, the host's time includes waiting for the device.
        "launch_bound": bool(samples.host_s) and min(samples.host_s) >= LAUNCH_BOUND_SHARE * middle,
        "drift": abs(stats.drift(times)) > DRIFT_LIMIT,
        "bimodal": _apart(stats.two_modes(times)),
    }
    return tuple(name for name, holds in found.items() if holds)


def _apart(modes: Sequence[float] | None) -> bool:
    """Two modes so close that they change nothing are none."""
    return modes is not None and modes[1] > (1 + DRIFT_LIMIT) * modes[0]


@contextmanager
def _garbage_collector_off() -> Iterator[None]:
    """Python's collector would run inside some samples and not in others."""
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
