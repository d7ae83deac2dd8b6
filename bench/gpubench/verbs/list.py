"""``gpubench list``: what there is: the extensions of a kind, the catalogue, others' results."""

from __future__ import annotations

import argparse
import sys

from gpubench import errors
from gpubench.verbs._flags import add_format, amount, dollars

KINDS = ("workloads", "suites", "cards", "published", "models", "profiles", "figures")
SORTS = ("name", "date", "memory", "bandwidth", "fp32", "fp16", "power", "price")
#: flags that only cards have, by their names here
OF_CARDS = ("architecture", "min_memory", "max_price", "max_power", "sort", "reverse")


def add_arguments(sub: argparse.ArgumentParser) -> None:
    """Flags of ``list``."""
    sub.add_argument("what", choices=KINDS, help="what to list")
    sub.add_argument(
        "--only", action="append", metavar="GLOB", help="those whose name matches, several times"
    )
    cards = sub.add_argument_group("cards")
    cards.add_argument(
        "--architecture", action="append", metavar="NAME", help="such as Ampere, several times"
    )
    cards.add_argument("--min-memory", type=amount, metavar="GIB", help="memory, at least")
    cards.add_argument(
        "--max-price", type=dollars, metavar="USD", help="launch price, at most, where known"
    )
    cards.add_argument("--max-power", type=amount, metavar="WATT", help="power, at most")
    cards.add_argument("--sort", choices=SORTS, help="from the least; default: by series")
    cards.add_argument("--reverse", action="store_true", default=None, help="from the other end")
    add_format(sub)


def call(arguments: argparse.Namespace) -> int:
    """Print the extensions of a kind, the card catalogue, or others' results."""
    from gpubench import listing, render

    given = {name: getattr(arguments, name) for name in OF_CARDS}
    wishes = {name: value for name, value in given.items() if value is not None}
    if wishes and arguments.what != "cards":
        flag = "--" + next(iter(wishes)).replace("_", "-")
        raise errors.UsageError(
            f"{flag} is for cards; {arguments.what} have no such thing",
            f"leave it out; --only chooses among {arguments.what}",
        )
    found, columns = listing.listing(arguments.what, arguments.only, **wishes)
    if not found:
        like_that = " like that" if arguments.only or wishes else ""
        print(f"there are no {arguments.what}{like_that}", file=sys.stderr)
    print(render.rows(found, columns, arguments.format, arguments.what), end="")
    return errors.EXIT_DONE
