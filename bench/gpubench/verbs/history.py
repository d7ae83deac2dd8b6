"""``gpubench history``: where the results of a machine changed over its runs."""

from __future__ import annotations

import argparse
import sys

from gpubench import errors
from gpubench.verbs._flags import add_format, add_min_effect, add_results, no_result


def add_arguments(sub: argparse.ArgumentParser) -> None:
    """Flags of ``history``."""
    add_results(sub)
    sub.add_argument(
        "--only", action="append", default=[], metavar="GLOB", help="cases or workloads"
    )
    add_min_effect(sub)
    sub.add_argument(
        "--html", type=no_result, metavar="FILE", help="write the page with the figure too"
    )
    sub.add_argument(
        "--fail-on", choices=("slower",), help="exit 1 if the last change of any case is this"
    )
    add_format(sub)


def call(arguments: argparse.Namespace) -> int:
    """Print where the results of a machine changed."""
    from gpubench import calibration, table
    from gpubench import history as past

    frame = past.choose(table.load(arguments.results), arguments.only)
    floor, said = calibration.floor_for(frame, arguments.min_effect)
    found = past.histories(frame, floor)
    print(past.text(found, arguments.format), end="")
    for line in (*past.conclusions(found, frame), said):
        print(line, file=sys.stderr)
    if arguments.html:
        from gpubench.report import write_history

        print(f"page: {write_history(frame, found, arguments.html)}", file=sys.stderr)
    latest = [row["verdict"] for row in past.rows(found) if row["latest"]]
    failed = arguments.fail_on in latest
    return errors.EXIT_CONDITION_MET if failed else errors.EXIT_DONE
