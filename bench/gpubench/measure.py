"""Measure one case: check the result, warm until stable, sample, stop when it is precise enough.

The order matters and is the whole method (docs/method.md tells why): prepare → first step, which
pays for compilation and autotuning → check against the reference → warm-up → samples. The loop
runs on any backend, and on the virtual one in no time.
"""

import gc
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from gpubench import stats
from gpubench.device import Device, Samples
from gpubench.errors import Unsupported
from gpubench.telemetry import FOREIGN_LOAD_LIMIT, HostLoad
from gpubench.workload import Cache, Case, Work, get_workload, run_check

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


@dataclass(frozen=True)
class StopRule:
    """When a case counts as measured.

    Attributes:
        half_width: relative half-width of the median's 95 % interval to stop at.
        budget_s: seconds of sampling at most.
        warmup_s: seconds of warm-up at most.
        least: samples at least, unless one step takes longer than the budget.
    """

    half_width: float = 0.01
    budget_s: float = 2.0
    warmup_s: float = 1.0
    least: int = 10


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
    peak_memory_bytes: int | None = None
    notes: Mapping[str, str] = field(default_factory=dict)
    outcome: Mapping[str, float] = field(default_factory=dict)
    foreign_load: float | None = None
    flags: tuple[str, ...] = ()


def measure(device: Device, case: Case, rule: StopRule | None = None) -> Measurement:
    """Measure ``case`` on ``device``.

    Raises:
        Unsupported: the device lacks what the case needs; nothing was run.
        WrongResult: the result differs from the reference; nothing was timed.
    """
    rule = rule or StopRule()
    params = dict(case.params)
    if case.precision and (reason := device.unsupported(case.precision)):
        raise Unsupported(reason)
    workload = get_workload(case.workload)
    with device.mode(case.precision):
        prepared = device.prepare(workload, params)
        first_step_s = _elapsed(device, prepared.step)
        run_check(prepared)
        with _garbage_collector_off():
            device.reset_peak_memory()  # neither the check's reference nor the last case's model
            warmup_s, step_s, settled = _warm(device, prepared.step, rule)
            cold = case.cache == "cold"
            timer_s = device.timer_cost_s()
            inner = 1 if cold else max(1, round(TIMER_MULTIPLE * timer_s / max(step_s, 1e-9)))
            with HostLoad() as load:
                samples, stop = _sample(device, prepared.step, step_s, rule, inner=inner, cold=cold)
            if prepared.waits:
                samples.host_s.clear()
        outcome = prepared.outcome() if prepared.outcome else {}
        peak = device.peak_memory_bytes()
    is_real = device.provenance == "measured"
    # A host clock times whatever else the processor does; device events don't.
    disturbed = device.timer == "host" and (load.foreign or 0.0) > FOREIGN_LOAD_LIMIT
    return Measurement(
        samples=samples,
        timer=device.timer,
        cache=case.cache,
        inner=inner,
        first_step_s=first_step_s,
        warmup_s=warmup_s,
        stop=stop,
        work=prepared.work or workload.work(params) or Work(),
        peak_memory_bytes=peak,
        notes=prepared.notes,
        outcome=outcome,
        foreign_load=load.foreign if is_real else None,
        flags=(
            *_flags(samples, inner, timer_s, stop, settled=settled),
            *(("other_processes",) if disturbed else ()),
        ),
    )


def _elapsed(device: Device, step: Callable[[], object]) -> float:
    """Seconds of one step as its caller sees them."""
    device.synchronize()  # set-up may still be queued
    start = device.now()
    step()
    device.synchronize()
    return device.now() - start


def _warm(device: Device, step: Callable[[], object], rule: StopRule) -> tuple[float, float, bool]:
    """Step until two neighbouring windows agree in their medians.

    Windows are queued and timed as samples are, so that the host's share of a lone step does not
    count; and the device gets ``settle_s`` at least, however short its steps: clocks take their
    time to rise, and steps that all run before they do agree with each other.

    Returns:
        Seconds spent, seconds a step takes now, and whether the times settled before the cap.
    """
    begin = device.now()
    step_s, before = _elapsed(device, step), math.nan
    while (spent := device.now() - begin) < rule.warmup_s:
        if spent >= device.settle_s and abs(step_s - before) <= WARM_TOLERANCE * before:
            return spent, step_s, True
        before = step_s
        count = max(WARM_STEPS, min(MOST_QUEUED, int(WARM_WINDOW_S / max(step_s, 1e-9))))
        step_s = stats.median(device.sample(step, inner=1, count=count, cold=False).device_s)
    return spent, step_s, False


def _sample(
    device: Device,
    step: Callable[[], object],
    step_s: float,
    rule: StopRule,
    *,
    inner: int,
    cold: bool,
) -> tuple[Samples, str]:
    """Take samples until they are precise enough, too many, or out of time."""
    samples = Samples()
    begin = device.now()
    # Batches grow, so that a device with a queue is synchronised rarely and judged seldom.
    batch = rule.least if step_s * inner * rule.least < rule.budget_s else 1
    while True:
        samples.extend(device.sample(step, inner=inner, count=batch, cold=cold))
        taken = len(samples.device_s)
        spent = device.now() - begin
        enough = taken >= rule.least and spent >= device.settle_s
        if enough and stats.median_interval(samples.device_s).half_width <= rule.half_width:
            return samples, "precise"
        if spent >= rule.budget_s:
            return samples, "budget"
        if taken >= MOST_SAMPLES:
            return samples, "count"
        left = int((rule.budget_s - spent) / (spent / taken)) + 1
        batch = max(1, min(taken // 2, left, MOST_SAMPLES - taken))


def _flags(
    samples: Samples, inner: int, timer_s: float, stop: str, *, settled: bool
) -> tuple[str, ...]:
    """What a reader should know before believing the number."""
    middle = stats.median(samples.device_s)
    found = {
        "unconverged": stop != "precise",
        "unsettled": not settled,
        "short": middle * inner < TIMER_MULTIPLE * timer_s,
        # The least: where the stream is full, the host's time includes waiting for the device.
        "launch_bound": bool(samples.host_s) and min(samples.host_s) >= LAUNCH_BOUND_SHARE * middle,
    }
    return tuple(name for name, holds in found.items() if holds)


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
