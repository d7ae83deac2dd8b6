"""How long does it take to know a median to ±1 %? gpubench beside two tools that are in use.

    python benchmarks/time_to_precision.py [--rounds 5]

The same prepared steps, hot, on the processor, in turns, each tool asked in its own words: gpubench
for a 95 % interval of the median within ±1 %, torch.utils.benchmark's `adaptive_autorange` for an
interquartile range of 2 % of the median, pytest-benchmark's fixture for a margin of error of the
mean of 1 % (`--benchmark-precision`); ten seconds at most. Where the 95 % interval of the median of
what was taken is wider than ±1 % after all, the tool is asked again for more, and only its last
call counts: better than its user could do. Prints wall seconds, in how many rounds ±1 % was not
reached, and the ratios between neighbours in time. Without checks, which the others don't have.
Takes some minutes; leave the machine alone meanwhile.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from pytest_benchmark.fixture import BenchmarkFixture
from pytest_benchmark.timers import default_timer
from pytest_benchmark.utils import NameWrapper
from torch.utils.benchmark import Timer

from gpubench import stats
from gpubench.device import Device, open_device
from gpubench.measure import StopRule, measure_step
from gpubench.workload import Prepared, Value, get_workload

HALF_WIDTH = 0.01
LONGEST_S = 10.0
CASES: dict[str, dict[str, Value]] = {
    "gemm": {"shape": "512x512x512", "precision": "fp32"},
    "attention": {
        "batch": 1,
        "heads": 8,
        "sequence": 256,
        "head_dim": 64,
        "causal": True,
        "direction": "forward",
        "precision": "fp32",
    },
    "conv2d": {
        "layer": "conv5_3x3",
        "batch": 2,
        "direction": "forward",
        "layout": "channels_last",
        "precision": "fp32",
    },
    "memory": {"operation": "copy", "mib": 16, "precision": "fp32"},
    "mnist": {"batch": 64, "precision": "fp32"},
}
Attempt = Callable[[float], Sequence[float]]


def with_gpubench(device: Device, prepared: Prepared) -> Attempt:
    """Its own stop rule, with warm-up, check and telemetry; the time is only the cap."""

    def attempt(stricter: float) -> Sequence[float]:
        rule = StopRule(half_width=HALF_WIDTH / stricter, budget_s=LONGEST_S)
        return measure_step(device, prepared, rule=rule).samples.device_s

    return attempt


def with_torch(step: Callable[[], object]) -> Attempt:
    """An interquartile range of 2 % of the median is its nearest notion of ±1 %."""
    import torch

    timer = Timer("step()", globals={"step": step}, num_threads=torch.get_num_threads())

    def attempt(stricter: float) -> Sequence[float]:
        found = timer.adaptive_autorange(
            threshold=2 * HALF_WIDTH, min_run_time=0.01 * stricter**2, max_run_time=LONGEST_S
        )
        return list(found.times)

    return attempt


def with_pytest_benchmark(step: Callable[[], object]) -> Attempt:
    """Its fixture with its defaults but for the precision."""

    def attempt(stricter: float) -> Sequence[float]:
        fixture = BenchmarkFixture(
            Node(),
            disable_gc=True,
            timer=NameWrapper(default_timer),
            min_rounds=5,
            min_time=5e-6,
            max_time=LONGEST_S,
            precision=HALF_WIDTH / stricter,
            confidence=0.95,
            warmup=False,
            warmup_iterations=0,
            calibration_precision=10,
            add_stats=lambda _: None,
            logger=Silent(),
            warner=None,
            disabled=False,
            cprofile=None,
            cprofile_loops=None,
            cprofile_dump=None,
        )
        fixture(step)
        found = fixture.stats.stats
        return [seconds / fixture.stats.iterations for seconds in found.data]

    return attempt


class Node:
    """What the fixture asks of a test."""

    name = fullname = _nodeid = nodeid = "step"


class Silent:
    """What the fixture asks of pytest-benchmark's logger."""

    def debug(self, *_: object, **__: object) -> None:
        """Say nothing."""

    warning = info = warn = debug


def timed(attempt: Attempt) -> tuple[float, bool]:
    """Wall seconds of the first call that gives the median to ±1 %, and whether one did."""
    stricter = 1.0
    while True:
        begin = time.perf_counter()
        samples = attempt(stricter)
        spent = time.perf_counter() - begin
        reached = stats.sample_interval(samples).half_width <= HALF_WIDTH
        if reached or spent >= LONGEST_S:
            return spent, reached
        stricter *= 2**0.5  # about twice as many samples


def main() -> None:
    """Measure in turns and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    device = open_device("cpu")
    print("| case | gpubench | torch | pytest-benchmark | of torch | of pytest-benchmark |")
    print("| --- | --- | --- | --- | --- | --- |")
    everything: dict[str, list[float]] = {"torch": [], "pytest-benchmark": []}
    for name, params in CASES.items():
        prepared = replace(get_workload(name).prepare(device, **params), check=None)
        prepared.step()
        tools = {
            "gpubench": with_gpubench(device, prepared),
            "torch": with_torch(prepared.step),
            "pytest-benchmark": with_pytest_benchmark(prepared.step),
        }
        spent: dict[str, list[float]] = {tool: [] for tool in tools}
        missed = dict.fromkeys(tools, 0)
        for round_number in range(arguments.rounds):
            order = list(tools) if round_number % 2 == 0 else list(reversed(tools))
            for tool in order:
                seconds, reached = timed(tools[tool])
                spent[tool].append(seconds)
                missed[tool] += not reached
        ratios = {
            tool: [ours / theirs for ours, theirs in zip(spent["gpubench"], times, strict=True)]
            for tool, times in spent.items()
        }
        cells = [
            f"{stats.median(times):.2f} s" + (f" ({missed[tool]} missed)" if missed[tool] else "")
            for tool, times in spent.items()
        ]
        for tool in everything:
            everything[tool] += ratios[tool]
            cells.append(f"{stats.median(ratios[tool]):.2f}")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    middle = [f"{stats.median(ratios):.2f}" for ratios in everything.values()]
    print(f"| median of all | | | | {' | '.join(middle)} |")


if __name__ == "__main__":
    main()
