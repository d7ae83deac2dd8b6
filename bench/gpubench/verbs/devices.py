"""``gpubench devices``: what is here, and which card of the catalogue it is."""

from __future__ import annotations

import argparse

from gpubench import errors
from gpubench.verbs._flags import add_format


def add_arguments(sub: argparse.ArgumentParser) -> None:
    """Flags of ``devices``."""
    add_format(sub)


def call(arguments: argparse.Namespace) -> int:
    """Print what is here."""
    from dataclasses import asdict

    from gpubench import render
    from gpubench.cards import catalogue
    from gpubench.device import present

    found = [
        asdict(info) | {"in_catalogue": info.card_id in catalogue(), "uuid": None}
        for info in present()
    ]
    columns = (
        render.Column("name", "--device"),
        render.Column("card", "card"),
        render.Column("architecture", "architecture", spare=2),
        render.Column("memory_bytes", "memory", render.gibibytes, right=True),
        render.Column("cache_bytes", "last-level cache", render.gibibytes, right=True, spare=1),
        render.Column("card_id", "card id", whole=True, spare=3),
        render.Column("in_catalogue", "in catalogue", lambda known: "yes" if known else "no"),
    )
    print(render.rows(found, columns, arguments.format, "devices"), end="")
    return errors.EXIT_DONE
