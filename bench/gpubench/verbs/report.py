"""``gpubench report``: one HTML page of results."""

from __future__ import annotations

import argparse
import sys

from gpubench import errors
from gpubench.verbs._flags import add_profile, add_results, no_result


def add_arguments(sub: argparse.ArgumentParser) -> None:
    """Flags of ``report``."""
    add_results(sub)
    add_profile(sub)
    sub.add_argument(
        "-o",
        "--output",
        type=no_result,
        default="reports/index.html",
        metavar="FILE",
        help="default: reports/index.html",
    )


def call(arguments: argparse.Namespace) -> int:
    """Write the HTML report."""
    from gpubench.profile import load_profile
    from gpubench.report import write_report
    from gpubench.table import load

    print(f"reading {len(arguments.results)} result argument(s) …", file=sys.stderr)
    profile = load_profile(arguments.profile)
    path = write_report(load(arguments.results), arguments.output, profile)
    print(path)
    return errors.EXIT_DONE
