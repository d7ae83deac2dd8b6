"""NVBench through its Python package cuda-bench, held against our timer in a process of its own.

NVBench runs what is registered once in a process, and then no more; some of its errors end the
process; and it prints to standard output. None of that may happen where a verification runs.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from gpubench import timers
from gpubench.device import Device, open_device
from gpubench.timers import CannotCompare, Pairs
from gpubench.workload import Step

MODULE = "cuda.bench"
# Seconds that NVBench may take for a round, of its own and of the machine; of all, with torch's
# start and our own turns.
ROUND_S = 1.0
TIMEOUT_S = 180.0
LAST_WORDS = 300


def turns(
    device: str, workload: str, params: Mapping[str, Any], rounds: int = timers.ROUNDS
) -> Pairs:
    """The case's step by our loop and by NVBench, in turns in one new process.

    Raises:
        CannotCompare: NVBench, or that process, fails.
    """
    with tempfile.TemporaryDirectory(prefix="gpubench-") as folder:
        written = Path(folder) / "pairs.json"
        asked = json.dumps([device, workload, dict(params), rounds, str(written)])
        words = [sys.executable, "-m", "gpubench.nvbench", asked]
        _call(words)
        found: list[list[float]] = json.loads(written.read_text(encoding="utf-8"))
    return [(ours, theirs) for ours, theirs in found]


def _call(words: list[str]) -> None:
    try:
        subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=True,
            timeout=TIMEOUT_S,
        )
    except subprocess.CalledProcessError as error:
        said = (error.stderr.strip() or error.stdout.strip()).splitlines()
        text = said[-1][:LAST_WORDS] if said else f"its process ended with {error.returncode}"
        raise CannotCompare(text) from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotCompare(f"{type(error).__name__}: no result in {TIMEOUT_S:.0f} s") from error


def answer(asked: str) -> None:
    """What the process of `turns` does: write the pairs to the file that was named."""
    device_name, workload, params, rounds, written = json.loads(asked)
    device = open_device(device_name)
    with device.mode("fp32"):
        pairs = run(device, timers.prepared(device, workload, params).step, rounds)
    Path(written).write_text(json.dumps(pairs), encoding="utf-8")


def run(device: Device, step: Step, rounds: int) -> Pairs:
    """One run of NVBench of as many states as there are rounds, our turn before or after each."""
    import torch

    bench = import_module(MODULE)
    ours: list[float] = []

    def state_runs(state: Any) -> None:
        def launcher(launch: Any) -> None:
            stream = torch.cuda.ExternalStream(launch.get_stream().addressof())
            with torch.cuda.stream(stream):
                step()

        first = len(ours) % 2 == 0
        if first:
            ours.append(timers.by_us(device, step, cold=True))
        # Not told that the step synchronises, NVBench holds the stream until all is queued: else
        # what launching takes would count, some 10 µs.
        state.exec(launcher, batched=False)
        if not first:
            ours.append(timers.by_us(device, step, cold=True))

    bench.register(state_runs).add_int64_axis("round", list(range(rounds)))
    with tempfile.TemporaryDirectory(prefix="gpubench-") as folder:
        written = Path(folder) / "nvbench.json"
        options = {"--devices": torch.cuda.current_device(), "--timeout": ROUND_S}
        words = [word for name, value in options.items() for word in (name, str(value))]
        bench.run_all_benchmarks(["gpubench", *words, "--json", str(written)])
        theirs = means_s(json.loads(written.read_text(encoding="utf-8")))
    return list(zip(ours, theirs, strict=True))


def means_s(document: Any) -> list[float]:
    """Seconds of a step in each state of NVBench's JSON: the means of its cold measurements."""
    return [_mean_s(state) for state in document["benchmarks"][0]["states"]]


def _mean_s(state: Any) -> float:
    summary = next(one for one in state["summaries"] if one["tag"] == "nv/cold/time/gpu/mean")
    return float(next(one["value"] for one in summary["data"] if one["name"] == "value"))


if __name__ == "__main__":
    answer(sys.argv[1])
