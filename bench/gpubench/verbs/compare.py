"""``gpubench compare``: which side is faster, and is that real."""

from __future__ import annotations

import argparse
import sys

from gpubench import errors
from gpubench.verbs._flags import add_format, add_min_effect, add_profile, add_results


def add_arguments(sub: argparse.ArgumentParser) -> None:
    """Flags of ``compare``."""
    add_results(sub)
    sub.add_argument(
        "--baseline", metavar="X", help="beginning of a side's label; default: the oldest"
    )
    sub.add_argument(
        "--by",
        choices=("card", "run", "torch", "driver"),
        help="what tells the sides apart; default: card where there are several, else run",
    )
    add_min_effect(sub)
    add_profile(sub)
    sub.add_argument(
        "--with",
        dest="beside",
        choices=("published",),
        help="beside it, what others published of the same cards",
    )
    sub.add_argument("--fail-on", choices=("slower",), help="exit 1 if any verdict is this")
    add_format(sub)


def call(arguments: argparse.Namespace) -> int:
    """Print verdicts."""
    from gpubench import beside, calibration, scoreboard, table
    from gpubench import compare as comparison
    from gpubench.profile import load_profile

    frame = table.load(arguments.results)
    floor, said = calibration.floor_for(frame, arguments.min_effect)
    found = comparison.compare(frame, arguments.by, arguments.baseline, floor)
    others = beside.beside(found) if arguments.beside else []
    scores = scoreboard.read(frame.to_dict("records"), load_profile(arguments.profile))
    if arguments.format in ("json", "csv"):  # one envelope; provenance tells the rows apart
        print(comparison.text([*found, *others], arguments.format), end="")
    else:
        print(comparison.text(found, arguments.format), end="")
        print(beside.text(others, arguments.format), end="")
        if scores and scores.comparable:
            print(f"\n{scoreboard.text(scores, arguments.format)}", end="")
    if arguments.beside and not others:
        print("nobody published results of two of these cards, side by side", file=sys.stderr)
    judged = scoreboard.conclusions(scores) if scores else []
    why = "" if arguments.baseline else "the oldest side"
    sides = [*comparison.elsewhere(frame, found, arguments.by), *comparison.differences(found)]
    for line in (*comparison.conclusions(found, why), *sides, said, *judged):
        print(line, file=sys.stderr)
    if comparison.at_other_times(frame, arguments.by):
        print(comparison.WEAKER_DESIGN, file=sys.stderr)
    failed = any(row["verdict"] == arguments.fail_on for row in found)
    return errors.EXIT_CONDITION_MET if failed else errors.EXIT_DONE
