"""Text of figures: escaped, short, with units.

plotly reads a small HTML in every label (``<b>``, ``<br>``, ``<a href>``), and names of cards and
cases come from files of strangers: whatever goes into a figure goes through `safe`.
"""

import html
import math
from collections.abc import Mapping
from typing import Any

from gpubench import render
from gpubench.names import LONGEST_LABEL, shorten

LARGEST_PREFIX = 15


def safe(text: object) -> str:
    """Text that plotly shows as it is; quotes stay, since plotly doesn't know their entities.

    It also fills in ``%{name}``, in titles too, so the percent sign before a brace is an entity.
    """
    return html.escape(render.clean(text), quote=False).replace("%{", "&#37;{")


def label(name: str, longest: int = LONGEST_LABEL) -> str:
    """A case's name at an axis, escaped; one too long for a line takes two."""
    middle = len(name) / 2
    spaces = [at for at, letter in enumerate(name) if letter == " "]
    if len(name) <= longest or not spaces:
        return safe(shorten(name, longest))
    at = min(spaces, key=lambda space: abs(space - middle))
    return "<br>".join(safe(shorten(part, longest)) for part in (name[:at], name[at + 1 :]))


def hover(*lines: str | None) -> str:
    """Lines of a hover label, from parts that are escaped already."""
    return "<br>".join(line for line in lines if line)


def scale(largest: float, unit: str) -> tuple[float, str]:
    """What to divide an axis by, and its unit with the prefix: (1e12, ``TFLOP/s``)."""
    power = 3 * math.floor(math.log10(largest) / 3) if largest > 0 else 0
    power = min(max(power, 0), LARGEST_PREFIX)
    return 10.0**power, render.quantity(unit)(10.0**power).split(" ", 1)[1]


def tick_text(value: float) -> str:
    """A tick of an axis whose title names the unit: ``50 G``."""
    divisor, prefix = scale(value, "")
    return f"{value / divisor:g} {prefix}".strip()


def spread(row: Mapping[str, Any]) -> str:
    """``±1.2 % between 3 trials`` from a summary's row."""
    if row["spread"] == "trials":
        return f"{render.plus_minus(row['half_width'])} between {row['trials']} trials"
    known = row["half_width"] is not None and math.isfinite(row["half_width"])
    return f"{render.plus_minus(row['half_width'])} within one trial" if known else "one trial, ±?"


def flags(row: Mapping[str, Any]) -> str | None:
    """The flags of a row for a hover label; None without any."""
    return f"flags: {safe(', '.join(row['flags']))}" if row["flags"] else None
