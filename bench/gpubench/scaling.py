"""How much faster several cards of one kind train together, from what others have published.

Only results of one source, software, network, precision and batch per card are set against each
other: then the gain of n cards over one is the source's own, whatever its absolute figures are.
The catalogue's NVLink bandwidth says which cards are alike.
"""

import math
from functools import cache

from gpubench.cards import Card, catalogue
from gpubench.estimate import Z80, Estimate
from gpubench.published import Published, published

#: NVLink faster than any bridge between two boards: systems built around it (V100 SXM2 and later)
FULL_NVLINK = 200e9
CLASSES = {
    "none": "no NVLink, over PCIe",
    "bridge": "an NVLink bridge at most, and published machines often had none",
    "full": "NVLink between all cards",
}


def interconnect(card: Card) -> str:
    """Which of CLASSES a card belongs to, by the NVLink bandwidth of the catalogue."""
    if not card.nvlink:
        return "none"
    return "full" if card.nvlink > FULL_NVLINK else "bridge"


def efficiency(card: Card, count: int) -> tuple[Estimate, str]:
    """Speed of ``count`` cards over ``count`` times that of one, data parallel, and its source.

    Raises:
        LookupError: nothing is published about cards of this interconnect.
    """
    if count == 1:
        return Estimate(0.0), "one card"
    kind = interconnect(card)
    own = _added().get(card.card_id)
    added = own or _added().get(kind)
    if not added:
        raise LookupError(f"no published result of several cards with {CLASSES[kind]}")
    low, middle, high = (
        math.log(max(1 + _quantile(added, share) * (count - 1), 1.0) / count)
        for share in (0.1, 0.5, 0.9)
    )
    cause = f"scaling {card.card_id if own else kind}"
    whose = "of this card" if own else f"of cards with {CLASSES[kind]}"
    said = f"{len(added)} published results {whose}"
    return Estimate(middle, {cause: (high - low) / 2 / Z80}), said


@cache
def _added() -> dict[str, list[float]]:
    """What each further card added, in cards, in ascending order, by card id and interconnect."""
    trained = [(one, one.rate) for one in published() if one.mode == "train" and one.rate]
    singles: dict[tuple[object, ...], float] = {}
    for one, rate in trained:
        if one.n_gpus == 1:
            singles.setdefault(_setting(one), rate)
    found: dict[str, list[float]] = {}
    for several, rate in trained:
        single = singles.get(_setting(several))
        card = catalogue().get(several.card_id)
        if several.n_gpus > 1 and single and card:
            added = (rate / single - 1) / (several.n_gpus - 1)
            for key in (card.card_id, interconnect(card)):
                found.setdefault(key, []).append(added)
    return {key: sorted(values) for key, values in found.items()}


def _setting(one: Published) -> tuple[object, ...]:
    """What results of one card and of several have to share; the batch is that of one card."""
    batch = one.batch / one.n_gpus if one.batch else None
    where = one.source.partition(":")[0]
    return (where, one.software, one.card_id, one.workload, one.precision, one.metric, batch)


def _quantile(ordered: list[float], share: float) -> float:
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])
