"""Flags and their values that several verbs share."""

import argparse

FORMATS = ("table", "json", "csv", "markdown")
#: of trials; numbers beyond take memory before anything is measured, or fit no column
MOST = 100_000
#: of tokens, hours, dollars, watts or GiB; what is reckoned with numbers beyond is no number
LEAST_AMOUNT, MOST_AMOUNT = 1e-6, 1e18


def add_format(sub: argparse.ArgumentParser) -> None:
    """``--format``, the same for every verb that prints rows."""
    sub.add_argument("--format", choices=FORMATS, default="table", help="default: table")


def add_results(sub: argparse.ArgumentParser) -> None:
    """``RESULTS…``, the same for every verb that reads result files."""
    sub.add_argument(
        "results", nargs="+", metavar="RESULTS", help="result files, globs, folders or s3:// URLs"
    )


def add_min_effect(sub: argparse.ArgumentParser) -> None:
    """``--min-effect``, the same for every verb that judges."""
    sub.add_argument(
        "--min-effect",
        type=share,
        metavar="PERCENT",
        help="default: what `gpubench calibrate` learnt of this machine, else 1%%",
    )


def add_profile(sub: argparse.ArgumentParser) -> None:
    """``--profile``, the same for every verb that scores."""
    sub.add_argument(
        "--profile",
        default="balanced",
        metavar="NAME|FILE.toml",
        help="what the selection score weighs; default: balanced",
    )


def amount(text: str) -> float:
    """A number above zero: ``1000``, ``0.15`` or ``1e8``."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not LEAST_AMOUNT <= value <= MOST_AMOUNT:
        known = f"from {LEAST_AMOUNT:g} to {MOST_AMOUNT:g}"
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a number above zero, {known}")
    return value


def dollars(text: str) -> float:
    """A sum above zero, as people write it too: ``800``, ``$800`` or ``1,600``."""
    return amount(text.removeprefix("$").replace(",", ""))


def positive(text: str, least: int = 1, most: int = MOST) -> int:
    """A whole number from ``least`` to ``most``."""
    if not (text.isdecimal() and len(text) < 12 and least <= int(text) <= most):
        shown = f"{text[:20]!r} is not a whole number from {least} to {most:,}"
        raise argparse.ArgumentTypeError(shown)
    return int(text)


def no_result(text: str) -> str:
    """A file for text or a page: a slip must not put one in the place of results."""
    if text.endswith(".parquet"):
        raise argparse.ArgumentTypeError(f"{text!r} is the name of a result file")
    return text


def share(text: str) -> float:
    """``1%`` or ``1`` → 0.01."""
    try:
        value = float(text.removesuffix("%")) / 100
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a percentage such as 1%")
    return value


def time_span(text: str) -> float:
    """``90``, ``90s``, ``10m`` or ``1.5h``, in seconds."""
    unit = {"s": 1, "m": 60, "h": 3600}.get(text[-1:].lower())
    try:
        value = float(text[:-1] if unit else text) * (unit or 1)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a time span such as 90s, 10m or 1.5h")
    return value
