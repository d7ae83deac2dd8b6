"""One machine's results over its runs, and where their level changed."""

import math
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any

import plotly.graph_objects as go

from gpubench import stats
from gpubench.calibration import floor_for
from gpubench.errors import EnvironmentRefused
from gpubench.figures import _panels
from gpubench.figures._text import hover, safe, spread
from gpubench.history import (
    FACTS,
    FEWEST_RUNS,
    Change,
    History,
    changed,
    histories,
    in_words,
)
from gpubench.names import case_labels, shorten
from gpubench.render import seconds, text_of
from gpubench.series import COLORS, card_label

TITLE = "History"
ORDER = 60
CAPTION = (
    "A panel per case that changed, a point per run in the order of time, evenly spaced: the "
    "median with its 95 % interval. Lines are the medians between changes; a dotted line is a "
    "change, with how much longer a step takes since then and what else is known to have changed "
    "at that run. What else changed need not be the cause, and the axis of time begins above zero."
)

COLUMNS = 2
HEIGHT = 210
MOST_CASES = 12
LONGEST_FACT = 44
MOST_FACTS = 2
# A grey that shows on a light and on a dark page.
LINE = {"width": 1, "dash": "dot", "color": "#808080"}


def figure(frame: Any) -> Any | None:
    """A panel per case that changed; None where no case has enough runs."""
    if frame["run_id"].nunique() < FEWEST_RUNS:
        return None
    try:
        return draw(histories(frame, floor_for(frame, None)[0]))
    except EnvironmentRefused as refusal:
        return draw(histories(frame, search=False), f"No changes are marked: {refusal}.")


def draw(found: Sequence[History], said: str | None = None) -> Any | None:
    """The figure for histories; without any change, those that vary most."""
    long = [history for history in found if len(history.runs) >= FEWEST_RUNS]
    if not long:
        return None
    moved = [history for history in long if history.changes]
    kept = sorted(moved or long, key=_range, reverse=True)[:MOST_CASES]
    shown = [history for history in long if history in kept]
    machines = list(dict.fromkeys(_machine(history) for history in long))
    labels = case_labels(history.case for history in found)
    columns = min(COLUMNS, len(shown))
    drawing = _panels.grid(
        [
            safe(shorten(labels[history.case["case_id"], history.case["cache"]]))
            for history in shown
        ],
        columns,
        HEIGHT,
        horizontal_spacing=0.1,
    )
    for place, history in enumerate(shown):
        row, column = _panels.cell(place, columns)
        _panel(drawing, history, machines.index(_machine(history)), row, column)
    if len(machines) > 1:
        _panels.name_once(drawing)
    note = said or _note(len(shown), len(moved), len(long))
    _panels.tell(drawing, note=note, minimum_width=340 * columns if columns > 1 else None)
    return drawing


def _note(shown: int, moved: int, every: int) -> str | None:
    """What is drawn, where it isn't every case that has enough runs."""
    if not moved:
        return f"None of {every} cases changed; drawn: the {shown} that vary most."
    largest = "" if shown == moved else f"; drawn: the {shown} with the largest changes"
    return f"{moved} of {every} cases changed{largest}." if shown < every else None


def _range(history: History) -> float:
    """How far apart the levels lie; of a series without changes, the runs."""
    levels = _levels(history) if history.changes else [run["median_s"] for run in history.runs]
    return math.log(max(levels) / min(levels))


def _levels(history: History) -> list[float]:
    return [stats.median([run["median_s"] for run in part]) for part in history.segments]


def _machine(history: History) -> tuple[str, str]:
    return (
        str(history.case["host_hash"] or "unknown")[:6],
        card_label(history.case["card"], history.case["provenance"]),
    )


def _panel(drawing: Any, history: History, machine: int, row: int, column: int) -> None:
    for trace in _traces(history, machine):
        drawing.add_trace(trace, row, column)
    for number, change in enumerate(history.changes):
        drawing.add_vline(change.at + 0.5, row=row, col=column, line=LINE)
        label = _label(history, number, change)
        drawing.add_annotation(label, row=row, col=column, yref="y domain")
    ends = [end for run in history.runs for end in _bounds(run)]
    room = max(ends) - min(ends) or max(ends)
    # A change is labelled above the points.
    above = 0.45 if history.changes else 0.08
    drawing.update_yaxes(
        range=[min(ends) - 0.08 * room, max(ends) + above * room],
        tickformat="~s",
        ticksuffix="s",
        nticks=5,
        row=row,
        col=column,
    )
    ticks = _ticks(history)
    short = history.runs[-1]["started_at"] - history.runs[0]["started_at"] < timedelta(days=2)
    form = "%m-%d %H:%M" if short else "%Y-%m-%d"
    drawing.update_xaxes(
        range=[0.4, len(history.runs) + 0.6],
        tickvals=ticks,
        ticktext=[history.runs[tick - 1]["started_at"].strftime(form) for tick in ticks],
        showgrid=False,
        row=row,
        col=column,
    )


