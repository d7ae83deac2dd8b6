"""``gpubench import``: a result file from pytest-benchmark's JSON."""

from __future__ import annotations

import argparse

from gpubench import errors


def add_arguments(sub: argparse.ArgumentParser) -> None:
    """Flags of ``import``."""
    sub.add_argument("file", metavar="FILE.json", help="what pytest-benchmark or `export` wrote")
    sub.add_argument(
        "-o", "--output", default="results", metavar="DIR|FILE", help="default: results"
    )


def call(arguments: argparse.Namespace) -> int:
    """Make a result file of a pytest-benchmark file."""
    from gpubench.exchange import import_file

    print(import_file(arguments.file, arguments.output))
    return errors.EXIT_DONE
