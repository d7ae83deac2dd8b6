"""Other timers than ours, and whether they agree with it on the very same steps.

Both time one step in turns, A B B A …, and what is judged is the median over the rounds of the
ratio of their medians: a shared machine drifts from second to second, and its turns with it.
"""

import gc
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from gpubench import stats
from gpubench.device import Device
from gpubench.measure import TIMER_MULTIPLE
from gpubench.workload import Step

# Long enough for several steps of some milliseconds.
TURN_S = 0.1
# Fewer than six ratios have no 95 % interval.
ROUNDS = 10


@dataclass(frozen=True)
class OtherTimer:
    """Another way to time a step.

    Attributes:
        seconds: of a step, by this timer.
        cold: it clears the last-level cache before each step, so ours has to.
    """

    name: str
    seconds: Callable[[Step], float]
    cold: bool = False


def others(device: Device) -> list[OtherTimer]:
    """Every other timer that is installed and can time this device's steps."""
    found = [OtherTimer("the host's clock", lambda step: by_the_clock(device, step))]
    if device.provenance == "measured":
        found.append(OtherTimer("torch.utils.benchmark", by_torch))
    if device.info.backend == "cuda":
        if _installed("triton.testing"):
            found.append(OtherTimer("triton's do_bench", by_triton, cold=True))
        if _installed("cuda.bench"):
            found.append(OtherTimer("cuda-bench", cache(by_cuda_bench), cold=True))
    return found


def agreement(
    device: Device, step: Step, other: OtherTimer, rounds: int = ROUNDS
) -> stats.Interval:
    """Our time over the other's, with its 95 % interval over the rounds."""
    return stats.sample_interval(
        [ours / theirs for ours, theirs in turns(device, step, other, rounds)]
    )


def turns(device: Device, step: Step, other: OtherTimer, rounds: int) -> list[tuple[float, float]]:
    """Seconds of the step by our timer and by the other, in each round."""
    ways: list[Callable[[], float]] = [
        lambda: by_us(device, step, cold=other.cold),
        lambda: other.seconds(step),
    ]
    found = []
    for number in range(rounds):
        order = (0, 1) if number % 2 == 0 else (1, 0)
        taken = {which: ways[which]() for which in order}
        found.append((taken[0], taken[1]))
    return found


def by_us(device: Device, step: Step, *, cold: bool = False) -> float:
    """By the loop that ``gpubench run`` times microbenchmarks with: the median."""
    step_s = stats.median(device.sample(step, inner=1, count=3, cold=cold).device_s)
    least_s = TIMER_MULTIPLE * device.timer_cost_s()
    inner = 1 if cold else max(1, round(least_s / max(step_s, 1e-9)))
    count = max(5, round(TURN_S / max(inner * step_s, 1e-9)))
    gc.disable()  # as `gpubench.measure` and timeit do
    try:
        return stats.median(device.sample(step, inner=inner, count=count, cold=cold).device_s)
    finally:
        gc.enable()


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


def by_cuda_bench(step: Step) -> float:
    """By NVBench through its Python package, cuda-bench: the mean of its cold measurement."""
    import torch

    bench = import_module("cuda.bench")

    def state_runs(state: Any) -> None:
        def launcher(launch: Any) -> None:
            stream = torch.cuda.ExternalStream(launch.get_stream().addressof())
            with torch.cuda.stream(stream):
                step()

        state.exec(launcher, sync=True)

    bench.register(state_runs)
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "nvbench.json"
        device = str(torch.cuda.current_device())
        bench.run_all_benchmarks(["gpubench", "--devices", device, "--json", str(written)])
        return nvbench_mean_s(json.loads(written.read_text(encoding="utf-8")))


def nvbench_mean_s(document: Any) -> float:
    """Seconds of a step from NVBench's JSON; of several benchmarks the last one's."""
    state = document["benchmarks"][-1]["states"][-1]
    summary = next(one for one in state["summaries"] if one["tag"] == "nv/cold/time/gpu/mean")
    return float(next(one["value"] for one in summary["data"] if one["name"] == "value"))


def _installed(module: str) -> bool:
    try:
        import_module(module)
    except Exception:  # noqa: BLE001 - a broken installation of another's timer is none
        return False
    return True