def _ticks(history: History) -> list[int]:
    """Runs to name by their day, from 1: the first after each change, then the ends."""
    count = len(history.runs)
    kept: list[int] = []
    for tick in (*(change.at + 1 for change in history.changes), 1, count):
        if all(abs(tick - other) > 0.3 * count for other in kept):
            kept.append(tick)
    return sorted(kept)


def _bounds(run: dict[str, Any]) -> tuple[float, float]:
    """The interval of a run's median; the median itself where the interval is unknown."""
    reach = run["half_width"] if run["half_width"] is not None else math.inf
    factor = math.exp(reach) if math.isfinite(reach) else 1.0
    return run["median_s"] / factor, run["median_s"] * factor


def _traces(history: History, machine: int) -> Iterable[Any]:
    color = COLORS[machine % len(COLORS)]
    simulated = history.case["provenance"] != "measured"
    medians = [run["median_s"] for run in history.runs]
    lows, highs = zip(*map(_bounds, history.runs), strict=True)
    host, card = _machine(history)
    yield go.Scatter(
        mode="markers",
        name=safe(f"{card}, machine {host}"),
        legendgroup=f"machine-{machine}",
        showlegend=False,
        x=_panels.numbers(range(1, len(medians) + 1)),
        y=_panels.numbers(medians),
        error_y=_panels.whisker(medians, lows, highs),
        marker={
            "color": color,
            "symbol": "circle-open" if simulated else "circle",
            "size": 6,
            "line": {"color": color, "width": 1.4 if simulated else 0},
        },
        hovertext=[_hover(run) for run in history.runs],
        hoverinfo="text",
    )
    ends = [0, *(change.at for change in history.changes), len(medians)]
    places, levels = [], []
    for begin, end, level in zip(ends[:-1], ends[1:], _levels(history), strict=True):
        places += [begin + 0.6, end + 0.4, None]
        levels += [level, level, None]
    yield go.Scatter(
        mode="lines",
        legendgroup=f"machine-{machine}",
        showlegend=False,
        x=_panels.numbers(places),
        y=_panels.numbers(levels),
        line={"color": color, "width": 2, "dash": "dash" if simulated else "solid"},
        hoverinfo="skip",
    )


def _label(history: History, number: int, change: Change) -> dict[str, Any]:
    """What a change is: how much longer a step takes, and what else changed at that run."""
    facts = in_words(changed(history.runs[change.at - 1], history.runs[change.at]))
    ratio = change.judgement.ratio
    # Several labels share the width: the table has the rest.
    most = MOST_FACTS if len(history.changes) == 1 else 1
    lines = [shorten(fact, LONGEST_FACT) for fact in facts[:most]] or ["nothing recorded"]
    more = [f"and {len(facts) - most} more"] if len(facts) > most else []
    late = change.at > 0.55 * len(history.runs)
    share = f"{100 * (ratio.estimate - 1):+.1f} %" if ratio else ""
    return {
        "x": change.at + 0.5,
        "y": 1 - 0.17 * (number % 2),
        "text": hover(f"<b>{share}</b>", *map(safe, [*lines, *more])),
        "showarrow": False,
        "xshift": -3 if late else 3,
        "xanchor": "right" if late else "left",
        "yanchor": "top",
        "align": "right" if late else "left",
        "font": {"size": 10},
    }


def _hover(run: dict[str, Any]) -> str:
    known = (f"{fact.heading} {text_of(fact, run)}" for fact in FACTS if run[fact.key] is not None)
    return hover(
        f"<b>{seconds(run['median_s'])}</b> {spread(run)}",
        f"{run['started_at']:%Y-%m-%d %H:%M} UTC",
        *map(safe, [run["file"], *known]),
    )
