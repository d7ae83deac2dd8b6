"""``gpubench predict``: a suite on cards that are not at hand, modelled."""

from __future__ import annotations

import argparse
import sys

from gpubench import errors
from gpubench.verbs._flags import add_format


def add_arguments(sub: argparse.ArgumentParser) -> None:
    """Flags of ``predict``."""
    sub.add_argument("cards", nargs="+", metavar="CARD", help="id or name, such as 4090")
    sub.add_argument(
        "--suite", default="quick", metavar="NAME|FILE.toml", help="whose cases; default: quick"
    )
    sub.add_argument(
        "--results",
        nargs="+",
        default=[],
        metavar="RESULTS",
        help="results measured on other cards, to learn from",
    )
    sub.add_argument(
        "--only", action="append", default=[], metavar="GLOB", help="case ids or workloads"
    )
    add_format(sub)


def call(arguments: argparse.Namespace) -> int:
    """Print modelled rows."""
    from gpubench import evidence, modelled
    from gpubench.cards import get_card
    from gpubench.predict import Predictor
    from gpubench.suite import load_suite

    named = [get_card(name) for name in arguments.cards]
    cards = list({card.card_id: card for card in named}.values())
    suite = load_suite(arguments.suite).select(arguments.only)
    predictor = Predictor.shipped()
    if arguments.results:
        from gpubench import table

        learnt = list(evidence.measured(table.load(arguments.results).to_dict("records")))
        if not learnt:
            print(
                "gpubench: nothing in these results can be learnt from: it takes ok rows measured "
                "on cards of the catalogue",
                file=sys.stderr,
            )
        predictor = predictor.with_observations(learnt)
    print(modelled.text(modelled.rows(cards, suite, predictor), arguments.format), end="")
    print(f"modelled, not measured: from {predictor.basis}", file=sys.stderr)
    return errors.EXIT_DONE
