"""Where does the time of a suite go? The share that is spent inside timed steps, and the rest.

    python benchmarks/efficiency.py [--suite quick] [--device auto]

Measures each case as a run's worker does, once its workload is imported, and sets the seconds in
steps (the first one, warm-up and samples) against the wall time. A profiler says what the rest
is. Writes nothing.
"""

import argparse
import cProfile
import pstats
import time

from gpubench import measure, worker, workload
from gpubench.device import Device, open_device, resolve
from gpubench.errors import CaseOutcome
from gpubench.suite import Suite, load_suite

# What the rest can be, by the function that spends it.
PARTS = {
    "preparing inputs": "prepare",
    "checking the result": "run_check",
    "copies for a cold cache": "_cold_steps",
    "clearing the cache": "flush",
    "what timing nothing costs": "timer_cost_s",
    "collecting garbage": "<built-in method gc.collect>",
    "statistics": "sample_interval",
}


def in_steps(measured: measure.Measurement) -> float:
    """Seconds of the first step, of warm-up and of the samples."""
    samples = sum(measured.samples.device_s) * measured.inner
    return measured.first_step_s + measured.warmup_s + samples


def can_run(device: Device, case: workload.Case, suite: Suite) -> bool:
    """Whether a run would measure the case here."""
    work = workload.get_workload(case.workload).work(dict(case.params)) or workload.Work()
    if (device.expected_s(work, case.precision) or 0.0) > suite.step_limit_s:
        return False
    try:
        if case.precision and device.unsupported(case.precision):
            return False
        # Whatever the workload imports is imported now, and not counted.
        device.prepare(workload.get_workload(case.workload), dict(case.params))
    except CaseOutcome:
        return False
    return True


def main() -> None:
    """Measure each case under a profiler; print its share, and what the rest of all is."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--suite", default="quick")
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    suite, device = load_suite(arguments.suite), open_device(resolve(arguments.device))
    rule = measure.StopRule(suite.half_width, suite.budget_s, suite.warmup_s)
    profiler = cProfile.Profile()
    wall = steps = 0.0
    print("| case | wall | in steps |\n| --- | --- | --- |")
    for case in [case for case in suite.cases if can_run(device, case, suite)]:
        begin = time.perf_counter()
        profiler.runcall(worker.set_aside_what_stays)  # as a run's worker does
        inside = in_steps(profiler.runcall(measure.measure, device, case, rule))
        spent = time.perf_counter() - begin
        wall, steps = wall + spent, steps + inside
        print(f"| {case.id} | {spent:.2f} s | {inside / spent:.0%} |", flush=True)
    print(f"| all | {wall:.2f} s | {steps / wall:.0%} |")
    rows = pstats.Stats(profiler).stats  # type: ignore[attr-defined]  # typeshed leaves it out
    print("\n| part of the rest | seconds | of all |\n| --- | --- | --- |")
    for part, function in PARTS.items():
        spent = max((row[3] for place, row in rows.items() if place[2] == function), default=0.0)
        print(f"| {part} | {spent:.2f} | {spent / wall:.1%} |")


if __name__ == "__main__":
    main()
