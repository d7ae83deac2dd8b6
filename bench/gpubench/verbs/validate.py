"""``gpubench validate``: check that result files are whole and well-formed."""

from __future__ import annotations

import argparse

from gpubench import errors
from gpubench.verbs._flags import add_format, add_results


def add_arguments(sub: argparse.ArgumentParser) -> None:
    """Flags of ``validate``."""
    add_results(sub)
    add_format(sub)


def call(arguments: argparse.Namespace) -> int:
    """Check result files one by one; exit 2 if one is not readable."""
    from gpubench import render, store

    found = [store.examine(path) for path in store.expand(arguments.results)]
    columns = (
        render.Column("file", "file"),
        render.Column("valid", "valid", lambda valid: "yes" if valid else "NO"),
        render.Column("rows", "rows", right=True),
        render.Column("problem", "problem"),
    )
    print(render.rows(found, columns, arguments.format, "validation"), end="")
    return errors.EXIT_DONE if all(row["valid"] for row in found) else errors.EXIT_USAGE
