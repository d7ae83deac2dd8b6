"""What a figure draws as one series, and how: the same colour for it in every figure.

A series is one card under one set of software. Results of two drivers or two torches are not
pooled, and simulated rows never share a series with measured ones.
"""

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pandas as pd

from gpubench import render, table
from gpubench.figures._text import shorten

# Okabe and Ito's palette for all kinds of colour vision, without black and yellow, which vanish
# on a dark and on a light page.
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#8A7F2E")
CARD = ("architecture", "card", "provenance")
SOFTWARE = ("torch", "cuda", "driver", "threads")
# What else makes two results of one case different things; `compare` refuses to compare them.
VARIANT = ("workload_version", "workload_hash", "timer")
LONGEST_CARD = 44


@dataclass(frozen=True)
class Series:
    """One card under one set of software, with its results.

    Attributes:
        group: what ties its parts together within a figure.
        label: the card as people call it, and what tells it from a series of the same card.
        conditions: the part of the label beside the card; empty if it is the card's only series.
        provenance: measured, virtual, modelled or published.
        color: its own in all figures.
        frame: its rows of the table, a row per trial.
        rows: its cases, over their trials, as `table.summary` has them; with `low` and `high`,
            the bounds of the throughput, and `trial_rows`, the number of trials of any outcome.
    """

    group: str
    label: str
    conditions: str
    provenance: str
    color: str
    frame: pd.DataFrame
    rows: list[dict[str, Any]]

    @property
    def simulated(self) -> bool:
        """Not measured: drawn hatched or open."""
        return self.provenance != "measured"

    def marker(self, symbol: str = "circle", size: float = 8) -> dict[str, Any]:
        """A marker for plotly: filled if measured, else open."""
        return {
            "color": self.color,
            "symbol": f"{symbol}-open" if self.simulated else symbol,
            "size": size,
            "line": {"color": self.color, "width": 1.6 if self.simulated else 0},
        }

    def bar(self) -> dict[str, Any]:
        """A bar's fill for plotly: plain if measured, else hatched."""
        fill: dict[str, Any] = {"color": self.color, "line": {"color": self.color, "width": 1}}
        if self.simulated:
            fill["pattern"] = {
                "shape": "/",
                "fillmode": "replace",
                "fgcolor": self.color,
                "bgcolor": "rgba(0,0,0,0)",
                "size": 5,
                "solidity": 0.35,
            }
        return fill

    def line(self) -> dict[str, Any]:
        """A line for plotly: solid if measured, else dashed."""
        return {"color": self.color, "width": 2, "dash": "dash" if self.simulated else "solid"}


def series_of(frame: pd.DataFrame) -> list[Series]:
    """Every series of the frame: measured ones first, then by architecture and card."""
    if not len(frame):
        return []
    frame = _with_variants(frame)
    columns = [*CARD, *SOFTWARE]
    parts = [part for _, part in frame.groupby(columns, sort=False, dropna=False)]
    parts.sort(key=lambda part: _order(part.iloc[0]))
    software = {column: _differing(parts, column) for column in SOFTWARE}
    labels = []
    for part in parts:
        first = part.iloc[0]
        differing = [column for column in SOFTWARE if _identity(first) in software[column]]
        conditions = ", ".join(f"{column} {_known(first[column])}" for column in differing)
        labels.append((card_label(first["card"], first["provenance"]), conditions))
    return [
        Series(
            group=f"series-{position}",
            label=f"{card}, {conditions}" if conditions else card,
            conditions=conditions,
            provenance=_known(part["provenance"].iloc[0]),
            color=COLORS[position % len(COLORS)],
            frame=part,
            rows=_rows(part),
        )
        for position, (part, (card, conditions)) in enumerate(zip(parts, labels, strict=True))
    ]


def card_label(card: object, provenance: object) -> str:
    """A card as people call it; one that was not measured always says so."""
    name = "unknown card" if render.missing(card) else render.clean(card)
    name = shorten(name.removeprefix("NVIDIA ").replace("(R)", "").strip(), LONGEST_CARD)
    kind = _known(provenance)
    return name if kind == "measured" or f"({kind})" in name else f"{name} ({kind})"


def good(row: dict[str, Any]) -> bool:
    """Whether a case has a throughput that can be drawn: never a failure, never as zero."""
    value = row["throughput"]
    return not render.missing(value) and math.isfinite(value) and value > 0


def _rows(part: pd.DataFrame) -> list[dict[str, Any]]:
    tried = Counter(zip(part["case_id"], part["cache"], strict=True))
    last = {
        (row["case_id"], row["cache"]): row
        for row in part.sort_values("status", key=lambda status: status == "ok").to_dict("records")
    }
    rows = []
    for row in table.as_rows(table.summary(part)):
        own = last[row["case_id"], row["cache"]]
        half_width = row["half_width"]
        bounded = good(row) and half_width is not None and math.isfinite(half_width)
        # The interval of times is one of ratios, so its bounds are factors on the rate.
        factor = math.exp(half_width) if bounded else math.nan
        rows.append(
            row
            | {work: own[work] for work in ("flops", "bytes", "items", "item")}
            | {
                "low": row["throughput"] / factor if bounded else None,
                "high": row["throughput"] * factor if bounded else None,
                "throughput_unit": _unit(own),
                "card_id": own["card_id"],
                "trial_rows": tried[row["case_id"], row["cache"]],
            }
        )
    return rows


def _unit(row: dict[str, Any]) -> str:
    """The unit of a case's throughput, also of one that failed and has none."""
    if row["items"] > 0:
        return f"{row['item'] or 'item'}s/s"
    return str(row["throughput_unit"])


def _with_variants(frame: pd.DataFrame) -> pd.DataFrame:
    """Cases that changed between two files get names of their own, so that they aren't pooled."""
    ok = frame[frame["status"] == "ok"]
    variants: dict[str, set[tuple[object, ...]]] = {}
    for case, *variant in zip(ok["case_id"], *(ok[column] for column in VARIANT), strict=True):
        variants.setdefault(case, set()).add(tuple(variant))
    several = {case for case, found in variants.items() if len(found) > 1}
    if not several:
        return frame
    names = [
        f"{case} (version {version}, source {_known(source)[:6]}, {_known(timer)})"
        if case in several
        else case
        for case, version, source, timer in zip(
            frame["case_id"], *(frame[column] for column in VARIANT), strict=True
        )
    ]
    return frame.assign(case_id=pd.Series(names, dtype=object, index=frame.index))


def _identity(row: Any) -> tuple[str, ...]:  # noqa: ANN401 - a row of pandas
    return tuple(_known(row[column]) for column in CARD)


def _differing(parts: list[pd.DataFrame], column: str) -> set[tuple[str, ...]]:
    """Cards of which two series differ in a column."""
    values: dict[tuple[str, ...], set[str]] = {}
    for part in parts:
        first = part.iloc[0]
        values.setdefault(_identity(first), set()).add(_known(first[column]))
    return {identity for identity, found in values.items() if len(found) > 1}


def _order(row: Any) -> tuple[object, ...]:  # noqa: ANN401 - a row of pandas
    simulated = _known(row["provenance"]) != "measured"
    return (simulated, *_identity(row), *(_known(row[column]) for column in SOFTWARE))


def _known(value: object) -> str:
    if render.missing(value):
        return "unknown"
    whole = isinstance(value, float) and value.is_integer()
    return str(int(value)) if whole and isinstance(value, float) else render.clean(value)
