"""Which card to take: candidates from catalogue, results, model and prices; gates, scores, changes.

Works with no result at all, from the model; what was measured takes its place case by case and
teaches the model. How the score is made of that is `score`, how it is said is `advice`.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

from gpubench import prices, scaling, score, sensitivity, stack
from gpubench.cards import CONTEXT_BYTES, Card, catalogue, named, unsupported_precision
from gpubench.errors import UsageError
from gpubench.estimate import Estimate
from gpubench.evidence import measured, step_of
from gpubench.job import Job
from gpubench.predict import Predictor
from gpubench.prices import Price
from gpubench.profile import Profile
from gpubench.rates import Measurement, board_power, measurements
from gpubench.score import Candidate, Needs, Ranking
from gpubench.sensitivity import Change
from gpubench.workload import Work, parse_case_id

#: three years of eight hours a day: over how much use a card's price is spread
HOURS = 8760.0
#: US dollars per kilowatt-hour, an assumption of the order of what households and offices pay
ELECTRICITY = 0.15
#: a fine-tune of 50,000 examples of 2,000 tokens, to have a cost to show
TOKENS = 1e8
#: without a job: as much work as keeps the reference card busy for a day
REFERENCE_HOURS = 24.0
#: where fewer cards pass, cheaper jobs are offered
FEW = 3
#: more than one machine holds are no advice
MOST_CARDS = 8
#: the one case of a ranking by a job's own time
JOB = "the job"


@dataclass(frozen=True)
class Question:
    """What is asked.

    Attributes:
        job: a training job; without one the profile's cases are what counts.
        cards: globs over card ids, or names of cards; none is the whole catalogue.
        price_limit: US dollars for all cards together.
        prices: by card id; the other cards keep the catalogue's launch price.
        card_bytes: least memory of a card as sold.
        count: cards of one kind, data parallel.
        hours: of use over which the price is spread.
        electricity: US dollars per kilowatt-hour.
        tokens: of the job whose cost is shown.
        rows: of result files, from `table.load`.
        files: how many those are; some have no rows.
    """

    profile: Profile
    job: Job | None = None
    cards: tuple[str, ...] = ()
    price_limit: float | None = None
    prices: Mapping[str, Price] = field(default_factory=dict)
    card_bytes: float = 0.0
    count: int = 1
    hours: float = HOURS
    electricity: float = ELECTRICITY
    tokens: float = TOKENS
    rows: Sequence[Mapping[Any, Any]] = ()
    files: int = 0

    @property
    def cases(self) -> Mapping[str, float]:
        """Weights of the cases that performance is made of."""
        return {JOB: 1.0} if self.job else self.profile.cases


@dataclass(frozen=True)
class Option:
    """A card with what it would take and cost.

    Attributes:
        watts: of all cards together.
        hours: of the job; None where its time is not known.
        cost_usd: of the job: electricity, and the price spread over its hours of use.
        measured: how many cases were.
    """

    card: Card
    candidate: Candidate
    price: Price | None
    watts: float
    hours: Estimate | None
    electricity_usd: float | None
    cost_usd: float | None
    measured: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Way:
    """A cheaper job that more cards pass for, all gates and ``question`` tried.

    Attributes:
        said: what changes, with its flags; a smaller batch has its own.
        counts: with so many cards the step has as many sequences as before; None where that is
            more than pass.
        passing: how many cards of the catalogue.
    """

    said: str
    question: Question
    need_bytes: float
    counts: int | None
    passing: int


@dataclass(frozen=True)
class Answer:
    """The ranking with everything that stands beside it.

    Attributes:
        options: by card id, all cards that were looked at.
        cheap, frugal: on the Pareto front of performance against price, and against power.
        basis: what the model learnt from.
        taught: rows of the results that count, since cards were measured in them.
        changes: what would make another card win.
        ways: where few cards pass, cheaper jobs that more pass for.
        unwished: where none passes, how many would without the wish for a card's memory.
    """

    question: Question
    needs: Needs
    ranking: Ranking
    options: Mapping[str, Option]
    cheap: frozenset[str]
    frugal: frozenset[str]
    basis: str
    taught: int = 0
    changes: tuple[Change, ...] = ()
    ways: tuple[Way, ...] = ()
    unwished: int = 0


@dataclass(frozen=True)
class Step:
    """One case as the model is asked about it."""

    work: Work
    precision: str
    operation: str
    launches: float


def recommend(question: Question) -> Answer:
    """Weigh every card that is asked about.

    Raises:
        UsageError: no card matches, or the profile's reference can't do what is asked.
    """
    steps = steps_of(question)
    needs = needs_of(question, steps)
    predictor = Predictor.shipped()
    if question.rows:
        predictor = predictor.with_measured(question.rows)
    found = _measured(question)
    options = {
        card.card_id: _option(card, question, steps, predictor, found.get(card.card_id))
        for card in chosen(question.cards)
    }
    own = found.get(question.profile.reference.card_id)
    reference = _reference(question, steps, predictor, own)
    weights = question.profile.weights

    def again(changed: Needs) -> Ranking:
        candidates = [option.candidate for option in options.values()]
        return score.rank(candidates, reference, weights, question.cases, changed)

    ranking = again(needs)
    passed = len(ranking.scored) + len(ranking.apart)
    unlimited = replace(question, card_bytes=0.0)
    options = _with_cost(options, ranking, question)
    speed = {one.name: one.parts["performance"].value for one in (*ranking.scored, *ranking.apart)}
    priced = {
        name: (gain, price.usd) for name, gain in speed.items() if (price := options[name].price)
    }
    powered = {name: (gain, options[name].watts) for name, gain in speed.items()}
    return Answer(
        question=question,
        needs=needs,
        ranking=ranking,
        options=options,
        cheap=frozenset(score.front(priced)),
        frugal=frozenset(score.front(powered)),
        basis=predictor.basis,
        taught=sum(any(measured([row])) for row in question.rows),
        changes=tuple(_changes(question, ranking, needs, again)),
        ways=tuple(ways_to_fit(question)) if passed < FEW else (),
        unwished=0 if passed or not question.card_bytes else len(passing(unlimited)),
    )


def _changes(
    question: Question, ranking: Ranking, needs: Needs, again: Callable[[Needs], Ranking]
) -> list[Change]:
    """The nearest of each kind; the memory of a profile's cases is no choice of the user's."""
    found: list[Change | None] = []
    weights = question.profile.weights
    if ranking.scored:
        found += [sensitivity.nearest_weight(ranking, weights)]
        found += sensitivity.nearest_price(ranking, weights)
    found += [sensitivity.nearest_limit(ranking, needs, again)]
    if question.job:
        found += sensitivity.nearest_memory(ranking, needs, again)
    return [change for change in found if change]


# what is asked ---------------------------------------------------------------------------------


def chosen(patterns: Sequence[str]) -> list[Card]:
    """Cards of the catalogue whose id matches a glob, or that a name may mean; all without any.

    Raises:
        UsageError: a pattern matches none.
    """
    if not patterns:
        return list(catalogue().values())
    found = {card_id for pattern in patterns for card_id in _matching(pattern)}
    return [card for card_id, card in catalogue().items() if card_id in found]


def _matching(pattern: str) -> list[str]:
    if not any(sign in pattern for sign in "*?["):
        return [card.card_id for card in named(pattern)]
    found = [one for one in catalogue() if fnmatchcase(one.casefold(), pattern.casefold())]
    if not found:
        raise UsageError(
            f"--cards {pattern!r} matches no card of the catalogue",
            "`gpubench list cards` shows the ids; globs are as '*rtx-40*'; RESULTS go first",
        )
    return found


def steps_of(question: Question) -> dict[str, Step]:
    """The work of each case.

    Raises:
        UsageError: a case of the profile is none, or its work is not declared.
    """
    if question.job:
        job = question.job
        return {JOB: Step(job.work(), job.precision, "transformer", job.launches)}
    found = {}
    for case_id in question.profile.cases:
        workload, params = parse_case_id(case_id)
        work = workload.work(params)
        if work is None:
            raise UsageError(
                f"profile {question.profile.name}: {case_id} declares no work before it runs",
                "give the workload's decorator its work=, or leave the case out",
            )
        work, operation, launches = step_of(workload.name, params, work)
        found[case_id] = Step(work, str(params.get("precision", "fp32")), operation, launches)
    return found


def needs_of(question: Question, steps: Mapping[str, Step]) -> Needs:
    """The gates: a job's own, or those of the profile and its cases."""
    context = 0.0 if question.job else CONTEXT_BYTES  # which a job's own memory has in it
    footprints = [(step.work.footprint or 0.0) + context for step in steps.values()]
    wanted = [step.precision for step in steps.values()]
    own = () if question.job else question.profile.precisions
    least = 0.0 if question.job else question.profile.memory_bytes
    return Needs(
        memory_bytes=max(footprints),
        card_bytes=max(question.card_bytes, least),
        precisions=tuple(dict.fromkeys([*own, *wanted])),
        price_limit=question.price_limit,
    )


