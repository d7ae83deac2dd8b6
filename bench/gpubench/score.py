"""The selection score: gates first, then five parts, one number with its interval, ties, front.

Pure numbers: who gathers them is `recommend` for cards at hand or not, and `of_results` for the
cards of result files. Each part is a ratio to a reference card's, times 100, so that units can't
matter; the score is the weighted geometric mean of the parts, so that the choice of the reference
moves all scores by one factor and no card past another. docs/score.md makes one by hand.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gpubench import render
from gpubench.cards import GIB, catalogue, unsupported_precision
from gpubench.estimate import Estimate, geometric_mean
from gpubench.profile import PARTS, Profile
from gpubench.rates import Measurement, board_power, measurements


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
        return tuple(one for one in self.scored if not clearly_better(self.scored[0], one))


def clearly_better(one: Score, other: Score) -> bool:
    """Whether the whole 80 % interval of the ratio of two scores lies above 1."""
    if one.total is None or other.total is None or one.without != other.without:
        raise ValueError("scores made of different parts can't be compared")
    return (one.total / other.total).low > 1


# gates -----------------------------------------------------------------------------------------


def bars(candidate: Candidate, needs: Needs) -> tuple[Bar, ...]:
    """Every gate that the candidate fails, with the numbers. What is unknown does not pass."""
    return (
        *_memory_bars(candidate, needs),
        *(
            Bar("precision", _lacks(candidate, precision))
            for precision in needs.precisions
            if candidate.capability is None
            or unsupported_precision(candidate.capability, precision)
        ),
        *_price_bars(candidate, needs),
        *([Bar("case", said)] if (said := _gap_text(candidate)) else []),
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
    limit = render.dollars(needs.price_limit)
    if candidate.price_usd is None:
        yield Bar("price", f"no known price to hold against the limit of {limit}")
    elif candidate.price_usd > needs.price_limit:
        has = render.dollars(candidate.price_usd)
        yield Bar("price", f"costs {has}, the limit is {limit}")


def _gap_text(candidate: Candidate) -> str:
    """The gaps as a reason; empty without any."""
    if not candidate.gaps:
        return ""
    case_id, reason = next(iter(candidate.gaps.items()))
    more = f", and {len(candidate.gaps) - 1} more" if len(candidate.gaps) > 1 else ""
    return f"no number for {case_id}: {reason}{more}"


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
    parts = {
        part: own[part] / scale[part] * hundred for part in PARTS if part in own and part in scale
    }
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
    candidates: Sequence[Candidate],
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
    ordered = sorted(candidates, key=lambda one: one.name)  # and sorting is stable
    passed = [score(one, reference, weights, cases) for one in ordered if not failed[one.name]]
    whole = [one for one in passed if one.total is not None]
    fewest = min((one.without for one in whole), key=lambda names: (len(names), names), default=())
    scored = [one for one in whole if one.without == fewest]
    gaps = [
        (one.candidate, (Bar("case", _incomplete(one)),)) for one in passed if one.total is None
    ]
    return Ranking(
        scored=tuple(sorted(scored, key=_log, reverse=True)),
        apart=tuple(
            sorted(
                (one for one in whole if one.without != fewest),
                key=lambda one: (len(one.without), one.without, -_log(one)),
            )
        ),
        barred=(*((one, failed[one.name]) for one in ordered if failed[one.name]), *gaps),
    )


def _log(one: Score) -> float:
    return one.total.log if one.total else -math.inf


def _incomplete(one: Score) -> str:
    """``9 of 10 cases; lacks …``."""
    if not one.gaps:
        return f"nothing that is weighed is known of it: {', '.join(one.without)}"
    first = ", ".join(f"{name} ({reason})" for name, reason in list(one.gaps.items())[:2])
    more = f" and {len(one.gaps) - 2} more" if len(one.gaps) > 2 else ""
    return f"{one.present} of {one.cases} cases; lacks {first}{more}"


def front(points: Mapping[str, tuple[float, float]]) -> set[str]:
    """Who is on the Pareto front of (gain, cost): no other has as much for as little."""
    return {
        name
        for name, (gain, cost) in points.items()
        if not any(
            other_gain >= gain and other_cost <= cost and (other_gain, other_cost) != (gain, cost)
            for other_gain, other_cost in points.values()
        )
    }


# results ---------------------------------------------------------------------------------------


def of_results(rows: Sequence[Mapping[Any, Any]], profile: Profile) -> "Results":
    """The scores of the cards in result files, relative to each other, by the profile.

    Nothing is filled in: a card without all cases has no score, and says which it lacks. Of cards
    that the catalogue lacks only the performance is known: beside others they stand apart.
    """
    found = measurements(rows, profile.cases)
    candidates = [_of_measurement(one) for one in found]
    whole = [one for one in candidates if all(case in one.rates for case in profile.cases)]
    own = profile.reference.card_id
    reference = next((one for one in whole if one.name == own), whole[0] if whole else None)
    if reference is None:
        scores = [score(one, one, profile.weights, profile.cases) for one in candidates]
        return Results(profile, found, None, Ranking((), (), ()), tuple(scores))
    ranking = rank(candidates, reference, profile.weights, profile.cases)
    scored = {one.name for one in (*ranking.scored, *ranking.apart)}
    rest = [
        score(one, reference, profile.weights, profile.cases)
        for one in candidates
        if one.name not in scored
    ]
    return Results(profile, found, reference.name, ranking, tuple(rest))


@dataclass(frozen=True)
class Results:
    """What result files say by a profile.

    Attributes:
        found: the cards, in the order of their names.
        reference: name of the candidate that has 100; None where none has all cases.
        incomplete: cards that lack cases, which have no score.
    """

    profile: Profile
    found: Sequence[Measurement]
    reference: str | None
    ranking: Ranking
    incomplete: tuple[Score, ...]

    @property
    def comparable(self) -> bool:
        """Whether there is anything to compare: two cards with all cases."""
        return len(self.ranking.scored) + len(self.ranking.apart) > 1


def _of_measurement(one: Measurement) -> Candidate:
    """A candidate named after its card."""
    card = catalogue().get(one.card_id)
    watts = dict(one.watts)
    if card is None:
        return Candidate(one.card_id, one.rates, watts, one.gaps)
    watts = {case: watts.get(case) or board_power(card) for case in one.rates}
    return Candidate(
        name=one.card_id,
        rates=one.rates,
        watts=watts,
        gaps=one.gaps,
        memory_bytes=float(card.memory_bytes),
        usable_bytes=card.usable_bytes,
        bandwidth=card.bandwidth,
        price_usd=card.launch_price_usd,
        capability=card.capability,
    )
