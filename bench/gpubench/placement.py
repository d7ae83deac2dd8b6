"""Is it as fast as it should be? A result beside what is expected of its card.

What is expected is a model's prediction with its 80 % interval (`predict`), learnt from published
results and from those of the other cards at hand, never from the card itself. One result in ten of
a healthy card falls below it, so a card is judged by the middle one of its cases.
"""

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import pandas as pd

from gpubench import evidence, render, table
from gpubench.cards import FIRST_CUDA, Card, catalogue
from gpubench.errors import UsageError
from gpubench.predict import Predictor
from gpubench.render import Column
from gpubench.stats import geometric_mean, median

Row = Mapping[str, Any]

#: a limit below the card's own by more than this share is somebody's choice
POWER_LIMIT_SHARE = 0.97
#: clocks stay about this near to the reference boost clock under any load that fits the power limit
CLOCK_SHARE = 0.9
#: NVIDIA's GeForce cards hold their clocks down from 83 °C on
HOT_C = 83.0
FLAGGED = {
    "throttled_power": "the driver held the clocks down at the power limit",
    "throttled_thermal": "the chip was too hot: cooling, dust, fans",
    "other_processes": "another process used the card",
    "clocks_moving": "the clocks were not steady",
    "drift": "it became slower while it ran: cooling, or a power limit",
    "unsettled": "it was not warm yet",
}
NO_CAUSE = (
    "nothing in the rows explains it: look at the cooling, at other programs, at the slot, and "
    "measure again"
)


def expected(frame: pd.DataFrame, predictor: Predictor) -> list[dict[str, Any]]:
    """`table.as_rows` of the frame's summary, each with what is expected of it.

    Several cards of one name are told apart by their hashes and judged each by itself.

    ``expected_s expected_low_s expected_high_s``: seconds a step and their 80 % interval;
    ``expected_share_low expected_share_high``: that interval as a share of the peak, 1 at most,
    beside ``share_of_peak``; ``position``: 0 is the prediction, 1 the slow end of the interval and
    -1 the fast one; ``placement``: ``as expected``, ``low`` or ``above``, and None where
    ``placement_reason`` says why nothing is expected; ``checks``: what the row itself shows that
    makes a card slow.

    Raises:
        UsageError: no row was measured.
    """
    if len(frame) and not (frame["provenance"] == "measured").any():
        raise UsageError(
            f"these results are {' and '.join(sorted(set(map(str, frame['provenance']))))}: "
            "they say nothing of a card's health",
            "give results that were measured on a card",
        )
    frame = _by_unit(frame)
    known = {_key(row): row for row in frame[frame["status"] == "ok"].to_dict("records")}
    measured = list(known.values())
    learnt = {
        card_id: predictor.with_measured([row for row in measured if row["card_id"] != card_id])
        for card_id in {row["card_id"] for row in measured}
    }
    found = []
    for row in table.as_rows(table.summary(frame)):
        last = known.get(_key(row))
        own = predictor if last is None else learnt[last["card_id"]]
        found.append(row | _expectation(row, last, own))
    return found


def _by_unit(frame: pd.DataFrame) -> pd.DataFrame:
    """Each card by itself, ``NAME #ab12``, where there are several: a healthy one hides a sick."""
    units = pd.Series(list(map(table.unit_of, frame.to_dict("records"))), index=frame.index)
    several = units.groupby(frame["card"]).transform("nunique") > 1
    return frame.assign(
        card=[
            f"{card} {unit}" if apart and unit else card
            for card, unit, apart in zip(frame["card"], units, several, strict=True)
        ]
    )


def _key(row: Mapping[Hashable, Any] | Row) -> tuple[str, ...]:
    return table.as_text(row, (*table.INDEX, "cache", *table.SAME))


def _expectation(
    row: Row, last: Mapping[Hashable, Any] | None, predictor: Predictor
) -> dict[str, Any]:
    """The columns that `expected` adds to a row; ``last`` is the newest ok row behind it."""
    card = catalogue().get(str(last["card_id"])) if last is not None else None
    reason = _no_expectation(row, last, card)
    asked = next(evidence.measured([last]), None) if last is not None and not reason else None
    if last is None or card is None or asked is None:
        reason = reason or "its work is not declared"
        return dict.fromkeys(ADDED) | {"placement_reason": reason, "checks": []}
    found = predictor.step(
        card,
        asked.work,
        asked.precision,
        operation=asked.operation,
        launches=asked.launches,
        case=asked.series,
    )
    time, share = row["median_s"], row["share_of_peak"]
    slower = math.log(time / found.seconds)
    reach = math.log(found.high / found.seconds if slower > 0 else found.seconds / found.low)
    position = slower / reach
    placement = "low" if position > 1 else "above" if position < -1 else "as expected"
    return {
        "expected_s": found.seconds,
        "expected_low_s": found.low,
        "expected_high_s": found.high,
        "expected_share_low": None if share is None else share * time / found.high,
        "expected_share_high": None if share is None else min(1.0, share * time / found.low),
        "position": position,
        "placement": placement,
        "placement_reason": None,
        "checks": checks(last, card),
    }


ADDED = (
    *("expected_s", "expected_low_s", "expected_high_s", "expected_share_low"),
    *("expected_share_high", "position", "placement", "placement_reason", "checks"),
)