# candidates ------------------------------------------------------------------------------------


def _option(
    card: Card,
    question: Question,
    steps: Mapping[str, Step],
    predictor: Predictor,
    found: Measurement | None,
) -> Option:
    candidate = _candidate(card, question, steps, predictor, found)
    return Option(
        card=card,
        candidate=candidate,
        price=_price(card, question),
        watts=card.power_w * question.count,
        hours=None,
        electricity_usd=None,
        cost_usd=None,
        measured=len(found.rates) if found else 0,
        notes=tuple(_software(card)),
    )


def _software(card: Card) -> Iterator[str]:
    """What is to know where PyPI's torch has no kernels for the card."""
    build = stack.build_for(card.capability)
    if build and build.index:
        yield f"needs the {build.build} build of {build.torch}"


def _price(card: Card, question: Question) -> Price | None:
    """Of all cards together."""
    price = (prices.launch_prices([card]) | dict(question.prices)).get(card.card_id)
    return price and replace(price, usd=price.usd * question.count)


def _bare(card: Card, question: Question) -> Candidate:
    """What is known of a card without the model: all that the gates ask for."""
    price = _price(card, question)
    return Candidate(
        name=card.card_id,
        rates={},
        memory_bytes=float(card.memory_bytes),
        usable_bytes=card.usable_bytes,
        bandwidth=card.bandwidth,
        price_usd=price.usd if price else None,
        capability=card.capability,
    )


