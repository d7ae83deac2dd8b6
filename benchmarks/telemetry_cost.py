"""Does reading clocks, energy and load beside a measurement slow the measurement down?

    python benchmarks/telemetry_cost.py [--device cpu] [--repeats 40] [--block 0.5] [--dose 20]

One step is run in short blocks without telemetry (A) and with it (B), A B B A, in one process: the
ratio of both B to both A of a repeat cancels what drifts. Each block counts as its mean time of a
step, because telemetry is a few moments in each second, which no median of steps would show.

What telemetry costs is far below a shared machine's noise, so B reads ``dose`` times as often as a
run does, and what that adds is divided by the dose: readings cost the same each, so noise shrinks
and the cost doesn't. Prints the median cost over all repeats with its 95 % interval, and exits with
1 if telemetry costs more than 1 % for certain. It takes ``4 x repeats x block`` seconds and writes
nothing.
"""

import argparse
import gc
import os
import statistics
import sys
from collections.abc import Callable
from contextlib import nullcontext

# Before torch is loaded, as in timer_agreement.py: idle threads that spin would hide the cost.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from gpubench import telemetry
from gpubench.device import Device, open_device
from gpubench.errors import GpubenchError
from gpubench.stats import median_interval
from gpubench.workload import get_workload, run_check

LIMIT = 0.01
# Short steps on all cores: a thread beside them takes its time from one of them.
WORKLOAD, PARAMS = "gemm", {"shape": "512x512x512", "precision": "fp32"}
ORDER = (False, True, True, False)


def block_s(device: Device, step: Callable[[], object], count: int, *, watched: bool) -> float:
    """Mean seconds of a step in one block."""
    with telemetry.Telemetry(device) if watched else nullcontext():
        return statistics.fmean(device.sample(step, inner=1, count=count, cold=False).device_s)


def ratios(device: Device, repeats: int, block: float) -> list[float]:
    """Time with telemetry over time without, of each repeat."""
    prepared = device.prepare(get_workload(WORKLOAD), PARAMS)
    prepared.step()
    run_check(prepared)
    warm = device.sample(prepared.step, inner=1, count=100, cold=False).device_s
    count = max(1, round(block / statistics.median(warm)))
    found = []
    gc.disable()  # as gpubench.measure does
    try:
        for repeat in range(repeats):
            print(f"{repeat} of {repeats} repeats", file=sys.stderr)
            taken = [block_s(device, prepared.step, count, watched=watched) for watched in ORDER]
            found.append((taken[1] + taken[2]) / (taken[0] + taken[3]))
    finally:
        gc.enable()
    return found


def main() -> int:
    """Print the ratio; 1 if all of its interval lies above the limit."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", default="cpu", help="as for gpubench run")
    parser.add_argument("--repeats", type=int, default=40, help="how often A B B A is run")
    parser.add_argument("--block", type=float, default=0.5, help="seconds of one block, about")
    parser.add_argument("--dose", type=float, default=20, help="readings, in multiples of a run's")
    given = parser.parse_args()
    device = open_device(given.device)
    telemetry.INTERVAL_S /= given.dose
    telemetry.MOST_SHARE *= given.dose
    with device.mode("fp32"):
        found = median_interval(ratios(device, given.repeats, given.block))
    estimate, low, high = (
        (ratio - 1) / given.dose for ratio in (found.estimate, found.low, found.high)
    )
    print(f"{device.info.card}: {given.repeats} repeats of {WORKLOAD} {PARAMS['shape']}")
    print(
        f"with {given.dose:g} times the readings / without: "
        f"{found.estimate:.4f}  [{found.low:.4f}, {found.high:.4f}]"
    )
    print(f"telemetry costs {estimate:.2%}  [{low:.2%}, {high:.2%}]")
    if low > LIMIT:
        print("telemetry costs MORE THAN 1 %")
        return 1
    print("within 1 %" if high <= LIMIT else "undecided: the interval reaches beyond 1 %")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except GpubenchError as error:
        sys.exit(f"{error}\n{error.remedy}")
