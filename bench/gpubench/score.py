"""The selection score: gates first, then five parts, one number with its interval, ties, front.

Pure numbers: who gathers them is `recommend` for cards at hand or not, and `of_results` for the
cards of result files. Each part is a ratio to a reference card's, times 100, so that units can't
matter; the score is the weighted geometric mean of the parts, so that the choice of the reference
moves all scores by one factor and no card past another. docs/score.md makes one by hand.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gpubench import stats
from gpubench.cards import GIB, Card, catalogue, unsupported_precision
from gpubench.estimate import Z80, Estimate, geometric_mean
from gpubench.profile import PARTS, Profile
from gpubench.record import FAILURES

#: two cards of one kind differ by 8 % on average (Sinha et al. 2022, arXiv:2208.11035, clusters of
#: data-centre cards); of two independent normal deviations the mean difference is 2/√π of one
CARD_SPREAD = 0.08 * math.sqrt(math.pi) / 2
#: an assumption, not a measurement: board power is a limit, and how far below it a card stays
#: differs by case. It is one error for all cards whose draw was not measured, so it only widens
#: comparisons with those whose draw was.
DRAW_SPREAD = 0.15
#: origins whose numbers may stand in a score; published ones don't carry across software
SCORED_ORIGINS = ("measured", "modelled")
#: what rows have to share to be one thing: see `compare.IDENTITY`
VARIANT = ("cache", "workload_version", "workload_hash", "timer", "cold_by")


@dataclass(frozen=True)
class Candidate:
    """What is known of a card, in base units.

    Attributes:
        name: unique among the candidates.
        rates: steps per second, by case.
        gaps: why a case has no rate, where there is a reason.
        watts: power drawn, by case, for all cases that have a rate.
        memory_bytes, usable_bytes: of one card, as sold and as left by the driver.
        price_usd: of all cards together where there are several; None is unknown.
        capability: compute capability; None is unknown.
    """

    name: str
    rates: Mapping[str, Estimate]
    watts: Mapping[str, Estimate] = field(default_factory=dict)
    gaps: Mapping[str, str] = field(default_factory=dict)
    memory_bytes: float | None = None
    usable_bytes: float | None = None
    bandwidth: float | None = None
    price_usd: float | None = None
    capability: tuple[int, int] | None = None


@dataclass(frozen=True)
class Needs:
    """What a card must have, before anything is weighed.

    Attributes:
        memory_bytes: what the job holds in one card's memory.
        card_bytes: least memory of the card as sold.
        precisions: in hardware.
        price_limit: US dollars, of all cards together.
    """

    memory_bytes: float = 0.0
    card_bytes: float = 0.0
    precisions: tuple[str, ...] = ()
    price_limit: float | None = None


@dataclass(frozen=True)
class Bar:
    """A gate that a card fails: ``kind`` is memory, precision, price or case."""

    kind: str
    reason: str


@dataclass(frozen=True)
class Score:
    """A candidate's parts and score, relative to the reference, which has 100 of each.

    Attributes:
        parts: those that are known, by name.
        total: the score; None where a case is missing.
        without: weighted parts that are unknown; scores compare only where these are the same.
        present, cases: how many of the profile's cases the candidate has.
        gaps: why it lacks the others.
    """

    candidate: Candidate
    parts: Mapping[str, Estimate]
    total: Estimate | None
    without: tuple[str, ...]
    present: int
    cases: int
    gaps: Mapping[str, str]

    @property
    def name(self) -> str:
        """The candidate's name."""
        return self.candidate.name


@dataclass(frozen=True)
class Ranking:
    """Who is scored, best first; who passed the gates but can't be set against them; who failed."""

    scored: tuple[Score, ...]
    apart: tuple[Score, ...]
    barred: tuple[tuple[Candidate, tuple[Bar, ...]], ...]

    @property
    def as_good(self) -> tuple[Score, ...]:
        """All whose score can't be told from the winner's, the winner first.

        That is the 80 % interval of the ratio of the two, in which shared errors cancel. It says
        nothing about two others: ties don't carry from one pair to the next.
        """
        return tuple(score for score in self.scored if not clearly_better(self.scored[0], score))


