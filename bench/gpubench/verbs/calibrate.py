"""``gpubench calibrate``: learn this machine's own noise."""

from __future__ import annotations

import argparse
import sys

from gpubench import errors
from gpubench.verbs._flags import add_format, positive


def add_arguments(sub: argparse.ArgumentParser) -> None:
    """Flags of ``calibrate``."""
    sub.add_argument(
        "results",
        nargs="*",
        metavar="RESULTS",
        help="runs of one build on this machine; without any, they are measured now",
    )
    sub.add_argument("--suite", default="quick", metavar="NAME|FILE.toml", help="default: quick")
    sub.add_argument(
        "--device", default="auto", metavar="NAME", help="auto, cpu, cuda:0 or virtual:CARD"
    )
    sub.add_argument(
        "--trials", type=positive, default=10, metavar="N", help="processes to measure; default: 10"
    )
    sub.add_argument(
        "-o", "--output", default="results", metavar="DIR|FILE", help="default: results"
    )
    add_format(sub)


def call(arguments: argparse.Namespace) -> int:
    """Learn this machine's own noise, from given runs or from new ones."""
    from gpubench import calibration, console, table
    from gpubench.run import Execution, Request
    from gpubench.suite import load_suite

    results, failed = arguments.results, False
    if not results:
        if arguments.trials < calibration.LEAST_TRIALS:
            raise errors.UsageError(
                f"--trials {arguments.trials} is too few to learn from",
                f"give {calibration.LEAST_TRIALS} or more; 10 take twice as long as 5 and say more",
            )
        suite = load_suite(arguments.suite)
        request = Request(suite, arguments.device, arguments.trials)
        execution = Execution(request, arguments.output)
        console.follow(execution)
        results, failed = [str(execution.path)], bool(execution.failures)
    learnt = calibration.learn(table.load(results))
    print(calibration.text(learnt, arguments.format), end="")
    print(f"kept in {calibration.keep(learnt)}", file=sys.stderr)
    return errors.EXIT_CASE_FAILED if failed else errors.EXIT_DONE
