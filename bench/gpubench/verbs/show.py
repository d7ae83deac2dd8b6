"""``gpubench show``: result files as one readable table."""

from __future__ import annotations

import argparse
import sys

from gpubench import errors
from gpubench.verbs._flags import add_format, add_results

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from gpubench.render import Column


def add_arguments(sub: argparse.ArgumentParser) -> None:
    """Flags of ``show``."""
    add_results(sub)
    sub.add_argument(
        "--expected", action="store_true", help="beside each case, what is expected of its card"
    )
    add_format(sub)


def call(arguments: argparse.Namespace) -> int:
    """Print result files as one table."""
    from gpubench import table

    frame = table.load(arguments.results)
    if arguments.expected:
        from gpubench import placement
        from gpubench.predict import Predictor

        found = placement.expected(frame, Predictor.shipped())
        said = placement.conclusions(found)
        print(placement.text(found, arguments.format, _software(found)), end="")
    else:
        found, said = table.as_rows(table.summary(frame)), table.pooled(frame)
        print(table.text(found, arguments.format, _software(found)), end="")
    shown = table.within_one_trial(found) if arguments.format == "table" else []
    for line in (*table.reasons(found), *shown, *said, *table.pooled_runs(frame)):
        print(line, file=sys.stderr)
    return errors.EXIT_DONE


def _software(rows: list[dict[str, Any]]) -> list[Column]:
    """Columns of the versions that rows differ in."""
    from gpubench.render import Column

    names = ("torch", "driver")
    return [Column(name, name) for name in names if len({str(row[name]) for row in rows}) > 1]
