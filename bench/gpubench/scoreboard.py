"""The scores of result files as rows and words, for `compare` and the report."""

from collections.abc import Mapping, Sequence
from typing import Any

from gpubench import render, score
from gpubench.cards import catalogue
from gpubench.profile import PARTS, Profile
from gpubench.render import Column
from gpubench.score import Results, Score

COLUMNS = (
    Column("card", "card"),
    Column("score_text", "score [80 %]", right=True),
    Column("ratio_text", "of the first", right=True),
    *(Column(part, part, lambda value: f"{value:.0f}", right=True) for part in PARTS),
    Column("cases_text", "cases", right=True),
    Column("front", "front", ", ".join),
    Column("detail", "what it lacks"),
)


def read(rows: Sequence[Mapping[Any, Any]], profile: Profile) -> Results | None:
    """The scores by a profile, where two cards or more have any of its cases."""
    found = score.of_results(rows, profile)
    return found if len(found.found) > 1 else None


def rows_of(results: Results) -> list[dict[str, Any]]:
    """A row for each card: the ranked ones first, then those without a score, and why."""
    ranking = results.ranking
    cards = {one.card_id: one.card for one in results.found}
    fronts = pareto(results)
    good = {one.name for one in ranking.as_good} if ranking.scored else set()
    found = []
    for one in (*ranking.scored, *ranking.apart, *results.incomplete):
        row: dict[str, Any] = {
            "card_id": one.name,
            "card": cards[one.name],
            "as_good_as_first": one.name in good if one in ranking.scored else None,
            **{part: one.parts[part].value if part in one.parts else None for part in PARTS},
            "cases_text": f"{one.present} of {one.cases}",
            "front": [kind for kind in ("price", "power") if one.name in fronts[kind]],
            "detail": _lacking(one, ranked=one in ranking.scored),
            "score_text": None,
            "ratio_text": None,
        }
        if one.total is not None:
            total = one.total
            row["score_text"] = render.interval(total.value, total.low, total.high)
            if one in ranking.scored and ranking.scored[0].total is not None:
                ratio = total / ranking.scored[0].total
                row["ratio_text"] = render.interval(ratio.value, ratio.low, ratio.high, 2)
        found.append(row)
    return found


def _lacking(one: Score, *, ranked: bool) -> str | None:
    if one.total is None:
        lacks = [f"{name} ({reason})" for name, reason in one.gaps.items()]
        more = f" and {len(lacks) - 2} more" if len(lacks) > 2 else ""
        return ", ".join(lacks[:2]) + more
    if not ranked:
        return f"{', '.join(one.without)}: ranked apart from cards that have it"
    return None


def pareto(results: Results) -> dict[str, set[str]]:
    """Who is on the front of performance against launch price, and against board power."""
    scores = (*results.ranking.scored, *results.ranking.apart)
    speed = {one.name: one.parts["performance"].value for one in scores}
    known = {name: catalogue().get(name) for name in speed}
    prices = {
        name: (gain, card.launch_price_usd)
        for name, gain in speed.items()
        if (card := known[name]) and card.launch_price_usd
    }
    watts = {name: (gain, card.power_w) for name, gain in speed.items() if (card := known[name])}
    return {"price": score.front(prices), "power": score.front(watts)}


def conclusions(results: Results) -> list[str]:
    """Which card leads, which can't be told from it, and what the numbers are relative to."""
    ranking, profile = results.ranking, results.profile
    if not ranking.scored:
        most = max((one.present for one in results.incomplete), default=0)
        wanted = f"no card has all {len(profile.cases)} cases of profile {profile.name}"
        return [f"no score: {wanted}; the most is {most}, and `gpubench run --suite full` has all"]
    cards = {one.card_id: render.clean(one.card) for one in results.found}
    names = [cards[one.name] for one in ranking.as_good]
    first = f"selection score, profile {profile.name}: {names[0]} leads"
    tied = f", and {', '.join(names[1:])} can't be told from it" if names[1:] else ""
    scale = (
        f"100 is {cards[results.reference or '']}; 80 % intervals; value is at launch prices, "
        "efficiency at measured energy, else board power"
    )
    return [first + tied, scale]


def text(results: Results, form: str) -> str:
    """The rows in one of `render.FORMATS`."""
    return render.rows(rows_of(results), COLUMNS, form, "scores")
