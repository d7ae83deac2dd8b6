"""Rate of matrix products over their size, in one panel per precision."""

import math
import re
from typing import Any

import plotly.graph_objects as go

from gpubench.cards import catalogue
from gpubench.figures import _panels
from gpubench.figures._text import flags, hover, safe, spread
from gpubench.names import parameters
from gpubench.render import percent, quantity
from gpubench.series import Series, good, series_of

TITLE = "Matrix products over size"
ORDER = 20
CAPTION = (
    "Up and flat is good: small products can't fill a card, large ones show what it reaches. "
    "Diamonds are transformer-shaped, placed at the side of the square with as many operations; a "
    "thin dotted line is the catalogue's dense peak. Random inputs in a tight loop: a whole model "
    "reaches less."
)

PRECISIONS = ("fp64", "fp32", "tf32", "fp16", "bf16", "fp8", "int8")
COLUMNS = 2
# Larger ones are no matrix that anybody multiplies, but a file may say anything.
_SIZE = re.compile("[1-9][0-9]{0,8}")
HEIGHT = 250


def figure(frame: Any) -> Any | None:
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
    placed = [point for found in points.values() for point in found]
    span = _span([side for side, *_ in placed])
    peaks: list[float] = []
    for place, precision in enumerate(precisions):
        where = _panels.cell(place, columns)
        for position, one in enumerate(series):
            found = [point for point in points[position] if point[2] == precision]
            found.sort(key=lambda point: point[0])
            if found:
                for trace in _traces(one, found):
                    drawing.add_trace(trace, *where)
                card = catalogue().get(found[0][-1]["card_id"] or "")
                if card and (peak := card.peak_flops(precision)):
                    peaks.append(peak)
                    drawing.add_trace(_peak(one, peak, precision, span), *where)
    _panels.name_once(drawing)
    drawing.update_xaxes(
        type="log",
        tickvals=_thinned(sides or sorted({round(span[0]), round(span[1])})),
        title="M = N = K",
        showticklabels=True,
        range=[math.log10(span[0]), math.log10(span[1])],
    )
    ends = [_rate(row, end) for *_, row in placed for end in ("throughput", "low", "high")]
    drawing.update_yaxes(_panels.log_axis([*ends, *peaks]))
    drawing.update_yaxes(title="FLOP/s", col=1)
    if columns > 1:
        _panels.tell(drawing, minimum_width=620)
    return drawing


Point = tuple[float, bool, str, dict[str, Any]]


def _point(row: dict[str, Any]) -> Point | None:
    """(side, whether it is square, precision, row); None if it's no matrix product."""
    named = parameters(row)
    sizes = named.get("shape", "").split("x")
    known = row["workload"] == "gemm" and len(sizes) == 3 and row["flops"] > 0
    if not known or not all(_SIZE.fullmatch(size) for size in sizes):
        return None
    M, N, K = map(int, sizes)
    side = float(M) if M == N == K else (float(M) * N * K) ** (1 / 3)
    return side, M == N == K, named.get("precision", "fp32"), row


def _rate(row: dict[str, Any], end: str) -> float | None:
    """FLOP/s, also of a product so small that its throughput counts bytes."""
    if row[end] is None:
        return None
    return float(row[end] / row["throughput"] * row["flops"] / row["median_s"])


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


def _traces(one: Series, found: list[Point]) -> list[Any]:
    """Square products on a line, others as points of their own."""
    squares = [(side, row) for side, square, _, row in found if square]
    others = [(side, row) for side, square, _, row in found if not square]
    traces = []
    for chosen, mode, symbol in (
        (squares, "lines+markers", "circle"),
        (others, "markers", "diamond"),
    ):
        rates, lows, highs = (
            [_rate(row, end) for _, row in chosen] for end in ("throughput", "low", "high")
        )
        if chosen:
            traces.append(
                go.Scatter(
                    mode=mode,
                    name=safe(one.label),
                    legendgroup=one.group,
                    showlegend=False,
                    x=_panels.numbers(side for side, _ in chosen),
                    y=_panels.numbers(rates),
                    error_y=_panels.whisker(rates, lows, highs),
                    marker=one.marker(symbol, 7),
                    line=one.line(),
                    hovertext=[_hover(one, row) for _, row in chosen],
                    hoverinfo="text",
                )
            )
    return traces


def _peak(one: Series, peak: float, precision: str, span: tuple[float, float]) -> Any:
    return go.Scatter(
        mode="lines",
        legendgroup=one.group,
        showlegend=False,
        x=list(span),
        y=[peak, peak],
        line={"color": one.color, "width": 1, "dash": "dot"},
        hovertext=hover(
            f"catalogue: {quantity('FLOP/s')(peak)}",
            f"dense {safe(precision)} peak",
            safe(one.label),
        ),
        hoverinfo="text",
    )


def _hover(one: Series, row: dict[str, Any]) -> str:
    share = row["share_of_peak"]
    return hover(
        f"<b>{quantity('FLOP/s')(row['flops'] / row['median_s'])}</b> {spread(row)}",
        f"{percent(share)} of the catalogue's peak" if share is not None else None,
        safe(row["case_id"]),
        safe(one.label),
        flags(row),
    )
