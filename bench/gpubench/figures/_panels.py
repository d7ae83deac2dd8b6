"""Layouts that the figures share: panels in a stack or a grid, in pixels rather than shares.

Colours of text, grid and background are not set here: the page gives them, for light and dark.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from plotly.subplots import make_subplots

from gpubench.figures._text import tick_text

MARGIN = {"l": 8, "r": 16, "t": 54, "b": 48}
GAP = 80
LINE = 17  # of a label at an axis
# Least ratio of a logarithmic axis' ends.
NARROWEST = 8.0
# A case as figures know it: its id, and whether the cache was cold.
Key = tuple[str, str | None]


def log_axis(values: Iterable[float | None], room: float = 1.3) -> dict[str, Any]:
    """A logarithmic axis around the values, with a factor of room on both sides.

    Range and ticks are set here: plotly.js 4.1 finds no range for logarithmic axes that match one
    another, and writes 1000 between 100 and 10k.
    """
    known = [value for value in values if value is not None and 0 < value < math.inf]
    # A narrow range would have a single tick, which says nothing of the scale.
    room = max(room, math.sqrt(NARROWEST * min(known) / max(known)))
    lowest, highest = min(known) / room, max(known) * room
    steps = (1, 2, 5) if highest / lowest < 100 else (1,)
    decades = range(math.floor(math.log10(lowest)), math.ceil(math.log10(highest)))
    ticks = [step * 10.0**decade for decade in decades for step in steps]
    ticks = [tick for tick in ticks if lowest <= tick <= highest]
    return {
        "type": "log",
        "range": [math.log10(lowest), math.log10(highest)],
        "tickvals": ticks,
        "ticktext": [tick_text(tick) for tick in ticks],
    }


def numbers(values: Iterable[float | None]) -> Any:
    """Single precision is more than a screen shows, at half the page's size; unknown is a gap."""
    plain = [math.nan if value is None else value for value in values]
    with np.errstate(over="ignore"):  # beyond single precision lies no rate of a card
        return np.asarray(plain, dtype=np.float32)


def stack(titles: Sequence[str], heights: Sequence[int]) -> Any:
    """Panels below one another, each with its height in pixels."""
    inside = sum(heights) + GAP * (len(heights) - 1)
    figure = make_subplots(
        rows=len(heights),
        cols=1,
        row_heights=list(heights),
        vertical_spacing=_gap(inside, len(heights)),
        subplot_titles=list(titles),
    )
    return _finish(figure, inside)


def grid(titles: Sequence[str], columns: int, height: int, **options: Any) -> Any:
    """Panels of one height, in rows of ``columns``; options are those of ``make_subplots``."""
    rows = math.ceil(len(titles) / columns)
    inside = rows * height + GAP * (rows - 1)
    figure = make_subplots(
        rows=rows,
        cols=columns,
        vertical_spacing=_gap(inside, rows),
        subplot_titles=list(titles),
        **options,
    )
    for empty in range(len(titles), rows * columns):
        row, column = cell(empty, columns)
        figure.update_xaxes(visible=False, row=row, col=column)
        figure.update_yaxes(visible=False, row=row, col=column)
    return _finish(figure, inside)


def row_height(marks: int, labels: Iterable[str]) -> int:
    """Pixels of a row that has to hold so many of marks and its label, of one line or two."""
    return max(marks, LINE * max((1 + label.count("<br>") for label in labels), default=1))


def cell(position: int, columns: int) -> tuple[int, int]:
    """Row and column of a panel, from 1."""
    return position // columns + 1, position % columns + 1


def _gap(inside: int, rows: int) -> float:
    """The gap between panels as plotly takes it, a share of the height inside the margins."""
    return GAP / inside if rows > 1 else 0.0


def _finish(figure: Any, inside: int) -> Any:
    figure.update_layout(
        height=inside + MARGIN["t"] + MARGIN["b"],
        margin=MARGIN,
        hovermode="closest",
        # plotly's own template is large and light; the page brings one that suits it.
        template="none",
        # The page draws the legend above the figure, where it wraps without covering anything.
        meta={"legend": "page"},
    )
    figure.update_annotations(font={"size": 13}, yshift=6)
    return figure


def whisker(
    values: Sequence[float | None],
    lows: Sequence[float | None],
    highs: Sequence[float | None],
    divisor: float = 1.0,
) -> dict[str, Any]:
    """An interval as plotly draws it, none where a bound is unknown."""

    def reaches(ends: Sequence[float | None]) -> Any:
        return numbers(
            None if end is None or value is None else abs(end - value) / divisor
            for value, end in zip(values, ends, strict=True)
        )

    return {
        "type": "data",
        "symmetric": False,
        "array": reaches(highs),
        "arrayminus": reaches(lows),
        "thickness": 1.2,
        "width": 3,
    }


def name_once(figure: Any) -> None:
    """One legend entry a group, at its first named trace, whichever panel that is in."""
    named: set[str] = set()
    for trace in figure.data:
        if trace.name and trace.legendgroup not in named:
            trace.showlegend = True
            named.add(trace.legendgroup)


def tell(figure: Any, **facts: Any) -> None:
    """Tell the page about a figure, in the layout's ``meta``, which plotly ignores.

    ``minimum_width``: pixels below which it scrolls in its box; ``note``: a sentence of plain text
    below the caption; None is nothing.
    """
    known = {name: fact for name, fact in facts.items() if fact is not None}
    figure.update_layout(meta={**(figure.layout.meta or {}), **known})


def size(row: Mapping[str, Any]) -> float:
    """How much work a case is, for choosing the largest: operations, else bytes, else items."""
    return float(next((row[work] for work in ("flops", "bytes", "items") if row[work] > 0), 0.0))


def largest(
    workloads: Mapping[str, Sequence[Key]], work: Mapping[Key, float], most: int
) -> tuple[list[Key], list[str]]:
    """At most so many cases of each workload, those with the most work, in the order they came.

    Returns:
        The cases, by workload, and what was left out, as ``["gemm 12 of 50"]``.
    """
    chosen: list[Key] = []
    cut = []
    for workload, cases in sorted(workloads.items()):
        kept = set(sorted(cases, key=lambda case: -work[case])[:most])
        chosen += [case for case in cases if case in kept]
        if len(kept) < len(cases):
            cut.append(f"{workload} {len(kept)} of {len(cases)}")
    return chosen, cut


def left_out(cut: Sequence[str]) -> str | None:
    """A sentence on what `largest` left out; None if nothing was."""
    note = f"Only the largest cases are drawn ({'; '.join(cut)}); the table below has all."
    return note if cut else None
