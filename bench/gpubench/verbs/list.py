"""``gpubench list``: what there is: the extensions of a kind, or the catalogue of cards."""

from __future__ import annotations

import argparse
import sys

from gpubench import errors
from gpubench.verbs._flags import add_format

KINDS = ("workloads", "suites", "cards", "models", "profiles", "figures")


def add_arguments(sub: argparse.ArgumentParser) -> None:
    """Flags of ``list``."""
    sub.add_argument("what", choices=KINDS, help="what to list")
    add_format(sub)


def call(arguments: argparse.Namespace) -> int:
    """Print the extensions of a kind, or the card catalogue."""
    from gpubench import listing, render

    found, columns = listing.listing(arguments.what)
    if not found:
        print(f"there are no {arguments.what}", file=sys.stderr)
    print(render.rows(found, columns, arguments.format, arguments.what), end="")
    return errors.EXIT_DONE
