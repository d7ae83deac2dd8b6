"""``gpubench ab``: two environments, commits or files in turn."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from gpubench import errors
from gpubench.verbs._flags import add_format, add_min_effect, positive, time_span


def add_arguments(sub: argparse.ArgumentParser) -> None:
    """Flags of ``ab``."""
    sub.add_argument("a", metavar="A", help="the baseline: an environment, a commit or a file")
    sub.add_argument("b", metavar="B", help="what is judged against it, of the same kind")
    sub.add_argument("--suite", metavar="NAME|FILE.toml", help="default: quick; a file's own cases")
    sub.add_argument("--device", default="auto", metavar="NAME", help="as of `gpubench run`")
    for flag in ("--only", "--skip"):
        sub.add_argument(
            flag, action="append", default=[], metavar="GLOB", help="case ids or workloads"
        )
    sub.add_argument(
        "--trials", type=pairs, default=12, metavar="N", help="pairs of rounds; default: 12"
    )
    sub.add_argument("--budget", type=time_span, metavar="TIME", help="at most, as 90s or 10m")
    add_min_effect(sub)
    sub.add_argument("--fail-on", choices=("slower",), help="exit 1 if any verdict is this")
    sub.add_argument("-o", "--output", default="results", metavar="DIR", help="default: results")
    add_format(sub)


def call(arguments: argparse.Namespace) -> int:
    """Measure two sides in turn and print the verdicts."""
    from gpubench import console
    from gpubench.ab import Request, opened

    request = Request(
        given=(arguments.a, arguments.b),
        suite=arguments.suite,
        device=arguments.device,
        only=arguments.only,
        skip=arguments.skip,
        pairs=arguments.trials,
        budget_s=arguments.budget,
        output=arguments.output,
    )
    rows: list[dict[str, Any]] = []
    with opened(request) as interleaved:
        try:
            console.follow_rounds(interleaved)
        except KeyboardInterrupt:
            kept = "what is whole is kept" if interleaved.pairs_done else "nothing was measured"
            print(f"gpubench: interrupted; {kept}", file=sys.stderr)
            return errors.EXIT_INTERRUPTED
        finally:
            if interleaved.pairs_done:
                rows = console.print_pairs(interleaved, arguments.min_effect, arguments.format)
    if any(row["verdict"] == arguments.fail_on for row in rows):
        return errors.EXIT_CONDITION_MET
    return errors.EXIT_CASE_FAILED if interleaved.failures else errors.EXIT_DONE


def pairs(text: str) -> int:
    """A whole number from 3: fewer pairs say nothing about the spread between them."""
    return positive(text, least=3)
