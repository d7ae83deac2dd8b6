"""What a card's speed costs: performance against launch price and against board power."""

from typing import Any

import plotly.graph_objects as go

from gpubench import scoreboard
from gpubench.cards import Card, catalogue
from gpubench.figures import _panels
from gpubench.figures._text import hover, safe
from gpubench.profile import DEFAULT, PROFILE, load_profile
from gpubench.render import dollars
from gpubench.score import Results, Score
from gpubench.series import Series, records, series_of

TITLE = "Performance against price and power"
ORDER = 12
CAPTION = (
    "Performance is the weighted geometric mean over the profile's cases, 100 for the reference, "
    "with its 80 % interval. The line joins cards that no other beats at both: whatever lies below "
    "it costs more than it has to. Prices are those at launch, never today's; watts are the "
    "board's limit. Cards that lack a case are not here."
)

HEIGHT = 340
NEUTRAL = "#808080"
AXES = {"price": "launch price in US dollars", "power": "board power in watts"}


def figure(frame: Any) -> Any | None:
    """A panel for price and one for power; None with fewer than two cards on either."""
    profile = frame.attrs.get(PROFILE) or load_profile(DEFAULT)
    results = scoreboard.read(records(frame), profile)
    if results is None:
        return None
    measured = [one for one in series_of(frame) if not one.simulated]
    colors = {row["card_id"]: one for one in measured for row in one.rows[:1]}
    panels = {kind: points for kind in AXES if len(points := _points(results, kind)) > 1}
    if not panels:
        return None
    drawing = _panels.grid([AXES[kind] for kind in panels], len(panels), HEIGHT)
    for position, (kind, points) in enumerate(panels.items()):
        where = _panels.cell(position, len(panels))
        names = scoreboard.pareto(results)[kind]
        front = sorted(
            (cost, one.parts["performance"].value) for cost, one, *_ in points if one.name in names
        )
        drawing.add_trace(_front(front), *where)
        for cost, one, card in points:
            drawing.add_trace(_point(cost, one, card, colors[card.card_id]), *where)
        drawing.update_xaxes(
            _panels.log_axis([cost for cost, *_ in points], 2), row=1, col=position + 1
        )
        ends = [
            end
            for _, one, *_ in points
            for end in (one.parts["performance"].low, one.parts["performance"].high)
        ]
        drawing.update_yaxes(_panels.log_axis(ends), row=1, col=position + 1)
    drawing.update_yaxes(title="performance", col=1)
    _panels.name_once(drawing)
    if len(panels) > 1:
        _panels.tell(drawing, minimum_width=640)
    return drawing


def _points(results: Results, kind: str) -> list[tuple[float, Score, Card]]:
    """Cost, score and card of every card that has both a performance and a cost."""
    found = []
    for one in (*results.ranking.scored, *results.ranking.apart):
        card = catalogue().get(one.name)
        cost = card and (card.launch_price_usd if kind == "price" else card.power_w)
        if card and cost:
            found.append((cost, one, card))
    return found


def _front(points: list[tuple[float, float]]) -> Any:
    return go.Scatter(
        mode="lines",
        x=_panels.numbers(cost for cost, _ in points),
        y=_panels.numbers(gain for _, gain in points),
        line={"color": NEUTRAL, "width": 1.2, "dash": "dot"},
        hoverinfo="skip",
        showlegend=False,
    )


def _point(cost: float, one: Score, card: Card, series: Series) -> Any:
    speed = one.parts["performance"]
    return go.Scatter(
        mode="markers+text",
        name=safe(series.card),
        legendgroup=series.group,
        showlegend=False,
        x=[cost],
        y=[speed.value],
        error_y=_panels.whisker([speed.value], [speed.low], [speed.high]),
        marker=series.marker("circle", 10),
        text=[f"  {safe(series.card)}"],
        textposition="middle right",
        textfont={"size": 10},
        hovertext=[_hover(one, card, series)],
        hoverinfo="text",
    )


def _hover(one: Score, card: Card, series: Series) -> str:
    speed = one.parts["performance"]
    total = f"score {one.total.value:.0f}" if one.total else None
    price = card.launch_price_usd
    return hover(
        f"<b>{speed.value:.0f}</b> [{speed.low:.0f}, {speed.high:.0f}]",
        safe(series.label),
        total,
        f"{dollars(price)} at launch, {card.launch_date}" if price else "no launch price",
        f"{card.power_w:g} W",
    )
