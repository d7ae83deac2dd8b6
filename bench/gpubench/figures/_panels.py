"""Layouts that the figures share: panels in a stack or a grid, in pixels rather than shares.

Colours of text, grid and background are not set here: the page gives them, for light and dark.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from plotly.subplots import make_subplots

MARGIN = {"l": 8, "r": 16, "t": 34, "b": 48}
GAP = 84


def numbers(values: Iterable[float | None]) -> Any:  # noqa: ANN401 - an array for plotly
    """Single precision is more than a screen shows, at half the page's size; unknown is a gap."""
    plain = [math.nan if value is None else value for value in values]
    return np.asarray(plain, dtype=np.float32)


def stack(titles: Sequence[str], heights: Sequence[int]) -> Any:  # noqa: ANN401 - plotly is untyped
    """Panels below one another, each with its height in pixels."""
    inside = sum(heights) + GAP * (len(heights) - 1)
    figure = make_subplots(
        rows=len(heights),
        cols=1,
        row_heights=list(heights),
        vertical_spacing=GAP / inside,
        subplot_titles=list(titles),
    )
    return _finish(figure, inside)


def grid(
    titles: Sequence[str], columns: int, height: int, **options: Any
) -> Any:  # noqa: ANN401 - plotly is untyped
    """Panels of one height, in rows of ``columns``; options are those of ``make_subplots``."""
    rows = math.ceil(len(titles) / columns)
    inside = rows * height + GAP * (rows - 1)
    figure = make_subplots(
        rows=rows,
        cols=columns,
        vertical_spacing=GAP / inside,
        subplot_titles=list(titles),
        **options,
    )
    for empty in range(len(titles), rows * columns):
        row, column = cell(empty, columns)
        figure.update_xaxes(visible=False, row=row, col=column)
        figure.update_yaxes(visible=False, row=row, col=column)
    return _finish(figure, inside)


def cell(position: int, columns: int) -> tuple[int, int]:
    """Row and column of a panel, from 1."""
    return position // columns + 1, position % columns + 1


def _finish(figure: Any, inside: int) -> Any:  # noqa: ANN401 - plotly is untyped
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


def minimum_width(figure: Any, pixels: int) -> None:  # noqa: ANN401 - plotly is untyped
    """Below this the figure scrolls in its box; the page reads it from the layout."""
    figure.update_layout(meta={**(figure.layout.meta or {}), "minimum_width": pixels})


def sizes(rows: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str | None], float]:
    """How much work each case is, for choosing the largest: operations, else bytes."""
    found: dict[tuple[str, str | None], float] = {}
    for row in rows:
        work = next((row[name] for name in ("flops", "bytes", "items") if row[name] > 0), 0.0)
        key = (row["case_id"], row["cache"])
        found[key] = max(found.get(key, 0.0), float(work))
    return found
