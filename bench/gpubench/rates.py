"""What result files say of cards' rates, with errors: which rows may stand in a score at all.

A failed trial, a wrong result, a rate above the peak leave a case without a number whatever other
trials gave; rows that were not measured are not there at all, whatever their file calls them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gpubench import stats
from gpubench.cards import Card, catalogue
from gpubench.estimate import REACH80, Estimate
from gpubench.evidence import newest, refused

#: two cards of one kind differ by 8 % on average (Sinha et al. 2022, arXiv:2208.11035, clusters of
#: data-centre cards); of two independent normal deviations the mean difference is 2/√π of one
CARD_SPREAD = 0.08 * math.sqrt(math.pi) / 2
#: Board power is a limit: nodes of H100s drew 76 % of theirs in training (arXiv:2506.14551). One
#: error for all cards whose draw was not measured, so that it only widens comparisons with others.
DRAW_SPREAD = math.log(1 / 0.76)
#: And one of each card: those short of power run at their limit, others below it. An assumption.
OWN_DRAW_SPREAD = DRAW_SPREAD / 2
#: shares of its board's power that a card may be read to draw; and watts, of one that isn't known
DRAWS = ((0.03, 0.0), (1.5, math.inf))
#: what rows have to share to be one thing: see `record.IDENTITY`
VARIANT = ("cache", "workload_version", "workload_hash", "timer", "cold_by")


@dataclass(frozen=True)
class Measurement:
    """What result files say of one card: rates and draws by case, and why others have none."""

    card_id: str
    card: str
    rates: Mapping[str, Estimate]
    watts: Mapping[str, Estimate]
    gaps: Mapping[str, str]


def measurements(
    rows: Sequence[Mapping[Any, Any]], cases: Mapping[str, float]
) -> list[Measurement]:
    """The cards of a table's rows (`table.load`), with what may stand in a score.

    A case enters as the variant (cache, source of the workload, timer) that most cards have, since
    only like compares with like, and by the newest software of a card.
    """
    wanted = [
        row
        for row in rows
        if row["case_id"] in cases and row["provenance"] == "measured" and row["card_id"]
    ]
    chosen = _variants(wanted)
    cards: dict[str, list[Mapping[Any, Any]]] = {}
    for row in wanted:
        cards.setdefault(str(row["card_id"]), []).append(row)
    return [_measurement(card_id, own, cases, chosen) for card_id, own in sorted(cards.items())]


def _variants(rows: Sequence[Mapping[Any, Any]]) -> dict[str, tuple[str, ...]]:
    """The variant of each case that most cards have; of equals the newest."""
    having: dict[str, dict[tuple[str, ...], set[str]]] = {}
    newest: dict[tuple[str, ...], str] = {}
    for row in rows:
        if row["status"] == "ok":
            variant = _variant(row)
            having.setdefault(row["case_id"], {}).setdefault(variant, set()).add(row["card_id"])
            newest[variant] = max(newest.get(variant, ""), str(row["started_at"]))
    return {
        case_id: max(found, key=lambda one: (len(found[one]), newest[one], one))
        for case_id, found in having.items()
    }


def _variant(row: Mapping[Any, Any]) -> tuple[str, ...]:
    return tuple(str(row.get(column)) for column in VARIANT)


def _measurement(
    card_id: str,
    rows: Sequence[Mapping[Any, Any]],
    cases: Mapping[str, float],
    chosen: Mapping[str, tuple[str, ...]],
) -> Measurement:
    rates, watts, gaps = {}, {}, {}
    for case_id in cases:
        own = [row for row in rows if row["case_id"] == case_id]
        if not own:
            continue
        if reason := refused(own):
            gaps[case_id] = reason
            continue
        alike = [row for row in own if row["status"] == "ok" and _variant(row) == chosen[case_id]]
        if not alike:
            gaps[case_id] = "measured as another variant than the other cards: see `compare`"
            continue
        counted = newest(alike)
        rates[case_id] = _rate(counted, card_id, case_id)
        if drawn := _draw(counted):
            watts[case_id] = drawn
    name = str(rows[-1]["card"] or card_id)
    return Measurement(card_id, name, rates, watts, gaps)


def _rate(rows: Sequence[Mapping[Any, Any]], name: str, case_id: str) -> Estimate:
    """Steps a second over the trials, with the errors of measuring and of choosing a specimen."""
    logs = [-math.log(row["median_s"]) for row in rows]
    if len(logs) > 1:
        noise = stats.mean_half_width(logs, 0.80) / REACH80 if len(set(logs)) > 1 else 0.0
    else:  # of one process only its own 95 % interval is known
        low, high = rows[0]["low_s"], rows[0]["high_s"]
        bounded = 0 < low <= high < math.inf
        noise = math.log(high / low) / (2 * 1.96) if bounded else CARD_SPREAD
    devices = {str(row.get("device_uuid_hash")) for row in rows}
    spread = CARD_SPREAD / math.sqrt(len(devices))
    errors = {f"noise {name} {case_id}": noise, f"specimen {name}": spread}
    return Estimate(math.fsum(logs) / len(logs), errors)


def _draw(rows: Sequence[Mapping[Any, Any]]) -> Estimate | None:
    """Watts from the energy of a step; None where no trial read what its card may draw."""
    card = catalogue().get(str(rows[0]["card_id"]))
    least, most = (share * card.power_w if card else end for share, end in DRAWS)
    drawn = [
        math.log(row["energy_j"] / row["median_s"])
        for row in rows
        if isinstance(row["energy_j"], int | float)
        if least < row["energy_j"] / row["median_s"] < most
    ]
    return Estimate(math.fsum(drawn) / len(drawn)) if drawn else None


def board_power(card: Card, count: int = 1) -> Estimate:
    """What a card draws where nobody measured it: its board's limit, with how far that is off."""
    errors = {"draw below board power": DRAW_SPREAD, f"draw of {card.card_id}": OWN_DRAW_SPREAD}
    return Estimate.of(card.power_w * count, errors)
