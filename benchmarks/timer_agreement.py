"""Do gpubench's timer and torch.utils.benchmark agree on the very same steps?

    python benchmarks/timer_agreement.py [--device auto]

Both time one prepared step in short turns, A B B A …, with a hot cache and as many threads; what
is compared is the median, over all rounds, of the ratio between their medians of one round. Turns
and ratios because a shared machine drifts by more than 5 % from second to second; on one that is
busy all the time the answer is worth little. Prints a table and exits with 1 if some ratio is
further than 5 % from 1. It takes a good minute and writes nothing.
"""

import argparse
import os
import statistics
import sys
import time

# Before torch is loaded: idle threads that spin make steps two-valued as soon as somebody else
# takes a core, up to several times the time of a quiet step.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

from gpubench import timers
from gpubench.device import Device, open_device
from gpubench.errors import GpubenchError
from gpubench.workload import Value, get_workload, run_check

TOLERANCE = 0.05
TORCH = timers.OtherTimer("torch.utils.benchmark", timers.by_torch)
WORKLOAD_S = 15
# Steps of some milliseconds on a CPU (mnist: some ten), so that a turn holds several.
CASES: dict[str, dict[str, Value]] = {
    "gemm": {"shape": "1024x1024x1024", "precision": "fp32"},
    "conv2d": {
        "layer": "conv3_3x3",
        "batch": 2,
        "direction": "forward_backward",
        "layout": "channels_last",
        "precision": "fp32",
    },
    "attention": {
        "batch": 1,
        "heads": 8,
        "sequence": 256,
        "head_dim": 64,
        "causal": True,
        "direction": "forward_backward",
        "precision": "fp32",
    },
    "mnist": {"batch": 64, "precision": "fp32"},
}


def compare(device: Device, name: str) -> tuple[float, float, float]:
    """Medians of both in seconds, and the median ratio of gpubench's to torch's."""
    with device.mode("fp32"):
        prepared = device.prepare(get_workload(name), CASES[name])
        prepared.step()
        run_check(prepared)
        rounds: list[tuple[float, float]] = []
        end = time.monotonic() + WORKLOAD_S
        while (left := end - time.monotonic()) > 0:
            print(f"{name}: {len(rounds)} rounds, {left:.0f} s left", file=sys.stderr)
            rounds += timers.turns(device, prepared.step, TORCH, rounds=2)
    ours, theirs = (statistics.median(column) for column in zip(*rounds, strict=True))
    return ours, theirs, statistics.median(mine / other for mine, other in rounds)


def main() -> int:
    """Print one line for each workload; 1 if some pair of timers disagrees."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", default="auto", help="as for gpubench run")
    device = open_device(parser.parse_args().device)
    print(f"{device.info.card}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    print(f"{'workload':10} {'gpubench':>12} {'torch':>12} {'ratio':>7}")
    failures = 0
    for name in CASES:
        ours, theirs, ratio = compare(device, name)
        within = abs(ratio - 1) <= TOLERANCE
        failures += not within
        verdict = "within 5 %" if within else "MORE THAN 5 % APART"
        print(f"{name:10} {ours * 1e3:9.3f} ms {theirs * 1e3:9.3f} ms {ratio:7.3f}  {verdict}")
    return 1 if failures else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except GpubenchError as error:
        sys.exit(f"{error}\n{error.remedy}")
