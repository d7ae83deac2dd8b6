"""``gpubench export``: results in another tool's format."""

from __future__ import annotations

import argparse

from gpubench import errors
from gpubench.verbs._flags import add_results, no_result

# As exchange.FORMATS, which costs pandas to import.
FORMATS = ("pytest-benchmark", "csv")


def add_arguments(sub: argparse.ArgumentParser) -> None:
    """Flags of ``export``."""
    add_results(sub)
    sub.add_argument("--to", required=True, choices=FORMATS, help="what to make of them")
    sub.add_argument(
        "-o", "--output", type=no_result, metavar="FILE", help="default: standard output"
    )


def call(arguments: argparse.Namespace) -> int:
    """Print results in another tool's format, or write them to a file."""
    from pathlib import Path

    from gpubench import exchange

    text = exchange.export(arguments.results, arguments.to)
    if arguments.output is None:
        print(text, end="")
        return errors.EXIT_DONE
    try:
        Path(arguments.output).write_text(text, encoding="utf-8", errors="replace")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise errors.CannotWrite(f"{arguments.output}: {reason}", "choose another -o") from error
    print(arguments.output)
    return errors.EXIT_DONE