def clearly_better(one: Score, other: Score) -> bool:
    """Whether the whole 80 % interval of the ratio of two scores lies above 1."""
    if one.total is None or other.total is None or one.without != other.without:
        raise ValueError("scores made of different parts can't be compared")
    return (one.total / other.total).low > 1


# gates -----------------------------------------------------------------------------------------


def bars(candidate: Candidate, needs: Needs) -> tuple[Bar, ...]:
    """Every gate that the candidate fails, with the numbers. What is unknown does not pass."""
    return tuple(
        [
            *_memory_bars(candidate, needs),
            *(
                Bar("precision", _lacks(candidate, precision))
                for precision in needs.precisions
                if candidate.capability is None
                or unsupported_precision(candidate.capability, precision)
            ),
            *_price_bars(candidate, needs),
            *([Bar("case", said)] if (said := _gap_text(candidate)) else []),
        ]
    )


def _memory_bars(candidate: Candidate, needs: Needs) -> Iterable[Bar]:
    usable, memory = candidate.usable_bytes, candidate.memory_bytes
    if needs.memory_bytes and (usable is None or usable < needs.memory_bytes):
        has = "unknown memory" if usable is None else f"{usable / GIB:.1f} GiB usable"
        yield Bar("memory", f"needs {needs.memory_bytes / GIB:.1f} GiB, has {has}")
    if needs.card_bytes and (memory is None or memory < needs.card_bytes):
        has = "is unknown" if memory is None else f"is {memory / GIB:.4g} GiB"
        yield Bar("memory", f"its memory {has}, wanted are {needs.card_bytes / GIB:.4g} GiB")


def _lacks(candidate: Candidate, precision: str) -> str:
    if candidate.capability is None:
        return f"whether it does {precision} is unknown"
    return str(unsupported_precision(candidate.capability, precision))


def _price_bars(candidate: Candidate, needs: Needs) -> Iterable[Bar]:
    if needs.price_limit is None:
        return
    if candidate.price_usd is None:
        yield Bar("price", f"no known price to hold against the limit of {needs.price_limit:,.0f}")
    elif candidate.price_usd > needs.price_limit:
        has = f"${candidate.price_usd:,.0f}"
        yield Bar("price", f"costs {has}, the limit is ${needs.price_limit:,.0f}")


def _gap_text(candidate: Candidate) -> str:
    """The gaps as a reason; empty without any."""
    if not candidate.gaps:
        return ""
    case_id, reason = next(iter(candidate.gaps.items()))
    more = f", and {len(candidate.gaps) - 1} more" if len(candidate.gaps) > 1 else ""
    return f"no number for {len(candidate.gaps)} cases: {case_id}: {reason}{more}"


# score -----------------------------------------------------------------------------------------


def score(
    candidate: Candidate,
    reference: Candidate,
    weights: Mapping[str, float],
    cases: Mapping[str, float],
) -> Score:
    """The candidate's parts and their weighted geometric mean, relative to the reference.

    Args:
        candidate: what is scored; a case without a rate leaves it without performance and score.
        reference: what has 100 of everything; it has every case and everything that is weighed.
        weights: of PARTS; those of no weight are shown and do not count.
        cases: weight of each case.
    """
    own, scale = _amounts(candidate, cases), _amounts(reference, cases)
    hundred = Estimate.of(100.0)
    parts = {part: own[part] / scale[part] * hundred for part in PARTS if part in own and part in scale}
    wanted = [part for part in PARTS if weights.get(part)]
    without = tuple(part for part in wanted if part not in parts)
    counted = [(parts[part], weights[part]) for part in wanted if part in parts]
    complete = "performance" in parts and counted
    return Score(
        candidate=candidate,
        parts=parts,
        total=geometric_mean(counted) if complete else None,
        without=without,
        present=sum(case_id in candidate.rates for case_id in cases),
        cases=len(cases),
        gaps={
            case_id: candidate.gaps.get(case_id, "not measured")
            for case_id in cases
            if case_id not in candidate.rates
        },
    )


