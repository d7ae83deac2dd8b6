"""Other timers than ours, and whether they agree with it on the very same steps.

Both time one step in turns, A B B A …, and what is judged is the median over the rounds of the
ratio of their medians: a shared machine drifts from second to second, and its turns with it.
"""

import gc
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from gpubench import stats
from gpubench.device import Device
from gpubench.measure import TIMER_MULTIPLE, StopRule, measure_step
from gpubench.workload import Cache, Prepared, Step, get_workload

# Long enough for several steps of some milliseconds.
TURN_S = 0.1
# Fewer than six ratios have no 95 % interval.
ROUNDS = 10
# How `gpubench run` times a case: with its cache cold, hot at its user's pace, and in a graph.
RUN_WAYS: Mapping[str, tuple[Cache, bool]] = {
    "cold": ("cold", False),
    "hot": ("hot", False),
    "graph": ("cold", True),
}

#: seconds of a step by our timer and by the other, in each round
Pairs = Sequence[tuple[float, float]]


class CannotCompare(Exception):
    """Another timer is broken, or can't be held against ours here; that says nothing of ours."""


@dataclass(frozen=True)
class OtherTimer:
    """Another way to time a step.

    Attributes:
        seconds: of a step, by this timer.
        cold: it clears the last-level cache before each step, by writing, so ours has to.
    """

    name: str
    seconds: Callable[[Step], float]
    cold: bool = False


def others(device: Device) -> list[OtherTimer]:
    """Every other timer that is installed and can time this device's steps in this process."""
    found = [OtherTimer("the host's clock", lambda step: by_the_clock(device, step))]
    if device.provenance == "measured":
        found.append(OtherTimer("torch.utils.benchmark", by_torch))
    if device.info.backend == "cuda" and installed("triton.testing"):
        found.append(OtherTimer("triton's do_bench", by_triton, cold=True))
    return found


def installed(module: str) -> bool:
    """Whether it is there at all; a broken one is, and using it will say what is wrong with it."""
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError as error:
        return error.name != module.partition(".")[0]
    except Exception:  # noqa: BLE001 - finding a module runs the package that it is in
        return True


def prepared(device: Device, workload: str, params: Mapping[str, Any]) -> Prepared:
    """A case set up on the device, and warm."""
    found = device.prepare(get_workload(workload), params)
    for _ in range(3):
        found.step()
    device.synchronize()
    return found


def ratio(pairs: Pairs) -> stats.Interval:
    """Our time over the other's, with its 95 % interval over the rounds."""
    return stats.sample_interval([ours / theirs for ours, theirs in pairs])


def turns(device: Device, step: Step, other: OtherTimer, rounds: int = ROUNDS) -> Pairs:
    """The step by our plain loop and by another timer.

    Raises:
        CannotCompare: the other timer fails.
    """
    return _in_turns(
        lambda: by_us(device, step, cold=other.cold), lambda: _by_other(other, step), rounds
    )


def run_turns(device: Device, case: Prepared, way: str, rounds: int = ROUNDS) -> Pairs:
    """A case as one of `RUN_WAYS` measures it, and its step by the host's clock.

    Raises:
        CannotCompare: the case can't be measured in that way here.
    """
    return _in_turns(
        lambda: by_a_run(device, case, way), lambda: by_the_clock(device, case.step), rounds
    )


def _in_turns(ours: Callable[[], float], theirs: Callable[[], float], rounds: int) -> Pairs:
    ways, found = (ours, theirs), []
    for number in range(rounds):
        order = (0, 1) if number % 2 == 0 else (1, 0)
        taken = {which: ways[which]() for which in order}
        found.append((taken[0], taken[1]))
    return found


def _by_other(other: OtherTimer, step: Step) -> float:
    try:
        seconds = other.seconds(step)
    except Exception as error:
        raise CannotCompare(f"{type(error).__name__}: {error}") from error
    if not 0 < seconds < math.inf:
        raise CannotCompare(f"it says that a step takes {seconds} s")
    return seconds


def by_us(device: Device, step: Step, *, cold: bool = False) -> float:
    """By the loop that ``gpubench run`` times microbenchmarks with: the median.

    Where it is cold it is so by writing, as by the timers that it is compared with: what they
    leave in the cache has to go to memory while their step runs, and so it has to in ours.
    """
    before, device.flush_writes = device.flush_writes, cold
    gc.disable()  # as `gpubench.measure` and timeit do
    try:
        step_s = stats.median(device.sample(step, inner=1, count=3, cold=cold).device_s)
        least_s = TIMER_MULTIPLE * device.timer_cost_s()
        inner = 1 if cold else max(1, round(least_s / max(step_s, 1e-9)))
        count = max(5, round(TURN_S / max(inner * step_s, 1e-9)))
        return stats.median(device.sample(step, inner=inner, count=count, cold=cold).device_s)
    finally:
        gc.enable()
        device.flush_writes = before


def by_a_run(device: Device, case: Prepared, way: str) -> float:
    """By the very function that ``gpubench run`` measures cases with, its check left out.

    Raises:
        CannotCompare: something else was timed than the step alone, again and again.
    """
    cache, graph = RUN_WAYS[way]
    rule = StopRule(budget_s=TURN_S, warmup_s=TURN_S, graph=graph)
    found = measure_step(device, replace(case, check=None), cache=cache, rule=rule)
    if graph and found.notes["graph"] != "used":
        raise CannotCompare(f"graph {found.notes['graph']}")
    if found.cold_by == "flush":
        raise CannotCompare("the cache has to be flushed between steps here")
    return stats.median(found.samples.device_s)


def by_the_clock(device: Device, step: Step) -> float:
    """Many steps between two looks at the clock that budgets are counted in."""
    count, spent = 1, 0.0
    while True:
        device.synchronize()
        begin = device.now()
        for _ in range(count):
            step()
        device.synchronize()
        spent = device.now() - begin
        if spent >= TURN_S:
            return spent / count
        count = max(2 * count, round(1.2 * count * TURN_S / max(spent, 1e-9)))


def by_torch(step: Step) -> float:
    """By torch.utils.benchmark, which would use one thread if not told."""
    import torch
    from torch.utils.benchmark import Timer

    timer = Timer("step()", globals={"step": step}, num_threads=torch.get_num_threads())
    return float(timer.blocked_autorange(min_run_time=TURN_S).median)


def by_triton(step: Step) -> float:
    """By triton.testing.do_bench, which tells milliseconds."""
    do_bench = import_module("triton.testing").do_bench
    return float(do_bench(step, warmup=25, rep=1e3 * TURN_S, return_mode="median")) / 1e3
