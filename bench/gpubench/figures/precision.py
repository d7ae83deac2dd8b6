"""What a lower precision brings: the speed of each case against fp32's on the same card."""

import math
from typing import Any

import plotly.graph_objects as go

from gpubench.figures import _panels
from gpubench.figures._text import hover, label, safe
from gpubench.names import case_labels, parameters
from gpubench.render import number, plus_minus
from gpubench.series import Series, good, series_of

TITLE = "Speedup over fp32"
ORDER = 40
CAPTION = (
    "To the right of 1 a precision is faster than fp32 of the same case on the same card; whiskers "
    "join the 95 % intervals of both. Whether a model still learns in it is not said here."
)

BASELINE = "fp32"
PRECISIONS = ("tf32", "bf16", "fp16", "fp8", "int8", "fp64")
MARKER_ROW = 11
ROW_GAP = 12
MOST_CASES = 8
LABEL_WIDTH = 230
LONGEST_LINE = 34
PANEL_WIDTH = 150
# (case without its precision, cache)
Base = tuple[str, str | None]
TICKS = [1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8, 16, 32, 64]


def figure(frame: Any) -> Any | None:
    """A panel per precision side by side, a line per case; None without pairs to compare."""
    series = series_of(frame)
    ratios = [_ratios(one) for one in series]
    present = {precision for found in ratios for precision, _ in found}
    if not present:
        return None
    precisions = sorted(present, key=_rank)
    cases, names, note = _chosen(series, {base for found in ratios for _, base in found})
    labels = [label(names[base], LONGEST_LINE) for base in cases]
    row_height = _panels.row_height(MARKER_ROW * len(series) + ROW_GAP, labels)
    drawing = _panels.grid(
        [safe(precision) for precision in precisions],
        len(precisions),
        len(cases) * row_height,
        shared_yaxes=True,
        horizontal_spacing=0.02,
    )
    for panel, precision in enumerate(precisions, start=1):
        for position, one in enumerate(series):
            offset = (position - (len(series) - 1) / 2) * MARKER_ROW
            drawn = [
                (place + offset / row_height, *ratios[position][key])
                for place, base in enumerate(cases)
                if (key := (precision, base)) in ratios[position]
            ]
            if drawn:
                drawing.add_trace(_dots(one, drawn), 1, panel)
        drawing.add_vline(x=1, line={"width": 1, "color": "#808080"}, row=1, col=panel)
    drawing.update_yaxes(
        tickvals=list(range(len(cases))),
        ticktext=labels,
        range=[len(cases) - 0.5, -0.5],
        zeroline=False,
    )
    for panel, precision in enumerate(precisions, start=1):
        # fp64 runs at 1/64 on many cards: on one axis with it all others would shrink to a line
        alike = [one for one in precisions if (one == "fp64") is (precision == "fp64")]
        speedups = [
            value for found in ratios for (own, _), (value, *_) in found.items() if own in alike
        ]
        drawing.update_xaxes(_axis(speedups), row=1, col=panel)
    _panels.name_once(drawing)
    width = LABEL_WIDTH + PANEL_WIDTH * len(precisions)
    _panels.tell(drawing, note=note, minimum_width=width)
    return drawing


def _ratios(one: Series) -> dict[tuple[str, Base], tuple[float, float, dict[str, Any]]]:
    """(precision, case) → speedup over fp32, its relative half-width, the row."""
    rows = {(_precision(row), _base(row)): row for row in one.rows if good(row)}
    found = {}
    for (precision, base), row in rows.items():
        reference = rows.get((BASELINE, base))
        if precision and precision != BASELINE and reference:
            speedup = reference["median_s"] / row["median_s"]
            # Independent errors of both logarithms add in squares.
            half_width = math.hypot(_width(row), _width(reference))
            found[precision, base] = (speedup, half_width, row)
    return found


def _width(row: dict[str, Any]) -> float:
    return math.inf if row["half_width"] is None else float(row["half_width"])


def _precision(row: dict[str, Any]) -> str | None:
    return parameters(row).get("precision")


def _base(row: dict[str, Any]) -> Base:
    """What is the same for all precisions of a case."""
    named = parameters(row)
    inside = ",".join(f"{name}={text}" for name, text in named.items() if name != "precision")
    variant = f" ({row['variant']})" if row["variant"] else ""
    return f"{row['workload']}:{inside}{variant}", row["cache"]


def _chosen(
    series: list[Series], wanted: set[Base]
) -> tuple[list[Base], dict[Base, str], str | None]:
    """Cases by workload and size, their names, and what had to be left out."""
    rows = {_base(row): row for one in series for row in one.rows if _base(row) in wanted}
    work = {base: _panels.size(row) for base, row in rows.items()}
    workloads: dict[str, list[Base]] = {}
    for base in sorted(rows, key=lambda base: (work[base], base[0], str(base[1]))):
        workloads.setdefault(rows[base]["workload"], []).append(base)
    cases, cut = _panels.largest(workloads, work, MOST_CASES)
    plain = [
        {
            "case_id": base[0],
            "cache": base[1],
            "workload": row["workload"],
            "variant": row["variant"],
            "params": {key: text for key, text in parameters(row).items() if key != "precision"},
        }
        for base, row in rows.items()
    ]
    return cases, case_labels(plain), _panels.left_out(cut)


def _dots(one: Series, drawn: list[tuple[float, float, float, dict[str, Any]]]) -> Any:
    speedups = [speedup for _, speedup, *_ in drawn]
    factors = [math.exp(width) if math.isfinite(width) else None for *_, width, _ in drawn]
    ends = list(zip(speedups, factors, strict=True))
    lows = [speedup / factor if factor else None for speedup, factor in ends]
    highs = [speedup * factor if factor else None for speedup, factor in ends]
    return go.Scatter(
        mode="markers",
        name=safe(one.label),
        legendgroup=one.group,
        showlegend=False,
        x=_panels.numbers(speedups),
        y=_panels.numbers(place for place, *_ in drawn),
        error_x=_panels.whisker(speedups, lows, highs),
        marker=one.marker("circle", 8),
        hovertext=[
            hover(
                f"<b>{number(speedup)} × fp32</b> {plus_minus(width)}",
                safe(row["case_id"]),
                safe(one.label),
            )
            for _, speedup, width, row in drawn
        ],
        hoverinfo="text",
    )


def _axis(speedups: list[float]) -> dict[str, Any]:
    """A logarithmic axis: twice and half lie equally far from 1."""
    lowest, highest = min(0.8, *speedups) / 1.25, max(1.25, *speedups) * 1.25
    ticks = [tick for tick in TICKS if lowest <= tick <= highest]
    every = math.ceil(len(ticks) / 5)
    kept = [tick for tick in ticks if round(math.log2(tick)) % every == 0]
    return {
        "type": "log",
        "range": [math.log10(lowest), math.log10(highest)],
        "tickvals": kept,
        "ticktext": [f"{tick:g}" if tick >= 1 else f"1/{1 / tick:g}" for tick in kept],
        "title": {"text": "× fp32"},
        "zeroline": False,
    }


def _rank(precision: str) -> tuple[int, str]:
    known = PRECISIONS.index(precision) if precision in PRECISIONS else len(PRECISIONS)
    return known, precision
