"""Every sample in the order it was taken, of the cases that wavered most."""

import math
from typing import Any

import plotly.graph_objects as go

from gpubench import stats
from gpubench.figures import _panels
from gpubench.figures._panels import Key
from gpubench.figures._text import hover, safe
from gpubench.names import case_labels, shorten
from gpubench.render import seconds
from gpubench.series import Series, records, series_of

TITLE = "Samples in order"
ORDER = 50
CAPTION = (
    "Each sample's time relative to the median of its trial, trials over one another: a level "
    "cloud is steady, a slope drifts, two bands are two modes, lone points above are disturbances. "
    "Of a long trial the shortest and longest of each stretch are drawn; steady is not fast."
)

COLUMNS = 3
HEIGHT = 170
MOST_CASES = 12
MOST_POINTS = 500
# So many points over all trials of a panel keep the page small.
MOST_POINTS_OF_PANEL = 3000
FEWEST_SAMPLES = 6
Trial = tuple[Series, list[float]]


def figure(frame: Any) -> Any | None:
    """A panel per case, those with the widest spread; None without samples."""
    series = series_of(frame)
    trials = _trials(series)
    if not trials:
        return None
    ranked = sorted(trials, key=lambda key: (-_spread(trials[key]), key[0], str(key[1])))
    ranked = ranked[:MOST_CASES]
    labels = case_labels(row for one in series for row in one.rows)
    columns = min(COLUMNS, len(ranked))
    drawing = _panels.grid(
        [safe(shorten(labels[key])) for key in ranked],
        columns,
        HEIGHT,
        shared_yaxes="all",
        horizontal_spacing=0.04,
    )
    for position, key in enumerate(ranked):
        where = _panels.cell(position, columns)
        budget = min(MOST_POINTS, max(50, MOST_POINTS_OF_PANEL // len(trials[key])))
        for one, times in trials[key]:
            drawing.add_trace(_trace(one, times, budget), *where)
    _panels.name_once(drawing)
    drawing.update_xaxes(rangemode="tozero", nticks=4)
    drawing.update_xaxes(title="sample", row=math.ceil(len(ranked) / columns))
    drawing.update_yaxes(ticksuffix=" %", nticks=5)
    drawing.update_yaxes(title="from median", col=1)
    for annotation in drawing.layout.annotations:
        annotation.font.size = 11
    note = None
    if len(trials) > len(ranked):
        note = f"The {len(ranked)} cases with the widest spread are drawn, of {len(trials)}."
    _panels.tell(drawing, note=note, minimum_width=260 * columns if columns > 1 else None)
    return drawing


def _trials(series: list[Series]) -> dict[Key, list[Trial]]:
    """Samples of the trials that are ok and have enough to see anything in, by case."""
    found: dict[Key, list[Trial]] = {}
    for one in series:
        for row in records(one.frame[["case_id", "cache", "status", "samples_s"]]):
            times = row["samples_s"] if row["status"] == "ok" else None
            if times is not None and len(times) >= FEWEST_SAMPLES and stats.median(times) > 0:
                found.setdefault((row["case_id"], row["cache"]), []).append((one, list(times)))
    return found


def _spread(trials: list[Trial]) -> float:
    """The widest of the trials' relative ranges between the 5th and the 95th percentile."""
    widest = 0.0
    for _, times in trials:
        ordered = sorted(times)
        low, high = (ordered[round(share * (len(ordered) - 1))] for share in (0.05, 0.95))
        widest = max(widest, (high - low) / stats.median(ordered))
    return widest


def _trace(one: Series, times: list[float], budget: int) -> Any:
    middle = stats.median(times)
    kept = decimated(times, budget)
    return go.Scatter(
        mode="markers",
        name=safe(one.label),
        legendgroup=one.group,
        showlegend=False,
        x=_panels.numbers(float(position + 1) for position in kept),
        y=_panels.numbers(100 * (times[position] / middle - 1) for position in kept),
        marker=one.marker("circle", 4)
        | {"opacity": 0.75, "line": {"color": one.color, "width": 0.8}},
        # one text for the whole trial: a string per sample would be most of the page
        text=hover(safe(one.label), f"median {safe(seconds(middle))} of {len(times)} samples"),
        hovertemplate="sample %{x}: %{y:.2f} %<br>%{text}<extra></extra>",
    )


def decimated(times: list[float], most: int) -> list[int]:
    """Positions of at most ``most`` samples: the shortest and longest of each of equal stretches.

    Every second sample would hide a lone peak, which is what one looks for.
    """
    if len(times) <= most:
        return list(range(len(times)))
    stretches = most // 2
    kept: set[int] = set()
    for stretch in range(stretches):
        begin = stretch * len(times) // stretches
        end = (stretch + 1) * len(times) // stretches
        inside = range(begin, end)
        kept |= {min(inside, key=times.__getitem__), max(inside, key=times.__getitem__)}
    return sorted(kept)
