"""What a lower precision brings: the speed of each case against fp32's on the same card."""

import math
from typing import Any

import plotly.graph_objects as go

from gpubench.figures import _panels
from gpubench.figures._series import Series, good, series_of
from gpubench.figures._text import case_labels, hover, parameters, safe, shorten
from gpubench.render import number, plus_minus

TITLE = "Speedup over fp32"
ORDER = 40
CAPTION = (
    "To the right of 1 a precision is faster than fp32 of the same case on the same card; whiskers "
    "join the 95 % intervals of both. Whether a model still learns in that precision is not said here."
)

BASELINE = "fp32"
PRECISIONS = ("tf32", "bf16", "fp16", "fp8", "int8", "fp64")
MARKER_ROW = 11
ROW_GAP = 12
MOST_CASES = 12
LABEL_WIDTH = 230
PANEL_WIDTH = 150
# (case without its precision, cache)
Base = tuple[str, str | None]
TICKS = [1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8, 16, 32, 64]


def figure(frame: Any) -> Any | None:  # noqa: ANN401 - plotly is untyped
    """A panel per precision side by side, a line per case; None without pairs to compare."""
    series = series_of(frame)
    ratios = [_ratios(one) for one in series]
    present = {precision for found in ratios for precision, _ in found}
    if not present:
        return None
    precisions = sorted(present, key=_rank)
    cases, left_out = _chosen(series, {base for found in ratios for _, base in found})
    height = len(cases) * (MARKER_ROW * len(series) + ROW_GAP)
    drawing = _panels.grid(
        [safe(precision) for precision in precisions],
        len(precisions),
        height,
        shared_yaxes=True,
        shared_xaxes="all",
        horizontal_spacing=0.02,
    )
    named: set[str] = set()
    for panel, precision in enumerate(precisions, start=1):
        for position, one in enumerate(series):
            offset = (position - (len(series) - 1) / 2) * MARKER_ROW
            drawn = [
                (place + offset / (MARKER_ROW * len(series) + ROW_GAP), *ratios[position][key])
                for place, base in enumerate(cases)
                if (key := (precision, base)) in ratios[position]
            ]
            if drawn:
                first = one.group not in named
                named.add(one.group)
                drawing.add_trace(_dots(one, drawn, first=first), 1, panel)
        drawing.add_vline(x=1, line={"width": 1, "color": "#808080"}, row=1, col=panel)
    _axes(drawing, series, cases, [value for found in ratios for value, *_ in found.values()])
    if left_out:
        drawing.update_xaxes(title=f"× of fp32 ({safe(left_out)})", col=1)
    _panels.minimum_width(drawing, LABEL_WIDTH + PANEL_WIDTH * len(precisions))
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
    variant = row["case_id"].partition(" (version ")[2]
    return f"{row['workload']}:{inside}{variant and f' (version {variant}'}", row["cache"]


def _chosen(series: list[Series], wanted: set[Base]) -> tuple[list[tuple[str, Base]], str]:
    """Cases by workload and size, the largest where there are many, and what was left out."""
    raise NotImplementedError
