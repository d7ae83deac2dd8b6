"""Text of figures: escaped, short, with units.

plotly reads a small HTML in every label (``<b>``, ``<br>``, ``<a href>``), and names of cards and
cases come from files of strangers: whatever goes into a figure goes through `safe`.
"""

import html
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from gpubench import render

LONGEST_LABEL = 42
_SIZES = re.compile(r"\d+(x\d+)+")
_NUMBER = re.compile(r"-?\d+(\.\d+)?")
_POWERS = {2: "²", 3: "³"}
LARGEST_PREFIX = 15


def safe(text: object) -> str:
    """Text that plotly shows as it is; quotes stay, since plotly doesn't know their entities."""
    return html.escape(render.clean(text), quote=False)


def shorten(text: str, longest: int = LONGEST_LABEL) -> str:
    """Cut out the middle: names differ at their ends as often as at their beginnings."""
    if len(text) <= longest:
        return text
    tail = longest // 2 - 1
    return f"{text[: longest - tail - 1]}…{text[-tail:]}"


def hover(*lines: str | None) -> str:
    """Lines of a hover label, from parts that are escaped already."""
    return "<br>".join(line for line in lines if line)


def case_labels(rows: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str | None], str]:
    """Short names of cases by (case id, cache): ``gemm 1024³ fp32``, not escaped.

    Parameters that all cases of a workload share are left out, and the cache state is named only
    where a case was measured in both. Where short names collide the case id stands for itself.
    """
    cases = {(row["case_id"], row["cache"]): row for row in rows}
    by_workload: dict[object, list[dict[str, str]]] = {}
    for row in cases.values():
        by_workload.setdefault(row["workload"], []).append(parameters(row))
    shared = {workload: _shared(found) for workload, found in by_workload.items()}
    states: dict[str, set[str | None]] = {}
    for case_id, cache in cases:
        states.setdefault(case_id, set()).add(cache)
    labels = {}
    for (case_id, cache), row in cases.items():
        label = case_label(row, shared[row["workload"]])
        # A variant of a case carries its difference behind its id.
        label += case_id[end:] if (end := case_id.find(" (version ")) > 0 else ""
        labels[case_id, cache] = f"{label} ({cache})" if len(states[case_id]) > 1 else label
    taken = pd.Series(list(labels.values()), dtype=object).value_counts()
    return {
        key: render.clean(label if taken[label] == 1 else f"{key[0]} {key[1] or ''}".strip())
        for key, label in labels.items()
    }


def case_label(row: Mapping[str, Any], without: Iterable[str] = ()) -> str:
    """``gemm 1024³ fp32`` from a row, its precision last."""
    named = {name: text for name, text in parameters(row).items() if name not in without}
    precision = named.pop("precision", None)
    values = [_value(name, text) for name, text in named.items()]
    return " ".join([str(row["workload"]), *values, *([precision] if precision else [])])


def parameters(row: Mapping[str, Any]) -> dict[str, str]:
    """A row's parameters; none where a file lacks them."""
    return dict(row["params"] or {}) if isinstance(row["params"], Mapping) else {}


def _shared(cases: Sequence[dict[str, str]]) -> set[str]:
    if len(cases) < 2:
        return set()
    return {name for name in cases[0] if len({case.get(name) for case in cases}) == 1}


def _value(name: str, text: str) -> str:
    words = name.replace("_", " ")
    if _SIZES.fullmatch(text):
        sizes = text.split("x")
        power = _POWERS.get(len(sizes)) if len(set(sizes)) == 1 else None
        return f"{sizes[0]}{power}" if power else "×".join(sizes)
    if text in ("true", "false"):
        return words if text == "true" else f"not {words}"
    return f"{words} {text}" if _NUMBER.fullmatch(text) else text


def scale(largest: float, unit: str) -> tuple[float, str]:
    """What to divide an axis by, and its unit with the prefix: (1e12, ``TFLOP/s``)."""
    power = 3 * math.floor(math.log10(largest) / 3) if largest > 0 else 0
    power = min(max(power, 0), LARGEST_PREFIX)
    return 10.0**power, render.quantity(unit)(10.0**power).split(" ", 1)[1]


def spread(row: Mapping[str, Any]) -> str:
    """``±1.2 % between 3 trials`` from a summary's row."""
    if row["spread"] == "trials":
        return f"{render.plus_minus(row['half_width'])} between {row['trials']} trials"
    known = row["half_width"] is not None and math.isfinite(row["half_width"])
    return f"{render.plus_minus(row['half_width'])} within one trial" if known else "one trial, ±?"


def flags(row: Mapping[str, Any]) -> str | None:
    """The flags of a row for a hover label; None without any."""
    return f"flags: {safe(', '.join(row['flags']))}" if row["flags"] else None