def _no_expectation(row: Row, last: Mapping[Hashable, Any] | None, card: Card | None) -> str | None:
    """Why nothing is expected of a row; None if something is."""
    if last is None or row["median_s"] is None:
        return "not measured"
    operation, _ = evidence.operation_of(row["workload"], row["params"] or {})
    reasons = {
        f"{row['provenance']}, not measured": row["provenance"] != "measured",
        "processors are not in the catalogue": card is None and last["backend"] == "cpu",
        "the card is not in the catalogue": card is None,
        "no model of this workload": operation == "other",
        "the host is the slower part": "launch_bound" in row["flags"],
        "it is above the card's peak": "above_peak" in row["flags"],
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def checks(row: Mapping[Hashable, Any], card: Card) -> list[str]:
    """What a row itself says that would make its card slow, in words."""
    found = [text for flag, text in FLAGGED.items() if flag in row["flags"]]
    limit, clock, heat = row["power_limit_w"], row["sm_clock_hz"], row["temperature_c"]
    if limit and limit < POWER_LIMIT_SHARE * card.power_w:
        found.append(f"the power limit is {limit:.0f} W, the card's own {card.power_w:.0f} W")
    if clock and clock["mean"] < CLOCK_SHARE * card.boost_clock_hz:
        own = card.boost_clock_hz / 1e9
        found.append(f"the chip ran at {clock['mean'] / 1e9:.2f} GHz, its boost is {own:.2f} GHz")
    if heat and heat["max"] >= HOT_C and "throttled_thermal" not in row["flags"]:
        found.append(f"the chip reached {heat['max']:.0f} °C: cooling, dust, fans")
    if row["ecc"] and table.is_memory_bound(row):
        found.append("error correction is on, which takes bandwidth of GDDR memory")
    lanes = str(row["pcie"] or "").rpartition("x")[2]
    if row["items"] > 0 and lanes in ("1", "2", "4"):
        found.append(f"the slot has {lanes} PCIe lanes: a riser, or the wrong slot")
    built = str(row["cuda"] or "").split(".")
    first = FIRST_CUDA.get(card.compute_capability)
    if first and all(map(str.isdecimal, built[:2])) and tuple(map(int, built[:2])) < first:
        needed = ".".join(map(str, first))
        found.append(
            f"torch is built for CUDA {row['cuda']}, older than {needed}, the card's first"
        )
    return found


def verdicts(rows: Sequence[Row]) -> dict[str, str]:
    """Each card's placement, by that of the middle one of its cases: what they share decides."""
    positions: dict[str, list[float]] = {}
    for row in rows:
        if row["position"] is not None:
            positions.setdefault(str(row["card"]), []).append(row["position"])
    middles = {card: median(found) for card, found in positions.items()}
    return {
        card: "low" if middle > 1 else "above" if middle < -1 else "as expected"
        for card, middle in middles.items()
    }


def conclusions(rows: Sequence[Row]) -> list[str]:
    """In words: each card as a whole, what its rows show, and of what nothing is expected."""
    lines = []
    for card, placement in verdicts(rows).items():
        own = [row for row in rows if str(row["card"]) == card and row["placement"]]
        counts = Counter(row["placement"] for row in own)
        parts = ", ".join(f"{counts[name]} {name}" for name in PLACEMENTS if counts[name])
        share = geometric_mean([row["expected_s"] / row["median_s"] for row in own])
        sure = median([row["expected_high_s"] / row["expected_s"] for row in own])
        lines.append(
            f"{render.clean(card)}: {PLACEMENTS[placement]}, at {render.percent(share)} of the "
            f"predicted speed, which is sure to a factor of {render.number(sure)} "
            f"({render.count(len(own), 'case')}: {parts})"
        )
        causes = Counter(text for row in own for text in row["checks"])
        word = "check" if placement == "low" else "seen"
        lines += [
            f"  {word}: {text} ({n} of {render.count(len(own), 'case')})"
            for text, n in causes.items()
        ]
        if placement == "low" and not causes:
            lines.append(f"  check: {NO_CAUSE}")
    return lines + _unplaced(rows)


PLACEMENTS = {
    "as expected": "as expected",
    "low": "slower than expected",
    "above": "faster than expected",
}


def _unplaced(rows: Sequence[Row]) -> list[str]:
    reasons = Counter(
        (str(row["card"]), row["placement_reason"]) for row in rows if row["placement_reason"]
    )
    return [
        f"{render.clean(card)}: nothing is expected of {render.count(number, 'case')}: "
        f"{render.clean(reason)}"
        for (card, reason), number in reasons.items()
    ]


def text(rows: Sequence[Row], form: str, extra: Sequence[Column] = ()) -> str:
    """Rows of `expected` in one of `render.FORMATS`."""
    shown = [dict(row) for row in rows]
    if form in ("table", "markdown"):
        shown = [row | {"expected_text": _interval(row)} for row in shown]
    return table.text(shown, form, [*extra, *EXPECTED])


def _interval(row: Row) -> str | None:
    low, high = row["expected_share_low"], row["expected_share_high"]
    return None if low is None else f"{render.number(100 * low)} to {render.percent(high)}"


EXPECTED = (
    Column("expected_text", "expected", right=True, spare=7),
    Column("placement", "placement"),
)
