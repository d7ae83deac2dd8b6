"""Throughput of every workload, in one panel per unit."""

from typing import Any

import plotly.graph_objects as go

from gpubench.figures import _panels
from gpubench.figures._panels import Key
from gpubench.figures._text import flags, hover, label, safe, scale, spread
from gpubench.names import case_labels, parameters, shorten
from gpubench.record import FAILURES
from gpubench.render import quantity
from gpubench.series import Series, good, series_of

TITLE = "Throughput by workload"
ORDER = 10
CAPTION = (
    "Longer is faster; the whisker is the 95 % interval, which goes on where an arrow → follows "
    "and is unknown where ±? does; a word in place of a bar says why no number is there. Units "
    "can't be compared across panels, and a rate says nothing of what a card costs or draws."
)

BAR = 15
ROW_GAP = 9
# Rates further apart than this get a logarithmic axis: on a plain one the slow would be invisible.
WIDEST_PLAIN = 50
ROOM_FOR_TEXT = 1.22
# A whisker that ends beyond this many times the longest bar is cut off.
LONGEST_WHISKER = 3
# Bars that a workload gets in a panel; of more, the cases with the most work stand for all.
MOST_BARS = 32
MOST_CASES, FEWEST_CASES = 12, 4


def figure(frame: Any) -> Any | None:
    """Horizontal bars; None where nothing was measured."""
    series = series_of(frame)
    panels = _by_unit(series)
    if not panels:
        return None
    labels = case_labels(row for one in series for row in one.rows)
    ticks = [[label(labels[key]) for key in chosen] for _, chosen, _ in panels]
    rows = [_panels.row_height(BAR * len(series) + ROW_GAP, texts) for texts in ticks]
    heights = [len(texts) * row + ROW_GAP for texts, row in zip(ticks, rows, strict=True)]
    drawing = _panels.stack([_title(unit) for unit, *_ in panels], heights)
    drawing.update_layout(barmode="overlay", bargap=0)
    for place, ((unit, chosen, _), texts, row) in enumerate(zip(panels, ticks, rows, strict=True)):
        _draw(drawing, place + 1, series, unit, chosen, BAR / row)
        drawing.update_yaxes(
            tickvals=list(range(len(texts))),
            ticktext=texts,
            range=[len(texts) - 0.5, -0.5],
            showgrid=False,
            zeroline=False,
            row=place + 1,
            col=1,
        )
    _panels.name_once(drawing)
    note = _panels.left_out([workload for *_, cut in panels for workload in cut])
    _panels.tell(drawing, minimum_width=560, note=note)
    return drawing


def _draw(
    drawing: Any, panel: int, series: list[Series], unit: str, chosen: list[Key], bar: float
) -> None:
    """One unit's bars, texts and axis; ``bar`` is a bar's share of a row."""
    lowest, largest, end = _reach(series, chosen)
    divisor, prefixed = scale(largest, unit)
    start = 0.0
    if largest > WIDEST_PLAIN * lowest:
        axis = _panels.log_axis([lowest / divisor, ROOM_FOR_TEXT * end / divisor], room=2)
        start = 10.0 ** axis["range"][0]
        prefixed += ", logarithmic"
    else:
        axis = {"range": [0, ROOM_FOR_TEXT * end / divisor]}
    for position, one in enumerate(series):
        offset = (position - (len(series) - 1) / 2) * bar
        rows = {(row["case_id"], row["cache"]): row for row in one.rows}
        points = [(place + offset, rows[key]) for place, key in enumerate(chosen) if key in rows]
        drawn = [(y, row) for y, row in points if good(row)]
        if drawn:
            drawing.add_trace(_bars(one, drawn, divisor, end, 0.9 * bar), panel, 1)
        drawing.add_trace(_texts(one, points, divisor, start, end), panel, 1)
    drawing.update_xaxes(title=safe(prefixed), row=panel, col=1, **axis)


