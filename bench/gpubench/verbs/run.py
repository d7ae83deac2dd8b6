"""``gpubench run``: measure a suite and keep the results."""

from __future__ import annotations

import argparse
import sys

from gpubench import errors
from gpubench.verbs._flags import add_format, positive, time_span

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gpubench.run import Execution


def add_arguments(sub: argparse.ArgumentParser) -> None:
    """Flags of ``run``."""
    sub.add_argument("--suite", metavar="NAME|FILE.toml", help="default: quick")
    sub.add_argument(
        "--device", default="auto", metavar="NAME", help="auto, cpu, cuda:0 or virtual:CARD"
    )
    sub.add_argument(
        "--trials", type=positive, metavar="N", help="repeat the suite in N fresh processes"
    )
    sub.add_argument(
        "--budget", type=time_span, metavar="TIME", help="whole run at most, as 90s or 10m"
    )
    sub.add_argument(
        "--only", action="append", default=[], metavar="GLOB", help="case ids or workloads"
    )
    sub.add_argument(
        "--skip", action="append", default=[], metavar="GLOB", help="case ids or workloads"
    )
    sub.add_argument(
        "-o", "--output", default="results", metavar="DIR|FILE", help="default: results"
    )
    sub.add_argument("--resume", metavar="FILE", help="complete an earlier file in place")
    sub.add_argument("--dry-run", action="store_true", help="say what would run, and for how long")
    sub.add_argument("--graph", action="store_true", help="launch steps as CUDA graphs")
    sub.add_argument(
        "--shard", type=part, metavar="K/N", help="run the K-th of N parts of the suite"
    )
    sub.add_argument("--run-id", type=run_name, metavar="ID", help="shared by the parts of one run")
    sub.add_argument(
        "--first-trial", type=positive, default=1, metavar="K", help="number of the first trial"
    )
    sub.add_argument(
        "--identify", action="store_true", help="unsalted hashes of machine and card identities"
    )
    add_format(sub)


def call(arguments: argparse.Namespace) -> int:
    """Measure a suite."""
    from gpubench import console
    from gpubench.run import Execution, Request, plan, resumed
    from gpubench.suite import load_suite

    earlier = resumed(arguments.resume) if arguments.resume else None
    suite_name = arguments.suite or (earlier.suite if earlier else "quick")
    suite = load_suite(suite_name).select(arguments.only, arguments.skip)
    request = Request(
        suite=suite.shard(*arguments.shard) if arguments.shard else suite,
        device=arguments.device,
        trials=arguments.trials or (earlier.trials if earlier else 1),
        budget_s=arguments.budget,
        identify=arguments.identify,
        first_trial=arguments.first_trial,
        run_id=arguments.run_id,
        graph=arguments.graph,
    )
    if arguments.dry_run:
        console.print_plan(request, plan(request), arguments.format)
        return errors.EXIT_DONE
    execution = Execution(request, arguments.output, arguments.resume)
    try:
        # The times of a virtual device are made, not taken.
        notice = None if arguments.device.startswith("virtual") else _busy()
        console.follow(execution, notice)
    except KeyboardInterrupt:
        said = "nothing was measured"
        if execution.path and execution.records:
            said = f"go on with `{resuming(arguments, execution)}`"
        print(f"gpubench: interrupted; {said}", file=sys.stderr)
        return errors.EXIT_INTERRUPTED
    finally:
        if execution.path and execution.records:
            console.print_result(execution, arguments.format)
    return errors.EXIT_CASE_FAILED if execution.failures else errors.EXIT_DONE


def _busy() -> str | None:
    """What to say before minutes of measuring that flags would say after; takes half a second."""
    from gpubench import doctor

    found = doctor.load(doctor.Here([]))
    said = found.found.partition(";")[0]
    known = f"this machine is busy: {said}; times will be those of a busy one"
    return None if found.state == "ok" else known


def resuming(arguments: argparse.Namespace, execution: Execution) -> str:
    """The command that completes an interrupted run."""
    from shlex import join

    command = ["gpubench", "run", "--resume", str(execution.path), "--device", execution.device]
    if arguments.suite:
        command += ["--suite", arguments.suite]
    for flag, patterns in (("--only", arguments.only), ("--skip", arguments.skip)):
        for pattern in patterns:
            command += [flag, pattern]
    if arguments.shard:
        command += ["--shard", "{}/{}".format(*arguments.shard)]
    if arguments.first_trial > 1:
        command += ["--first-trial", str(arguments.first_trial)]
    if arguments.graph:
        command.append("--graph")
    return join([*command, "--trials", str(execution.request.trials)])


def part(text: str) -> tuple[int, int]:
    """``2/4`` → (2, 4)."""
    number, _, count = text.partition("/")
    if not (number.isdigit() and count.isdigit() and 1 <= int(number) <= int(count)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a part such as 2/4")
    return int(number), int(count)


def run_name(text: str) -> str:
    """A name that is safe in file names and tables."""
    if not (0 < len(text) <= 64 and text.replace("-", "").replace("_", "").isalnum()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a name of letters, digits, - and _")
    return text
