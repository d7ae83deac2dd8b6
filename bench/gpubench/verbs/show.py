"""``gpubench show``: result files as one readable table."""

from __future__ import annotations

import argparse
import sys

from gpubench import errors
from gpubench.verbs._flags import add_format, add_results


def add_arguments(sub: argparse.ArgumentParser) -> None:
    """Flags of ``show``."""
    add_results(sub)
    sub.add_argument(
        "--expected", action="store_true", help="beside each case, what is expected of its card"
    )
    add_format(sub)


def call(arguments: argparse.Namespace) -> int:
    """Print result files as one table."""
    from gpubench import render, table

    frame = table.load(arguments.results)
    if arguments.expected:
        from gpubench import placement
        from gpubench.predict import Predictor

        found = placement.expected(frame, Predictor.shipped())
    else:
        found = table.as_rows(table.summary(frame))
    software = [
        render.Column(name, name)
        for name in ("torch", "driver")
        if len({str(row[name]) for row in found}) > 1
    ]
    show = placement.text if arguments.expected else table.text
    print(show(found, arguments.format, software), end="")
    for row in found:
        if row["reason"]:
            print(f"{render.clean(row['case_id'])}: {render.clean(row['reason'])}", file=sys.stderr)
    if arguments.expected:
        print("\n".join(placement.conclusions(found)), file=sys.stderr)
    return errors.EXIT_DONE