def _by_unit(series: list[Series]) -> list[tuple[str, list[Key], list[str]]]:
    """Panels: unit, its cases in order, what was left out; training rates come first.

    A unit without any result has no panel, and a case that every card lacks has no row.
    """
    rows = [row for one in series for row in one.rows]
    if not rows:
        return []
    # A case that failed on one card has the unit it has on the others.
    known = {row["case_id"]: row["throughput_unit"] for row in rows if good(row)}
    work: dict[Key, float] = {}
    units: dict[str, dict[str, dict[Key, str]]] = {}
    for row in rows:
        if good(row) or row["status"] in FAILURES:
            key = (row["case_id"], row["cache"])
            work[key] = max(work.get(key, 0.0), _panels.size(row))
            cases = units.setdefault(known.get(row["case_id"], row["throughput_unit"]), {})
            cases.setdefault(row["workload"], {})[key] = parameters(row).get("precision", "")
    measured = set(known.values())
    most = max(FEWEST_CASES, min(MOST_CASES, MOST_BARS // len(series)))
    panels = []
    for unit, workloads in sorted(units.items(), key=lambda item: (_rank(item[0]), item[0])):
        if unit in measured:
            ordered = {
                workload: sorted(cases, key=lambda key: (work[key], cases[key], key[0]))
                for workload, cases in workloads.items()
            }
            panels.append((unit, *_panels.largest(ordered, work, most)))
    return panels


def _rank(unit: str) -> int:
    return {"FLOP/s": 1, "B/s": 2}.get(unit, 0)


def _title(unit: str) -> str:
    return safe({"FLOP/s": "computing", "B/s": "memory"}.get(unit, f"training, {unit}"))


def _reach(series: list[Series], chosen: list[Key]) -> tuple[float, float, float]:
    """The shortest bar, the longest, and where the longest bar or whisker ends."""
    keys = set(chosen)
    rows = [row for one in series for row in one.rows if (row["case_id"], row["cache"]) in keys]
    rates = [row["throughput"] for row in rows if good(row)]
    highest = max(row["high"] or row["throughput"] for row in rows if good(row))
    return min(rates), max(rates), min(highest, LONGEST_WHISKER * max(rates))


def _bars(
    one: Series,
    drawn: list[tuple[float, dict[str, Any]]],
    divisor: float,
    end: float,
    thickness: float,
) -> Any:
    values, lows, highs = ([row[end] for _, row in drawn] for end in ("throughput", "low", "high"))
    highs = [None if high is None else min(high, end) for high in highs]  # its text stands there
    return go.Bar(
        orientation="h",
        name=safe(one.label),
        legendgroup=one.group,
        showlegend=False,
        y=_panels.numbers(y for y, _ in drawn),
        x=_panels.numbers(value / divisor for value in values),
        width=thickness,
        marker=one.bar(),
        error_x=_panels.whisker(values, lows, highs, divisor),
        hovertext=[_hover(one, row) for _, row in drawn],
        hoverinfo="text",
    )


def _texts(
    one: Series,
    points: list[tuple[float, dict[str, Any]]],
    divisor: float,
    start: float,
    end: float,
) -> Any:
    """The value behind the whisker; for what has none, its status where bars start."""
    return go.Scatter(
        mode="text",
        legendgroup=one.group,
        showlegend=False,
        y=_panels.numbers(y for y, _ in points),
        x=_panels.numbers(
            min(row["high"] or row["throughput"], end) / divisor if good(row) else start
            for _, row in points
        ),
        text=[f" {safe(_text(row, end))}" for _, row in points],
        textposition="middle right",
        textfont={"size": 10},
        hovertext=[_hover(one, row) for _, row in points],
        hoverinfo="text",
    )


def _text(row: dict[str, Any], end: float) -> str:
    """The value, the failure, or both where it failed in some trials only.

    An arrow goes before the value where the whisker is cut off at ``end``, and ±? behind it where
    there is none: a bar without a whisker looks exact.
    """
    mark = "–" if row["status"] == "unsupported" else "✗"
    outcome = "" if row["status"] == "ok" else f"{mark} {row['status']}"
    if not good(row):
        return outcome or f"{mark} no rate"
    value = quantity(row["throughput_unit"])(row["throughput"])
    if row["high"] is None:
        value = f"{value} ±?"
    elif row["high"] > end:
        value = f"→ {value}"
    return f"{value} {outcome}".strip()


def _hover(one: Series, row: dict[str, Any]) -> str:
    if not good(row):
        reason = safe(shorten(str(row["reason"] or "no reason given"), 160))
        return hover(safe(row["case_id"]), safe(one.label), f"{safe(row['status'])}: {reason}")
    value = quantity(row["throughput_unit"])(row["throughput"])
    return hover(
        f"<b>{safe(value)}</b> {spread(row)}", safe(row["case_id"]), safe(one.label), flags(row)
    )