def _measured(question: Question) -> dict[str, Measurement]:
    """What the results say of the profile's cases, by card; of a job they say nothing direct."""
    if question.job or not question.rows:
        return {}
    found = measurements(question.rows, question.profile.cases)
    return {one.card_id: one for one in found}


def _candidate(
    card: Card,
    question: Question,
    steps: Mapping[str, Step],
    predictor: Predictor,
    found: Measurement | None,
) -> Candidate:
    """Measured rates where there are any, modelled ones for the rest; none where a case failed."""
    gain, _ = scaling.efficiency(card, question.count)
    gain *= Estimate.of(float(question.count))
    gaps = dict(found.gaps) if found else {}
    rates = {}
    watts = {}
    for case_id, step in steps.items():
        if case_id in gaps:
            continue
        if found and case_id in found.rates:
            rates[case_id] = found.rates[case_id] * gain
        elif unsupported_precision(card.capability, step.precision):
            continue
        elif step.precision not in card.peaks:
            gaps[case_id] = f"its {step.precision} rate is not in the catalogue"
            continue
        else:
            rates[case_id] = gain / predictor.estimate(
                card,
                step.work,
                step.precision,
                operation=step.operation,
                launches=step.launches,
                case=case_id,
            )
        drawn = found.watts.get(case_id) if found else None
        power = drawn or board_power(card)
        watts[case_id] = power * Estimate.of(float(question.count))
    return replace(_bare(card, question), rates=rates, watts=watts, gaps=gaps)


def _reference(
    question: Question,
    steps: Mapping[str, Step],
    predictor: Predictor,
    found: Measurement | None,
) -> Candidate:
    """The profile's reference: only a scale, so it need not pass the gates."""
    card = question.profile.reference
    if found and found.gaps:  # what failed there is no reason to have no scale
        found = None
    candidate = _candidate(card, question, steps, predictor, found)
    if missing := [name for name in steps if name not in candidate.rates]:
        reason = candidate.gaps.get(missing[0]) or unsupported_precision(
            card.capability, steps[missing[0]].precision
        )
        raise UsageError(
            f"profile {question.profile.name}: its reference {card.card_id} has no number for "
            f"{missing[0]}: {reason}",
            "name another reference in a profile of your own",
        )
    price = (card.launch_price_usd or 1.0) * question.count
    return replace(candidate, price_usd=price)


# cost ------------------------------------------------------------------------------------------


def _with_cost(
    options: Mapping[str, Option], ranking: Ranking, question: Question
) -> dict[str, Option]:
    """Time and cost of the job on every card that passed the gates."""
    timed = dict(options)
    for one in (*ranking.scored, *ranking.apart):
        option = options[one.name]
        hours = job_hours(question, one)
        watts = _mean_watts(option, question)
        electricity = hours.value * watts / 1000 * question.electricity
        share = option.price.usd * hours.value / question.hours if option.price else None
        timed[one.name] = replace(
            option,
            watts=watts,
            hours=hours,
            electricity_usd=electricity,
            cost_usd=None if share is None else electricity + share,
        )
    return timed


