"""Throughput of every workload, in one panel per unit."""

from typing import Any

import plotly.graph_objects as go

from gpubench.figures import _panels
from gpubench.figures._series import Series, good, series_of
from gpubench.figures._text import case_labels, flags, hover, parameters, safe, scale, shorten, spread
from gpubench.record import FAILURES
from gpubench.render import quantity

TITLE = "Throughput by workload"
ORDER = 10
CAPTION = (
    "Longer is faster; the whisker is the 95 % interval, and a word in place of a bar says why there "
    "is no number. Units differ between panels and can't be compared, and a rate says nothing about "
    "what a card costs or draws."
)

BAR = 15
ROW_GAP = 9
# Where a workload has more cases than this, the ones with the most work stand for it.
MOST_CASES = 12
Key = tuple[str, str | None]


def figure(frame: Any) -> Any | None:  # noqa: ANN401 - plotly is untyped
    """Horizontal bars; None where nothing was measured."""
    series = series_of(frame)
    panels = _by_unit(series)
    if not panels:
        return None
    labels = case_labels(row for one in series for row in one.rows)
    heights = [len(chosen) * (BAR * len(series) + ROW_GAP) + ROW_GAP for _, chosen, _ in panels]
    titles = [safe("; ".join([unit, *notes])) for unit, _, notes in panels]
    drawing = _panels.stack(titles, heights)
    drawing.update_layout(barmode="overlay", bargap=0)
    named: set[int] = set()
    for panel, (unit, chosen, _) in enumerate(panels, start=1):
        divisor, prefixed = scale(_largest(series, chosen), unit)
        for position, one in enumerate(series):
            offset = (position - (len(series) - 1) / 2) * BAR / (BAR * len(series) + ROW_GAP)
            rows = {(row["case_id"], row["cache"]): row for row in one.rows}
            points = [(place + offset, rows[key]) for place, key in enumerate(chosen) if key in rows]
            drawn = [(y, row) for y, row in points if good(row)]
            first = bool(drawn) and position not in named
            if drawn:
                named.add(position)
                thickness = 0.9 * BAR / (BAR * len(series) + ROW_GAP)
                drawing.add_trace(_bars(one, drawn, divisor, thickness, first=first), panel, 1)
            drawing.add_trace(_texts(one, points, divisor), panel, 1)
        drawing.update_xaxes(
            title=prefixed, rangemode="tozero", showgrid=True, row=panel, col=1
        )
        drawing.update_xaxes(range=[0, 1.2 * _highest(series, chosen) / divisor], row=panel, col=1)
        drawing.update_yaxes(
            tickvals=list(range(len(chosen))),
            ticktext=[safe(shorten(labels[key])) for key in chosen],
            range=[len(chosen) - 0.5, -0.5],
            showgrid=False,
            zeroline=False,
            row=panel,
            col=1,
        )
    _panels.minimum_width(drawing, 560)
    return drawing


def _by_unit(series: list[Series]) -> list[tuple[str, list[Key], list[str]]]:
    """Panels: unit, its cases in order, and what was left out; training rates come first.

    A unit without any result has no panel, and a case that every card lacks has no row.
    """
    rows = [row for one in series for row in one.rows]
    worth = [row for row in rows if good(row) or row["status"] in FAILURES]
    known = {row["case_id"]: row["throughput_unit"] for row in rows if good(row)}
    work = _panels.sizes(rows)
    units: dict[str, dict[str, dict[Key, dict[str, Any]]]] = {}
    for row in worth:
        unit = known.get(row["case_id"], row["throughput_unit"])
        units.setdefault(unit, {}).setdefault(row["workload"], {})[row["case_id"], row["cache"]] = row
    panels = []
    for unit, workloads in sorted(units.items(), key=lambda item: (_rank(item[0]), item[0])):
        chosen: list[Key] = []
        notes = []
        for workload, cases in sorted(workloads.items()):
            kept = sorted(cases, key=lambda key: -work[key])[:MOST_CASES]
            chosen += sorted(kept, key=lambda key: (work[key], _precision(cases[key]), key[0]))
            if len(kept) < len(cases):
                notes.append(f"{workload}: the {len(kept)} largest of {len(cases)} cases")
        if any(good(row) for found in workloads.values() for row in found.values()):
            panels.append((unit, chosen, notes))
    return panels


def _rank(unit: str) -> int:
    return {"FLOP/s": 1, "B/s": 2}.get(unit, 0)


def _precision(row: dict[str, Any]) -> str:
    return parameters(row).get("precision", "")


def _largest(series: list[Series], chosen: list[Key]) -> float:
    return max(_values(series, chosen, "throughput"))


def _highest(series: list[Series], chosen: list[Key]) -> float:
    """Where the longest bar or whisker ends; a whisker far beyond all bars is cut off."""
    highest = max(_values(series, chosen, "high"), default=0.0)
    largest = _largest(series, chosen)
    return min(max(highest, largest), 1.6 * largest)


def _values(series: list[Series], chosen: list[Key], column: str) -> list[float]:
    keys = set(chosen)
    return [
        row[column]
        for one in series
        for row in one.rows
        if good(row) and (row["case_id"], row["cache"]) in keys and row[column] is not None
    ]


def _bars(
    one: Series,
    drawn: list[tuple[float, dict[str, Any]]],
    divisor: float,
    thickness: float,
    *,
    first: bool,
) -> Any:  # noqa: ANN401 - plotly is untyped
    values = [row["throughput"] for _, row in drawn]
    above = [row["high"] - row["throughput"] if row["high"] else None for _, row in drawn]
    below = [row["throughput"] - row["low"] if row["low"] else None for _, row in drawn]
    return go.Bar(
        orientation="h",
        name=safe(one.label),
        legendgroup=one.group,
        showlegend=first,
        y=_panels.numbers(y for y, _ in drawn),
        x=_panels.numbers(value / divisor for value in values),
        width=thickness,
        marker=one.bar(),
        error_x={
            "type": "data",
            "symmetric": False,
            "array": _panels.numbers(None if step is None else step / divisor for step in above),
            "arrayminus": _panels.numbers(None if step is None else step / divisor for step in below),
            "thickness": 1.2,
            "width": 3,
        },
        hovertext=[_hover(one, row) for _, row in drawn],
        hoverinfo="text",
    )


def _texts(one: Series, points: list[tuple[float, dict[str, Any]]], divisor: float) -> Any:  # noqa: ANN401 - plotly is untyped
    """The value behind the whisker; for what has none, its status at the axis."""
    return go.Scatter(
        mode="text",
        legendgroup=one.group,
        showlegend=False,
        y=_panels.numbers(y for y, _ in points),
        x=_panels.numbers(
            (row["high"] or row["throughput"]) / divisor if good(row) else 0.0 for _, row in points
        ),
        text=[
            f" {safe(quantity(row['throughput_unit'])(row['throughput']))}"
            if good(row)
            else f" {'–' if row['status'] == 'unsupported' else '✗'} {safe(row['status'])}"
            for _, row in points
        ],
        textposition="middle right",
        textfont={"size": 10},
        hovertext=[_hover(one, row) for _, row in points],
        hoverinfo="text",
    )


def _hover(one: Series, row: dict[str, Any]) -> str:
    if not good(row):
        reason = safe(shorten(str(row["reason"] or "no reason given"), 160))
        return hover(safe(row["case_id"]), safe(one.label), f"{safe(row['status'])}: {reason}")
    value = quantity(row["throughput_unit"])(row["throughput"])
    return hover(
        f"<b>{safe(value)}</b> {spread(row)}", safe(row["case_id"]), safe(one.label), flags(row)
    )
