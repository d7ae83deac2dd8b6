"""How much faster several cards of one kind train together, from what others have published.

Only results of one source, software, network, precision and batch per card are set against each
other: then the gain of n cards over one is the source's own, whatever its absolute figures are.
The catalogue's NVLink bandwidth and a card's form say which cards are alike.
"""

import math
import re
from functools import cache

from gpubench.cards import Card, catalogue
from gpubench.estimate import REACH80, Estimate
from gpubench.published import Published, published

#: NVLink faster than this is that of systems built around it (V100 SXM2 and later), or of a board
FULL_NVLINK = 200e9
#: for a slot, whose bridge joins few however fast it is (A100 PCIe, H100 PCIe, H100 NVL)
BOARD = re.compile(r"\b(pcie|nvl)\b", re.IGNORECASE)
CLASSES = {
    "none": "no NVLink, over PCIe",
    "bridge": "an NVLink bridge at most, and published machines often had none",
    "full": "NVLink between all cards",
}
#: below this many cards of a kind, results of all kinds say how far one may be off
FEWEST_CARDS = 3
EVERY = "every kind"


def interconnect(card: Card) -> str:
    """Which of CLASSES a card belongs to, by its NVLink bandwidth and its names."""
    if not card.nvlink:
        return "none"
    on_board = any(map(BOARD.search, (card.card_id, *card.driver_names)))
    return "full" if card.nvlink > FULL_NVLINK and not on_board else "bridge"


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
    # Cards of one kind differ, so that the error is each card's own; how much they do differ a
    # kind of one or two cards can't show.
    alike = [other for other in _added() if other in catalogue() and kind == _kind(other)]
    around = added if own or len(alike) >= FEWEST_CARDS else _added()[EVERY]
    middle = _share(added, 0.5, count)
    reach = (_share(around, 0.9, count) - _share(around, 0.1, count)) / 2
    whose = "of this card" if own else f"of cards with {CLASSES[kind]}"
    said = f"{len(added)} published results {whose}"
    return Estimate(middle, {f"scaling {card.card_id}": reach / REACH80}), said


def _kind(card_id: str) -> str:
    return interconnect(catalogue()[card_id])


def _share(added: list[float], share: float, count: int) -> float:
    """Logarithm of the speed per card, where this share of results is slower.

    What a source has beyond one card's speed a card is its noise, or a smaller batch's gain.
    """
    added_each = min(max(_quantile(added, share), 0.0), 1.0)
    return math.log((1 + added_each * (count - 1)) / count)


@cache
def _added() -> dict[str, list[float]]:
    """What each further card added, in cards and ascending order: by card id, by kind, of all."""
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
            for key in (card.card_id, interconnect(card), EVERY):
                found.setdefault(key, []).append(added)
    return {key: sorted(values) for key, values in found.items()}


def _setting(one: Published) -> tuple[object, ...]:
    """What results of one card and of several have to share; the batch is that of one card."""
    batch = one.batch / one.n_gpus if one.batch else None
    return (one.family, one.software, one.card_id, one.workload, one.precision, one.metric, batch)


def _quantile(ordered: list[float], share: float) -> float:
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])
