"""How the cards at hand compare in what others published, one panel for each source."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from gpubench.beside import measured_like
from gpubench.cards import catalogue
from gpubench.figures import _panels
from gpubench.figures._text import hover, safe
from gpubench.published import Ratio, published, ratios
from gpubench.render import number
from gpubench.series import Series, hatched, series_of

TITLE = "What others published"
ORDER = 70
CAPTION = (
    "Published by others, not measured here: the speed of single cards relative to one card of "
    "this page, within one source. A hatched bar is the geometric mean over that source's "
    "workloads, its whisker reaches from the lowest to the highest of them. Software, clocks and "
    "coolers were theirs, so read the order and the rough distance; a diamond is what was measured "
    "here in the cases most like it. None of it enters a verdict."
)

BAR = 14
ROW_GAP = 8
# Cards of a panel beside those at hand: the ones nearest in speed.
MOST_NEIGHBOURS = 6
LABEL_WIDTH = 190
# One colour for each precision; others than these are of quantised weights.
COLORS = {"fp32": "#8A7F2E", "tf32": "#56B4E9", "fp16": "#D55E00", "bf16": "#009E73"}
OTHER_COLOR = "#CC79A7"
NAMES = {"amp": "fp16"}


@dataclass(frozen=True)
class Panel:
    """One source: its cards against the reference, by precision.

    Attributes:
        cards: card ids from the slowest, the reference among them.
        found: (card id, precision) → the ratios to the reference.
    """

    family: str
    date: str
    licences: tuple[str, ...]
    kind: str
    reference: str
    cards: list[str]
    found: dict[tuple[str, str], list[Ratio]]


def figure(frame: Any) -> Any | None:
    """Hatched bars; None where nobody published anything of the cards at hand beside others."""
    series = [one for one in series_of(frame) if _card_id(one)]
    here = list(dict.fromkeys(_card_id(one) for one in series))
    panels = [panel for panel in (_panel(family, here) for family in _families()) if panel]
    if not panels:
        return None
    heights = [len(panel.cards) * _row_height(panel) for panel in panels]
    drawing = _panels.stack([_title(panel) for panel in panels], heights)
    drawing.update_layout(barmode="overlay", bargap=0)
    for place, panel in enumerate(panels, start=1):
        precisions = _precisions(panel)
        for position, precision in enumerate(precisions):
            offset = (position - (len(precisions) - 1) / 2) * BAR / _row_height(panel)
            drawing.add_trace(_bars(panel, precision, offset), place, 1)
        drawn = _diamonds(panel, series)
        if drawn is not None:
            drawing.add_trace(drawn, place, 1)
        drawing.add_vline(x=1, line={"width": 1, "color": "#808080"}, row=place, col=1)
        highest = max(ratio.highest for found in panel.found.values() for ratio in found)
        drawing.update_xaxes(
            title=safe(f"× {_name(panel.reference)}"),
            range=[0, 1.08 * max(1.0, highest)],
            row=place,
            col=1,
        )
        drawing.update_yaxes(
            tickvals=list(range(len(panel.cards))),
            ticktext=[_label(panel, card_id, here) for card_id in panel.cards],
            range=[len(panel.cards) - 0.5, -0.5],
            showgrid=False,
            zeroline=False,
            row=place,
            col=1,
        )
    _panels.name_once(drawing)
    _panels.tell(drawing, minimum_width=LABEL_WIDTH + 380, note=_sources(panels))
    return drawing


def _card_id(one: Series) -> str:
    card_id = str(one.rows[0]["card_id"]) if one.rows else ""
    return card_id if card_id in catalogue() else ""


def _families() -> list[str]:
    """Sources, the newest first."""
    dates = {one.family: one.source_date for one in published()}
    return sorted(dates, key=lambda family: (dates[family], family), reverse=True)


def _panel(family: str, here: Sequence[str]) -> Panel | None:
    """A source that has a card at hand and another one to compare it with."""
    results = [one for one in published() if one.family == family and one.n_gpus == 1]
    cards = list(dict.fromkeys(one.card_id for one in results if one.card_id in catalogue()))
    reference = next((card_id for card_id in here if card_id in cards), None)
    if reference is None:
        return None
    against = {
        card_id: ratios(card_id, reference, results) for card_id in cards if card_id != reference
    }
    modes = {ratio.mode for found in against.values() for ratio in found}
    if not modes:
        return None
    # Training is what this page is about; of a source without any, what it has.
    mode = next(name for name in ("train", "micro", "infer") if name in modes)
    against = {
        card_id: [ratio for ratio in found if ratio.mode == mode]
        for card_id, found in against.items()
    }
    speeds = {card_id: _mean(found) for card_id, found in against.items() if found}
    near = sorted(speeds, key=lambda card_id: (card_id not in here, abs(math.log(speeds[card_id]))))
    at_hand = sum(card_id in here for card_id in speeds)
    chosen = near[: at_hand + MOST_NEIGHBOURS]
    found: dict[tuple[str, str], list[Ratio]] = {}
    for card_id in chosen:
        for ratio in against[card_id]:
            precision = NAMES.get(ratio.precision, ratio.precision)
            found.setdefault((card_id, precision), []).append(ratio)
    used = [ratio for group in found.values() for ratio in group]
    return Panel(
        family=family,
        date=max(ratio.source_date for ratio in used),
        licences=tuple(sorted({licence for ratio in used for licence in ratio.licences})),
        kind={"train": "training", "micro": "products and copies", "infer": "inference"}[mode],
        reference=reference,
        cards=sorted([*chosen, reference], key=lambda card_id: speeds.get(card_id, 1.0)),
        found=found,
    )


def _mean(found: Iterable[Ratio]) -> float:
    """The geometric mean over all workloads behind the ratios."""
    weighted = [(len(ratio.workloads), math.log(ratio.speedup)) for ratio in found]
    return math.exp(sum(n * log for n, log in weighted) / sum(n for n, _ in weighted))


def _precisions(panel: Panel) -> list[str]:
    known = list(COLORS)
    names = {precision for _, precision in panel.found}
    return sorted(
        names, key=lambda name: (known.index(name) if name in known else len(known), name)
    )


def _row_height(panel: Panel) -> int:
    return len(_precisions(panel)) * BAR + ROW_GAP


def _bars(panel: Panel, precision: str, offset: float) -> Any:
    drawn = [
        (place, panel.found[card_id, precision])
        for place, card_id in enumerate(panel.cards)
        if (card_id, precision) in panel.found
    ]
    values = [_mean(found) for _, found in drawn]
    lows = [min(ratio.lowest for ratio in found) for _, found in drawn]
    highs = [max(ratio.highest for ratio in found) for _, found in drawn]
    return go.Bar(
        orientation="h",
        name=safe(f"published, {precision}"),
        legendgroup=f"published {precision}",
        showlegend=False,
        y=_panels.numbers(place + offset for place, _ in drawn),
        x=_panels.numbers(values),
        width=0.85 * BAR / _row_height(panel),
        marker=hatched(COLORS.get(precision, OTHER_COLOR)),
        error_x=_panels.whisker(values, lows, highs),
        hovertext=[
            _hover(panel, panel.cards[place], precision, value, found)
            for (place, found), value in zip(drawn, values, strict=True)
        ],
        hoverinfo="text",
    )


def _hover(panel: Panel, card_id: str, precision: str, value: float, found: Sequence[Ratio]) -> str:
    workloads = [name for ratio in found for name in ratio.workloads]
    batches = None if all(ratio.same_batch for ratio in found) else "batches differ between cards"
    return hover(
        f"<b>{number(value)} × {safe(_name(panel.reference))}</b>, published",
        safe(f"{_name(card_id)}, {precision}, {len(workloads)} workloads"),
        safe(", ".join(workloads)),
        batches,
        safe(f"{panel.family}, {panel.date}, {', '.join(panel.licences)}"),
    )


def _diamonds(panel: Panel, series: Sequence[Series]) -> Any | None:
    """What was measured here of the same two cards, in the cases most like the published ones."""
    measured = {_card_id(one): one for one in reversed(series) if not one.simulated}
    base = measured.get(panel.reference)
    points = []
    for place, card_id in enumerate(panel.cards):
        other = measured.get(card_id)
        if base is None or other is None or card_id == panel.reference:
            continue
        ratios_here = [
            ratio for (own, _), found in panel.found.items() if own == card_id for ratio in found
        ]
        value, cases = measured_like(ratios_here, base.rows, other.rows)
        if value is not None:
            points.append((place, value, cases, other.label))
    if not points:
        return None
    return go.Scatter(
        mode="markers",
        name="measured here",
        legendgroup="measured here",
        showlegend=False,
        y=_panels.numbers(place for place, *_ in points),
        x=_panels.numbers(value for _, value, *_ in points),
        marker={"symbol": "diamond", "size": 10, "color": "#1F84C6"},
        hovertext=[
            hover(f"<b>{number(value)} ×</b>, measured here", safe(label), f"{cases} cases")
            for _, value, cases, label in points
        ],
        hoverinfo="text",
    )


def _name(card_id: str) -> str:
    card = catalogue()[card_id]
    return card.name.removeprefix("NVIDIA ").removeprefix("GeForce ")


def _label(panel: Panel, card_id: str, here: Sequence[str]) -> str:
    name = safe(_name(card_id)) + (" = 1" if card_id == panel.reference else "")
    return f"<b>{name}</b>" if card_id in here else name


def _title(panel: Panel) -> str:
    return safe(f"{panel.family.removeprefix('github.com/')}, {panel.date}, {panel.kind}")


def _sources(panels: Sequence[Panel]) -> str:
    """Source, date and licence of each panel."""
    listed = (f"{panel.family} ({panel.date}, {', '.join(panel.licences)})" for panel in panels)
    return f"Sources and licences: {'; '.join(listed)}. Cards of this page are in bold."
