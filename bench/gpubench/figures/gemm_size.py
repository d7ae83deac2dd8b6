"""Rate of matrix products over their size, in one panel per precision."""

import math
from typing import Any

import plotly.graph_objects as go

from gpubench.cards import catalogue
from gpubench.figures import _panels
from gpubench.figures._series import Series, good, series_of
from gpubench.figures._text import flags, hover, parameters, safe, spread
from gpubench.render import percent, quantity

TITLE = "Matrix products over size"
ORDER = 20
CAPTION = (
    "Up and flat is good: small products can't fill a card, large ones show what it reaches; diamonds "
    "are transformer-shaped products, at the side of the square one with as many operations, and a thin "
    "dotted line is the catalogue's dense peak, a figure that nobody measured here. Random inputs in a "
    "tight loop: a whole model reaches less."
)

PRECISIONS = ("fp64", "fp32", "tf32", "fp16", "bf16", "fp8", "int8")
COLUMNS = 2
HEIGHT = 250


def figure(frame: Any) -> Any | None:  # noqa: ANN401 - plotly is untyped
    """A line per series in each precision's panel; None without matrix products."""
    series = series_of(frame)
    points = {
        position: [point for row in one.rows if good(row) and (point := _point(row))]
        for position, one in enumerate(series)
    }
    present = {point[2] for found in points.values() for point in found}
    precisions = sorted(present, key=_rank)
    if not precisions:
        return None
    columns = min(COLUMNS, len(precisions))
    drawing = _panels.grid(
        [safe(precision) for precision in precisions],
        columns,
        HEIGHT,
        shared_xaxes="all",
        shared_yaxes="all",
        horizontal_spacing=0.06,
    )
    sides = sorted({side for found in points.values() for side, square, *_ in found if square})
    span = _span([side for found in points.values() for side, *_ in found])
    for place, precision in enumerate(precisions):
        where = _panels.cell(place, columns)
        for position, one in enumerate(series):
            found = [point for point in points[position] if point[2] == precision]
            found.sort(key=lambda point: point[0])
            if found:
                for trace in _traces(one, found, precision, span):
                    drawing.add_trace(trace, *where)
    _name_once(drawing)
    drawing.update_xaxes(
        type="log",
        tickvals=_thinned(sides or sorted({round(span[0]), round(span[1])})),
        title="M = N = K",
        showticklabels=True,
        range=[math.log10(span[0]), math.log10(span[1])],
    )
    drawing.update_yaxes(type="log", exponentformat="SI", dtick=1)
    drawing.update_yaxes(title="FLOP/s", col=1)
    if columns > 1:
        _panels.minimum_width(drawing, 620)
    return drawing


Point = tuple[float, bool, str, dict[str, Any]]


def _point(row: dict[str, Any]) -> Point | None:
    """(side, whether it is square, precision, row); None if it's no matrix product."""
    named = parameters(row)
    sizes = named.get("shape", "").split("x")
    known = row["workload"] == "gemm" and len(sizes) == 3
    if not known or not all(size.isdecimal() and int(size) for size in sizes):
        return None
    M, N, K = map(int, sizes)
    side = float(M) if M == N == K else (float(M) * N * K) ** (1 / 3)
    return side, M == N == K, named.get("precision", "fp32"), row


def _rank(precision: str) -> tuple[int, str]:
    known = PRECISIONS.index(precision) if precision in PRECISIONS else len(PRECISIONS)
    return known, precision


def _span(sides: list[float]) -> tuple[float, float]:
    return min(sides) / 1.3, max(sides) * 1.3


def _thinned(sides: list[float]) -> list[float]:
    """Ticks at measured sizes, at least a factor of two apart so that they don't touch."""
    kept: list[float] = []
    for side in sides:
        if not kept or side >= 1.9 * kept[-1]:
            kept.append(side)
    return kept


def _traces(
    one: Series, found: list[Point], precision: str, span: tuple[float, float]
) -> list[Any]:
    traces = []
    for square, symbol in ((True, "circle"), (False, "diamond")):
        chosen = [(side, row) for side, is_square, _, row in found if is_square is square]
        if chosen:
            traces.append(
                go.Scatter(
                    mode="lines+markers" if square else "markers",
                    name=safe(one.label),
                    legendgroup=one.group,
                    showlegend=False,
                    x=_panels.numbers(side for side, _ in chosen),
                    y=_panels.numbers(row["throughput"] for _, row in chosen),
                    error_y=_whisker([row for _, row in chosen]),
                    marker=one.marker(symbol, 8 if square else 7),
                    line=one.line(),
                    hovertext=[_hover(one, row) for _, row in chosen],
                    hoverinfo="text",
                )
            )
    card = catalogue().get(found[0][-1]["card_id"] or "")
    peak = card.peak_flops(precision) if card else None
    if peak:
        text = hover(f"catalogue: {quantity('FLOP/s')(peak)}", f"dense {safe(precision)} peak")
        traces.append(
            go.Scatter(
                mode="lines",
                legendgroup=one.group,
                showlegend=False,
                x=list(span),
                y=[peak, peak],
                line={"color": one.color, "width": 1, "dash": "dot"},
                hovertext=hover(text, safe(one.label)),
                hoverinfo="text",
            )
        )
    return traces


def _whisker(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "type": "data",
        "symmetric": False,
        "array": _panels.numbers(
            row["high"] - row["throughput"] if row["high"] else None for row in rows
        ),
        "arrayminus": _panels.numbers(
            row["throughput"] - row["low"] if row["low"] else None for row in rows
        ),
        "thickness": 1,
        "width": 3,
    }


def _name_once(drawing: Any) -> None:  # noqa: ANN401 - plotly is untyped
    """One legend entry a series, whichever panel it appears in first."""
    named: set[str] = set()
    for trace in drawing.data:
        if trace.legendgroup not in named and trace.name:
            trace.showlegend = True
            named.add(trace.legendgroup)


def _hover(one: Series, row: dict[str, Any]) -> str:
    share = row["share_of_peak"]
    return hover(
        f"<b>{quantity('FLOP/s')(row['throughput'])}</b> {spread(row)}",
        f"{percent(share)} of the catalogue's peak" if share is not None else None,
        safe(row["case_id"]),
        safe(one.label),
        flags(row),
    )
