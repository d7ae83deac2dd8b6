"""Where each case stands below its card's roofs: arithmetic intensity against operations."""

from typing import Any

import plotly.graph_objects as go

from gpubench.cards import Card, catalogue
from gpubench.figures import _panels
from gpubench.figures._text import flags, hover, safe, spread
from gpubench.names import parameters
from gpubench.render import number, percent, quantity
from gpubench.series import Series, good, series_of

TITLE = "Roofline"
ORDER = 30
CAPTION = (
    "The slope is what the memory's bandwidth allows, a flat roof what the card computes at most "
    "in a precision, both from the catalogue: close below its roof a case uses the card well. "
    "Bytes are the least that must move, so in truth points lie further left; cases without "
    "declared operations or bytes are not here."
)

COLUMNS = 2
HEIGHT = 300
SYMBOLS = {
    "fp64": "star",
    "fp32": "circle",
    "tf32": "square",
    "fp16": "triangle-up",
    "bf16": "diamond",
    "fp8": "cross",
    "int8": "x",
}
UNSPECIFIED = "hexagon"
# Text and lines that belong to no card: legible on a light and on a dark page.
NEUTRAL = "#808080"


def figure(frame: Any) -> Any | None:
    """A panel per series; None where no case has both operations and bytes."""
    found = [(one, rows) for one in series_of(frame) if (rows := _placed(one))]
    if not found:
        return None
    columns = min(COLUMNS, len(found))
    drawing = _panels.grid(
        [safe(one.label) for one, _ in found],
        columns,
        HEIGHT,
        shared_xaxes="all",
        shared_yaxes="all",
        horizontal_spacing=0.06,
    )
    lowest, highest = _span([_intensity(row) for _, rows in found for row in rows])
    for position, (one, rows) in enumerate(found):
        where = _panels.cell(position, columns)
        present = sorted({_precision(row) for row in rows})
        card = catalogue().get(rows[0]["card_id"] or "")
        if card is None:
            _say_no_roof(drawing, where)
        else:
            for trace in _roofs(card, present, lowest, highest):
                drawing.add_trace(trace, *where)
        for precision in present:
            chosen = [row for row in rows if _precision(row) == precision]
            drawing.add_trace(_points(one, precision, chosen, card), *where)
    drawing.update_xaxes(_panels.log_axis([lowest, highest], 1))
    drawing.update_xaxes(showticklabels=True, title="FLOP per byte")
    ends = [_rate(row) for _, rows in found for row in rows]
    ends += [end for trace in drawing.data if trace.mode.startswith("lines") for end in trace.y]
    drawing.update_yaxes(_panels.log_axis(ends, 2))
    drawing.update_yaxes(title="FLOP/s", col=1)
    _explain_symbols(drawing, {_precision(row) for _, rows in found for row in rows})
    if columns > 1:
        _panels.tell(drawing, minimum_width=640)
    return drawing


def _placed(one: Series) -> list[dict[str, Any]]:
    return [row for row in one.rows if good(row) and row["flops"] > 0 and row["bytes"] > 0]


def _intensity(row: dict[str, Any]) -> float:
    return float(row["flops"] / row["bytes"])


def _rate(row: dict[str, Any]) -> float:
    return float(row["flops"] / row["median_s"])


def _precision(row: dict[str, Any]) -> str:
    return parameters(row).get("precision", "fp32")


def _span(intensities: list[float]) -> tuple[float, float]:
    """Wide enough that the ridge between the roofs is seen."""
    return min(0.1, *intensities) / 2, max(1000.0, *intensities) * 2


def _roofs(card: Card, precisions: list[str], lowest: float, highest: float) -> list[Any]:
    """The bandwidth's slope up to the highest flat roof, and each precision's flat one."""
    peaks = {name: peak for name in precisions if (peak := card.peak_flops(name))}
    top = max(peaks.values(), default=card.peaks["fp32"])
    text = f"catalogue: {quantity('B/s')(card.bandwidth)}"
    traces = [_roof([lowest, top / card.bandwidth], [lowest * card.bandwidth, top], text, None)]
    # Precisions with one peak share a roof and its name.
    shared: dict[float, list[str]] = {}
    for name, peak in peaks.items():
        shared.setdefault(peak, []).append(name)
    for peak, names in shared.items():
        label = safe(", ".join(names))
        text = f"catalogue: {quantity('FLOP/s')(peak)} dense {label}"
        traces.append(_roof([peak / card.bandwidth, highest], [peak, peak], text, label))
    return traces


def _roof(x: list[float], y: list[float], text: str, label: str | None) -> Any:
    return go.Scatter(
        mode="lines+text" if label else "lines",
        x=x,
        y=y,
        text=["", label] if label else None,
        textposition="top left",
        textfont={"size": 10, "color": NEUTRAL},
        line={"color": NEUTRAL, "width": 1.2, "dash": "dot"},
        hovertext=text,
        hoverinfo="text",
        showlegend=False,
    )


def _points(one: Series, precision: str, rows: list[dict[str, Any]], card: Card | None) -> Any:
    return go.Scatter(
        mode="markers",
        legendgroup=safe(precision),
        showlegend=False,
        x=_panels.numbers(map(_intensity, rows)),
        y=_panels.numbers(map(_rate, rows)),
        marker=one.marker(SYMBOLS.get(precision, UNSPECIFIED), 8),
        hovertext=[_hover(row, card) for row in rows],
        hoverinfo="text",
    )


def _hover(row: dict[str, Any], card: Card | None) -> str:
    share = None
    if card is not None:
        peak = card.peak_flops(_precision(row)) or card.peaks["fp32"]
        share = _rate(row) / min(peak, _intensity(row) * card.bandwidth)
    return hover(
        f"<b>{quantity('FLOP/s')(_rate(row))}</b> {spread(row)}",
        f"{number(_intensity(row))} FLOP per byte",
        f"{percent(share)} of the roof above it" if share is not None else None,
        safe(row["case_id"]),
        flags(row),
    )


def _say_no_roof(drawing: Any, where: tuple[int, int]) -> None:
    drawing.add_annotation(
        text="not in the card catalogue: points only, no roofs",
        x=0.02,
        y=0.98,
        xref="x domain",
        yref="y domain",
        xanchor="left",
        yanchor="top",
        showarrow=False,
        font={"size": 11, "color": NEUTRAL},
        row=where[0],
        col=where[1],
    )


def _explain_symbols(drawing: Any, precisions: set[str]) -> None:
    """Legend entries of no colour: a symbol means the same precision in every panel."""
    for precision in sorted(precisions):
        drawing.add_trace(
            go.Scatter(
                x=[None],
                y=[None],
                mode="markers",
                name=safe(precision),
                legendgroup=safe(precision),
                showlegend=True,
                hoverinfo="skip",
                marker={
                    "symbol": SYMBOLS.get(precision, UNSPECIFIED),
                    "color": NEUTRAL,
                    "size": 8,
                },
            ),
            1,
            1,
        )