def _amounts(candidate: Candidate, cases: Mapping[str, float]) -> dict[str, Estimate]:
    """Each part that is known in units of its own: more is better, and doubling it is doubling."""
    found: dict[str, Estimate] = {}
    if candidate.memory_bytes:
        found["memory"] = Estimate.of(candidate.memory_bytes)
    if candidate.bandwidth:
        found["bandwidth"] = Estimate.of(candidate.bandwidth)
    if any(case_id not in candidate.rates for case_id in cases):
        return found
    speed = geometric_mean((candidate.rates[case_id], weight) for case_id, weight in cases.items())
    found["performance"] = speed
    if all(case_id in candidate.watts for case_id in cases):
        draw = geometric_mean((candidate.watts[name], weight) for name, weight in cases.items())
        found["efficiency"] = speed / draw
    if candidate.price_usd:
        found["value"] = speed / Estimate.of(candidate.price_usd)
    return found


def rank(
    candidates: Iterable[Candidate],
    reference: Candidate,
    weights: Mapping[str, float],
    cases: Mapping[str, float],
    needs: Needs | None = None,
) -> Ranking:
    """Gates, then scores, best first; the order of the candidates does not matter.

    Scores made of the same parts are ranked: of all five where any candidate has them. Those that
    lack one (a price, mostly) stand apart, so that a missing part neither wins nor loses.
    """
    failed = {one.name: bars(one, needs or Needs()) for one in candidates}
    ordered = sorted(candidates, key=lambda one: one.name)
    passed = [score(one, reference, weights, cases) for one in ordered if not failed[one.name]]
    whole = [one for one in passed if one.total is not None]
    fewest = min((one.without for one in whole), key=lambda names: (len(names), names), default=())
    scored = [one for one in whole if one.without == fewest]
    gaps = [
        (one.candidate, (Bar("case", _incomplete(one)),)) for one in passed if one.total is None
    ]
    return Ranking(
        scored=tuple(sorted(scored, key=lambda one: (-_log(one), one.name))),
        apart=tuple(
            sorted(
                (one for one in whole if one.without != fewest),
                key=lambda one: (len(one.without), one.without, -_log(one), one.name),
            )
        ),
        barred=(*((one, failed[one.name]) for one in ordered if failed[one.name]), *gaps),
    )


def _log(one: Score) -> float:
    return one.total.log if one.total else -math.inf


def _incomplete(one: Score) -> str:
    """``9 of 10 cases; lacks …``."""
    first = ", ".join(f"{name} ({reason})" for name, reason in list(one.gaps.items())[:2])
    more = f" and {len(one.gaps) - 2} more" if len(one.gaps) > 2 else ""
    return f"{one.present} of {one.cases} cases; lacks {first}{more}"


def front(points: Mapping[str, tuple[float, float]]) -> set[str]:
    """Names on the Pareto front of (gain, cost): none other has as much for less, or more for as much."""
    return {
        name
        for name, (gain, cost) in points.items()
        if not any(
            other_gain >= gain and other_cost <= cost and (other_gain, other_cost) != (gain, cost)
            for other_gain, other_cost in points.values()
        )
    }


# results ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measurement:
    """What result files say of one card: rates and draws by case, and why others have none."""

    card_id: str
    card: str
    provenance: str
    rates: Mapping[str, Estimate]
    watts: Mapping[str, Estimate]
    gaps: Mapping[str, str]


def measurements(
    rows: Sequence[Mapping[str, Any]], cases: Mapping[str, float]
) -> list[Measurement]:
    """The cards of a table's rows (`table.load`), with what may stand in a score.

    A case enters as the variant (cache, source of the workload, timer) that most cards have, since
    only like compares with like, and by the newest software of a card. A failed trial, a wrong
    result or a rate above the peak leaves the case without a number, whatever other trials gave;
    virtual rows and published ones are not there at all.
    """
    wanted = [
        row
        for row in rows
        if row["case_id"] in cases and row["provenance"] in SCORED_ORIGINS and row["card_id"]
    ]
    chosen = _variants(wanted)
    cards: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in wanted:
        cards.setdefault((str(row["card_id"]), str(row["provenance"])), []).append(row)
    return [_measurement(key, own, cases, chosen) for key, own in sorted(cards.items())]


