"""What would change the answer: the nearest weight, price, limit or memory with another winner.

Scores are linear in the logarithms of their parts, so the point at which one card passes another
is a formula, not a search.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from gpubench.profile import PARTS
from gpubench.score import Candidate, Needs, Ranking, Score

#: further than this nobody goes: a weight beyond half, a price beyond -60 % or +150 %
LARGEST_SHARE = 0.5
SMALLEST_PRICE, LARGEST_PRICE = 0.4, 2.5
#: what would be printed as no change at all: equal cards
SMALLEST_STEP = 0.005


@dataclass(frozen=True)
class Change:
    """One change after which another card wins.

    Attributes:
        kind: weight, price, limit or memory.
        what: the part, or the card whose price changes.
        before, after: share of the weight, US dollars or bytes.
        winner: who wins from there on; None is nobody.
    """

    kind: str
    what: str
    before: float
    after: float
    winner: str | None


def nearest_weight(ranking: Ranking, weights: Mapping[str, float]) -> Change | None:
    """The smallest change of one part's share, the others keeping their proportions."""
    found = [
        change
        for part in PARTS
        if part not in ranking.scored[0].without
        for rival in ranking.scored[1:]
        for change in _crossing(ranking.scored[0], rival, weights, part)
    ]
    return min(found, key=lambda one: (abs(one.after - one.before), one.winner or ""), default=None)


def _crossing(
    winner: Score, rival: Score, weights: Mapping[str, float], part: str
) -> Iterable[Change]:
    """The share of ``part`` at which the rival passes the winner, if there is one."""
    ahead = {
        name: winner.parts[name].log - rival.parts[name].log
        for name in PARTS
        if name in winner.parts and name in rival.parts
    }
    counted = {name: weights[name] for name in ahead if weights.get(name)}
    others = math.fsum(weight for name, weight in counted.items() if name != part)
    if part not in ahead or not others:
        return
    rest = math.fsum(w * ahead[name] for name, w in counted.items() if name != part) / others
    if rest == ahead[part]:
        return
    share = rest / (rest - ahead[part])
    before = counted.get(part, 0.0) / (others + counted.get(part, 0.0))
    if 0 <= share <= LARGEST_SHARE and abs(share - before) >= SMALLEST_STEP:
        yield Change("weight", part, before, share, rival.name)


def nearest_price(ranking: Ranking, weights: Mapping[str, float]) -> list[Change]:
    """By how much the winner must cost more, or a rival less, for the rival to win."""
    winner, *rivals = ranking.scored
    counted = [name for name in PARTS if weights.get(name) and name not in winner.without]
    share = weights.get("value", 0.0) / math.fsum(weights[name] for name in counted)
    if not share or "value" in winner.without or not rivals:
        return []
    rival = rivals[0]  # the runner-up is nearest: prices act on all alike
    if winner.total is None or rival.total is None:
        return []
    factor = math.exp((winner.total.log - rival.total.log) / share)
    changes = []
    for name, price, after in (
        (rival.name, rival.candidate.price_usd, 1 / factor),
        (winner.name, winner.candidate.price_usd, factor),
    ):
        noticeable = abs(after - 1) >= SMALLEST_STEP
        if price and noticeable and SMALLEST_PRICE <= after <= LARGEST_PRICE:
            changes.append(Change("price", name, price, price * after, rival.name))
    return changes


def nearest_limit(
    ranking: Ranking, needs: Needs, again: Callable[[Needs], Ranking]
) -> Change | None:
    """The lowest higher price limit with another winner."""
    if needs.price_limit is None:
        return None
    prices = {one.price_usd for one in _only_barred_by(ranking, "price") if one.price_usd}
    for limit in sorted(prices):
        other = again(replace(needs, price_limit=limit)).scored
        if other and other[0].name != _winner(ranking):
            return Change("limit", "price", needs.price_limit, limit, other[0].name)
    return None


def nearest_memory(
    ranking: Ranking, needs: Needs, again: Callable[[Needs], Ranking]
) -> list[Change]:
    """How much more or less the job would have to need for another card to win.

    Less brings cards in; one with a price sets those without apart, and wins over none of them.
    """
    if not needs.memory_bytes:
        return []
    changes = []
    if ranking.scored:
        usable = ranking.scored[0].candidate.usable_bytes or 0.0
        more = math.nextafter(usable, math.inf)
        after = again(replace(needs, memory_bytes=more))
        changes.append(Change("memory", "need", needs.memory_bytes, more, _winner(after)))
    for usable in sorted(
        {one.usable_bytes for one in _only_barred_by(ranking, "memory") if one.usable_bytes},
        reverse=True,
    ):
        after = again(replace(needs, memory_bytes=usable))
        if _winner(ranking) in {one.name for one in after.apart}:
            break
        if after.scored and _winner(after) != _winner(ranking):
            changes.append(Change("memory", "need", needs.memory_bytes, usable, _winner(after)))
            break
    return changes


def _winner(ranking: Ranking) -> str | None:
    return ranking.scored[0].name if ranking.scored else None


def _only_barred_by(ranking: Ranking, kind: str) -> list[Candidate]:
    return [one for one, bars in ranking.barred if {bar.kind for bar in bars} == {kind}]