def _mean_watts(option: Option, question: Question) -> float:
    """Of the cases, by their weights; measured where it was, else the board's limit."""
    drawn = [(option.candidate.watts[name], weight) for name, weight in question.cases.items()]
    total = sum(weight for _, weight in drawn)
    return sum(power.value * weight for power, weight in drawn) / total


def job_hours(question: Question, one: score.Score) -> Estimate:
    """How long the job takes: its tokens, or what keeps the reference busy for a day."""
    if question.job:
        seconds = Estimate.of(question.tokens / question.job.tokens) / one.candidate.rates[JOB]
        return seconds / Estimate.of(3600.0)
    return Estimate.of(100 * REFERENCE_HOURS) / one.parts["performance"]


# ways ------------------------------------------------------------------------------------------


#: in the place of precisions that begin with Ampere, on cards before it
OLDER = {"bf16": "fp16", "tf32": "fp32"}
#: of a batch that was meant for all cards together
SPLIT = "the batch split over the cards"
#: of a job that few cards hold, the nearest first
CHEAPER: tuple[tuple[str, dict[str, Any]], ...] = (
    ("a smaller batch", {}),
    ("activation checkpointing (--checkpointing)", {"checkpointing": True}),
    ("8-bit AdamW (--optimizer adamw8bit)", {"optimizer": "adamw8bit"}),
    ("LoRA (--method lora)", {"method": "lora"}),
    ("QLoRA (--method qlora)", {"method": "qlora"}),
    (
        "QLoRA with checkpointing (--method qlora --checkpointing)",
        {"method": "qlora", "checkpointing": True},
    ),
)


def passing(question: Question) -> list[Card]:
    """Cards that pass the gates, before anything is measured."""
    steps = steps_of(question)
    needs = needs_of(question, steps)
    return [
        card
        for card in chosen(question.cards)
        if all(step.precision in card.peaks for step in steps.values())
        and not score.bars(_bare(card, question), needs)
    ]


def ways_to_fit(question: Question) -> list[Way]:
    """Changes of the job with which more cards pass, the nearest first; none without a job.

    Each is one change, or one with the largest batch that then fits any card that passes the
    other gates. Where no card passes then, the same in the precision that older cards have.
    """
    job = question.job
    if job is None:
        return []
    if (ways := _ways(question, job)) or job.precision not in OLDER:
        return ways
    older = replace(job, precision=OLDER[job.precision])
    if passing(question) or passing(replace(question, job=older)):
        return []
    said = f" with --precision {older.precision}"
    return [replace(way, said=way.said + said) for way in _ways(question, older)]


def _ways(question: Question, job: Job) -> list[Way]:
    """Those from ``job`` on."""
    least = replace(
        job, batch=1, sequence=1, checkpointing=True, method="qlora" if job.low else "lora"
    )
    room = max((card.usable_bytes for card in passing(replace(question, job=least))), default=0.0)
    now, need = len(passing(question)), job.memory().total_bytes
    seen, ways, shrunk = [job], [], 0
    for said, other in _cheaper(job, question.count, room):
        if other.batch <= shrunk:
            continue  # what buys no larger batch than doing without it
        if other in seen or other.memory().total_bytes >= need:
            continue
        seen.append(other)
        asked = replace(question, job=other)
        if (passed := len(passing(asked))) > now:
            counts = None if said == SPLIT else _counts(asked, job.batch)
            ways.append(Way(said, asked, other.memory().total_bytes, counts, passed))
            shrunk = max(shrunk, other.batch if other.batch < job.batch else 0)
    return ways


def _cheaper(job: Job, count: int, room: float) -> Iterator[tuple[str, Job]]:
    """Cheaper jobs, the nearest first, each with the largest batch that fits into ``room``."""
    if count > 1:  # who asks for a batch on several cards may well mean that of all of them
        yield SPLIT, replace(job, batch=math.ceil(job.batch / count))
    for said, change in CHEAPER:
        if change.get("method") == "qlora" and not job.low:
            continue  # which computes in 16 bit only
        other = replace(job, **change)
        if batch := min(other.largest_batch(room), job.batch):
            yield said, replace(other, batch=batch)


def _counts(asked: Question, batch: int) -> int | None:
    """How many cards make up for a smaller batch, if that many pass."""
    if asked.job is None or asked.job.batch == batch:
        return None
    count = asked.count * math.ceil(batch / asked.job.batch)
    fits = count <= MOST_CARDS and passing(replace(asked, count=count))
    return count if fits else None
