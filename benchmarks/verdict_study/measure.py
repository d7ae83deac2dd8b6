"""Twenty independent runs of the quick suite, with a workload that is slower by a known share.

    python benchmarks/verdict_study/measure.py [--runs 20] [-o docs/verdict-study.parquet]

Each run is a process of its own with an order of its own, as `gpubench run` always is. Beside the
quick suite it measures the same small product 100, 103 and 110 times in a row: slow-downs of
exactly 3 % and 10 %. Takes about a minute a run; leave the machine alone meanwhile. What it
writes is an ordinary result file, in which each run has a run_id of its own.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from gpubench import plugins, store

HERE = Path(__file__).parent
SLOWED = """
[[case]]
workload = "repeated_product"
"""


def main() -> None:
    """Measure, run by run; after each the file holds all runs so far."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--device", default="auto")
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/verdict-study.parquet"))
    arguments = parser.parse_args()
    environment = os.environ | {"GPUBENCH_PATH": str(HERE)}
    records = []
    with tempfile.TemporaryDirectory() as folder:
        suite = Path(folder) / "quick.toml"
        quick = plugins.find("suites", "quick", ".toml").read_text(encoding="utf-8")
        suite.write_text(quick + SLOWED, encoding="utf-8")
        for number in range(1, arguments.runs + 1):
            part = Path(folder) / f"{number}.parquet"
            command = [sys.executable, "-m", "gpubench", "run", "--suite", str(suite)]
            command += ["--device", arguments.device, "-o", str(part)]
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, check=False
            )
            if done.returncode:
                sys.exit(f"run {number} ended with {done.returncode}:\n{done.stderr[-2000:]}")
            # What could not run would only make the file larger.
            records += [one for one in store.read_records(str(part)) if one.status == "ok"]
            store.Writer(arguments.output, records)
            print(f"run {number} of {arguments.runs} is kept in {arguments.output}", flush=True)


if __name__ == "__main__":
    main()
