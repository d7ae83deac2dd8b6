"""What a report shows as one series, and its colour in every figure.

A series is one card under one set of conditions. Results of two drivers or two torches are not
pooled, and simulated rows never share a series with measured ones. Figures draw series, and a
figure of one's own may as well: start from `series_of`.
"""

import math
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from gpubench import render, table
from gpubench.cards import catalogue
from gpubench.names import natural, shorten
from gpubench.record import IDENTITY

# After Okabe and Ito's palette for all kinds of colour vision: without black and yellow, which
# vanish on a dark or on a light page, and with a lighter blue for the same reason.
COLORS = ("#1F84C6", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#8A7F2E")
CARD = ("architecture", "card", "provenance")
# What else makes results of one card different things, and how a label says it.
CONDITIONS = {
    "torch": "torch {}",
    "cuda": "CUDA {}",
    "driver": "driver {}",
    "power_limit_w": "limited to {} W",
    "threads": "{} threads",
}
LONGEST_CARD = 44
WORK = (
    *("case_id", "cache", "variant", "card_id", "throughput_unit"),
    *("flops", "bytes", "items", "item"),
)
# What `table.summary` and `_rows` read: its many small copies are quicker without the rest.
SUMMED = (
    *table.INDEX,
    *table.SAME,
    *("cache", "precision", "params", "status", "reason", "flags"),
    *("median_s", "low_s", "high_s", "throughput", "throughput_unit", "share_of_peak"),
)


@dataclass(frozen=True)
class Series:
    """One card under one set of conditions, with its results.

    Attributes:
        group: what ties its parts together within a figure.
        card: as people call it.
        label: the card, and what tells it from another series of the same card.
        conditions: the part of the label beside the card; empty if it is the card's only series.
        provenance: measured, virtual, modelled or published.
        color: its own in all figures.
        frame: its rows of the table, a row per trial.
        rows: its cases, over their trials, as `table.summary` has them, with the work of a step,
            ``low`` and ``high``, the bounds of the throughput, and ``variant``, which tells two
            things under one case id apart.
    """

    group: str
    card: str
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
        plain = {"color": self.color, "line": {"color": self.color, "width": 1}}
        return hatched(self.color) if self.simulated else plain

    def line(self) -> dict[str, Any]:
        """A line for plotly: solid if measured, else dashed."""
        return {"color": self.color, "width": 2, "dash": "dash" if self.simulated else "solid"}


def hatched(color: str) -> dict[str, Any]:
    """A bar's fill for plotly that says: not measured here."""
    pattern = {
        "shape": "/",
        "fillmode": "replace",
        "fgcolor": color,
        "bgcolor": "rgba(0,0,0,0)",
        "size": 5,
        "solidity": 0.35,
    }
    return {"color": color, "line": {"color": color, "width": 1}, "pattern": pattern}


_LATEST: list[tuple[weakref.ref[pd.DataFrame], list[Series]]] = []


def series_of(frame: pd.DataFrame) -> list[Series]:
    """Every series of the frame: measured ones first, then in the order of the catalogue.

    Summing up takes seconds for a thousand rows and every figure of a page asks for it, so the
    answer for the latest frame is kept while that frame lives; it must not be changed in between.
    """
    for latest, series in _LATEST:
        if latest() is frame:
            return series
    series = _divided(frame) if len(frame) else []
    _LATEST[:] = [(weakref.ref(frame), series)]
    return series


def _divided(frame: pd.DataFrame) -> list[Series]:
    names = {name: frame[name].fillna("unknown") for name in ("case_id", "workload", "status")}
    # How many threads torch uses on the processor matters where the processor is the device.
    threads = frame["threads"].where(frame["backend"] == "cpu")
    frame = _with_variants(frame.assign(**names, threads=threads))
    columns = [*CARD, *CONDITIONS]
    parts = [part for _, part in frame.groupby(columns, sort=False, dropna=False)]
    parts.sort(key=lambda part: _order(part.iloc[0]))
    several = {column: _differing(parts, column) for column in CONDITIONS}
    labels = []
    for part in parts:
        first = part.iloc[0]
        conditions = ", ".join(
            text.format(_known(first[column]))
            for column, text in CONDITIONS.items()
            if _identity(first) in several[column]
        )
        labels.append((card_label(first["card"], first["provenance"]), conditions))
    return [
        Series(
            group=f"series-{position}",
            card=card,
            label=f"{card}, {conditions}" if conditions else card,
            conditions=conditions,
            provenance=_known(part["provenance"].iloc[0]),
            color=COLORS[position % len(COLORS)],
            frame=part,
            rows=_rows(part),
        )
        for position, (part, (card, conditions)) in enumerate(zip(parts, labels, strict=True))
    ]


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """A frame's rows by column name."""
    return [
        {str(column): value for column, value in row.items()} for row in frame.to_dict("records")
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
    # Of a case's rows the last ok one, if there is any, says what work it is.
    ordered = part.sort_values("status", key=lambda status: status == "ok", kind="stable")
    last = {(row["case_id"], row["cache"]): row for row in records(ordered[list(WORK)])}
    rows = []
    for row in table.as_rows(table.summary(part[list(SUMMED)])):
        own = last[row["case_id"], row["cache"]]
        half_width = row["half_width"]
        bounded = good(row) and half_width is not None and math.isfinite(half_width)
        # The interval of times is one of ratios, so its bounds are factors on the rate.
        factor = math.exp(half_width) if bounded else math.nan
        rows.append(
            row
            | {name: own[name] for name in ("flops", "bytes", "items", "item", "variant")}
            | {
                "low": row["throughput"] / factor if bounded else None,
                "high": row["throughput"] * factor if bounded else None,
                "throughput_unit": _unit(own),
                "flags": [str(flag) for flag in row["flags"] if flag],
                "card_id": own["card_id"],
            }
        )
    return sorted(rows, key=lambda row: (row["workload"], natural(row["case_id"])))


def _unit(row: dict[str, Any]) -> str:
    """The unit of a case's throughput, also of one that failed and has none."""
    if row["items"] > 0:
        return f"{row['item'] or 'item'}s/s"
    return str(row["throughput_unit"])


def _with_variants(frame: pd.DataFrame) -> pd.DataFrame:
    """What isn't the same thing gets a name of its own, so that it is neither pooled nor paired.

    A workload that changed between two files is another case; two timers, or two ways to a cold
    cache, are another case where one card was measured with both.
    """
    columns = dict.fromkeys([*CARD, *IDENTITY, "case_id", "cache", "status"])
    rows = records(frame[list(columns)])
    sources: dict[object, set[object]] = {}
    timed: dict[object, set[object]] = {}
    for row in rows:
        if row["status"] == "ok":
            sources.setdefault(row["case_id"], set()).add(table.source(row))
            for name in table.TIMED:
                timed.setdefault(_where(row, name), set()).add(_known(row[name]))
    variants = [
        ", ".join(
            [
                *([table.source(row)] if len(sources.get(row["case_id"], ())) > 1 else []),
                *(
                    text.format(_known(row[name]))
                    for name, text in table.TIMED.items()
                    if len(timed.get(_where(row, name), ())) > 1
                ),
            ]
        )
        for row in rows
    ]
    names = [
        f"{row['case_id']} ({variant})" if variant else row["case_id"]
        for row, variant in zip(rows, variants, strict=True)
    ]
    return frame.assign(
        case_id=pd.Series(names, dtype=object, index=frame.index),
        variant=pd.Series(variants, dtype=object, index=frame.index),
    )


def _where(row: Mapping[str, Any], name: str) -> tuple[object, ...]:
    return (name, _identity(row), row["case_id"], row["cache"])


def _identity(row: Any) -> tuple[str, ...]:
    return tuple(_known(row[column]) for column in CARD)


def _differing(parts: list[pd.DataFrame], column: str) -> set[tuple[str, ...]]:
    """Cards of which two series differ in a column."""
    values: dict[tuple[str, ...], set[str]] = {}
    for part in parts:
        first = part.iloc[0]
        values.setdefault(_identity(first), set()).add(_known(first[column]))
    return {identity for identity, found in values.items() if len(found) > 1}


def _order(row: Any) -> tuple[object, ...]:
    simulated = _known(row["provenance"]) != "measured"
    places = {card_id: place for place, card_id in enumerate(catalogue())}
    place = places.get(row["card_id"] or "", len(places))
    conditions = (_known(row[column]) for column in CONDITIONS)
    return (simulated, place, *_identity(row), *conditions)


def _known(value: object) -> str:
    if render.missing(value):
        return "unknown"
    whole = isinstance(value, float) and value.is_integer()
    return str(int(value)) if whole and isinstance(value, float) else render.clean(value)