def _variants(rows: Sequence[Mapping[str, Any]]) -> dict[str, tuple[str, ...]]:
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


def _variant(row: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(row.get(column)) for column in VARIANT)


def _measurement(
    key: tuple[str, str],
    rows: Sequence[Mapping[str, Any]],
    cases: Mapping[str, float],
    chosen: Mapping[str, tuple[str, ...]],
) -> Measurement:
    card_id, provenance = key
    rates, watts, gaps = {}, {}, {}
    for case_id in cases:
        own = [row for row in rows if row["case_id"] == case_id]
        if not own:
            continue
        if reason := _refused(own):
            gaps[case_id] = reason
            continue
        alike = [row for row in own if row["status"] == "ok" and _variant(row) == chosen[case_id]]
        if not alike:
            gaps[case_id] = "measured as another variant than the other cards: see `compare`"
            continue
        software = [(str(row["torch"]), str(row["driver"])) for row in alike]
        latest = software[max(range(len(alike)), key=lambda at: str(alike[at]["started_at"]))]
        counted = [row for row, own in zip(alike, software, strict=True) if own == latest]
        rates[case_id] = _rate(counted, f"{card_id} {provenance}", case_id)
        if drawn := _draw(counted):
            watts[case_id] = drawn
    name = str(rows[-1]["card"] or card_id)
    return Measurement(card_id, name, provenance, rates, watts, gaps)


def _refused(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """Why a case can't count, whatever else was measured of it."""
    for row in rows:
        if row["status"] in FAILURES:
            return f"{row['status']}: {row['reason'] or 'no reason given'}"
    if any("above_peak" in (row["flags"] or ()) for row in rows):
        return "above_peak: faster than the card can be"
    if all(row["status"] != "ok" for row in rows):
        return f"{rows[-1]['status']}: {rows[-1]['reason'] or 'no reason given'}"
    return None


def _rate(rows: Sequence[Mapping[str, Any]], name: str, case_id: str) -> Estimate:
    """Steps a second over the trials, with the errors of measuring and of choosing a specimen."""
    logs = [-math.log(row["median_s"]) for row in rows]
    if len(logs) > 1:
        noise = stats.mean_half_width(logs, 0.80) / Z80 if len(set(logs)) > 1 else 0.0
    else:  # of one process only its own 95 % interval is known
        low, high = rows[0]["low_s"], rows[0]["high_s"]
        bounded = 0 < low <= high < math.inf
        noise = math.log(high / low) / (2 * 1.96) if bounded else CARD_SPREAD
    devices = {str(row.get("device_uuid_hash")) for row in rows}
    spread = CARD_SPREAD / math.sqrt(len(devices))
    errors = {f"noise {name} {case_id}": noise, f"specimen {name}": spread}
    return Estimate(math.fsum(logs) / len(logs), errors)


def _draw(rows: Sequence[Mapping[str, Any]]) -> Estimate | None:
    """Watts from the energy of a step; None where no trial read it."""
    drawn = [
        math.log(row["energy_j"] / row["median_s"])
        for row in rows
        if isinstance(row["energy_j"], int | float) and 0 < row["energy_j"] < math.inf
    ]
    return Estimate(math.fsum(drawn) / len(drawn)) if drawn else None


def board_power(card: Card, count: int = 1) -> Estimate:
    """What a card draws where nobody measured it: its board's limit, with how far that is off."""
    return Estimate.of(card.power_w * count, {"draw below board power": DRAW_SPREAD})


def catalogue_facts(card: Card, usable_bytes: float) -> dict[str, Any]:
    """The fields of a `Candidate` that the catalogue knows."""
    return {
        "memory_bytes": float(card.memory_bytes),
        "usable_bytes": usable_bytes,
        "bandwidth": card.bandwidth,
        "capability": card.capability,
    }
