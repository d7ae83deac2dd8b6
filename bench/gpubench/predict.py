"""Time per step on a card that is not at hand, with an 80 % interval: a number that is modelled.

The model and what it learnt is `efficiency`; here it is asked. Level and ratio differ in how sure
they are: what all cards share (the software, the kernels' quality) widens a time and cancels in a
ratio of two cards.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from gpubench.cards import Card, catalogue, unsupported_precision
from gpubench.efficiency import Efficiencies, Observation, fit, updated
from gpubench.estimate import Estimate
from gpubench.errors import UsageError, unknown_name
from gpubench.published import Published, published
from gpubench.published_work import observation
from gpubench.workload import PRECISION_BYTES, Work

# The 90th percentile of the normal distribution: 80 % lie within that many standard deviations.
REACH = 1.2816
OPERATIONS = (
    *("gemm", "conv2d", "attention", "memory", "reduction", "cnn", "transformer", "decode"),
    *("prefill", "other"),
)
# Elements that training moves at least, per operation of its products: `Work.bytes` of a training
# step is often the parameters' traffic alone. VGG's, and a transformer's of hidden size 4096.
LEAST_TRAFFIC = {"cnn": 2e-3, "transformer": 6e-4}


@dataclass(frozen=True)
class Prediction:
    """Modelled seconds of one step, and the bounds between which 80 % of such fall."""

    seconds: float
    low: float
    high: float
    basis: str


@dataclass(frozen=True)
class Ratio:
    """How many times faster one card is than another (seconds over seconds), with 80 % bounds."""

    estimate: float
    low: float
    high: float
    basis: str


@dataclass(frozen=True)
class Predictor:
    """What was learnt, ready to be asked; ``basis`` says from what."""

    efficiencies: Efficiencies
    basis: str

    @classmethod
    @cache
    def shipped(cls) -> "Predictor":
        """Fitted to the package's collection of published results, when first asked for."""
        return cls.of(published())

    @classmethod
    def of(cls, results: Iterable[Published]) -> "Predictor":
        """Fitted to these results on one card of the catalogue each; others say nothing here."""
        observations = usable(results)
        basis = f"published results of {len({o.card.card_id for o in observations})} cards"
        return cls(fit(observations), basis)

    def step(
        self,
        card: Card,
        work: Work,
        precision: str,
        *,
        operation: str,
        launches: float = 0,
        case: str = "",
    ) -> Prediction:
        """Seconds of a step of ``work`` with products in ``precision``, ``launches`` kernels long.

        ``case`` names the step where results of the very same one were given to `with_measured`.

        Raises:
            UsageError: the card lacks the precision, the operation is none of OPERATIONS, or
                neither operations nor bytes of the work are known.
        """
        asked = _asked(card, work, precision, operation, launches, case)
        log, slope = self.efficiencies.log_seconds(asked)
        reach = REACH * math.sqrt(self.efficiencies.variance(slope) + self.efficiencies.noise**2)
        bounds = (math.exp(log + sign * reach) for sign in (-1, 1))
        return Prediction(math.exp(log), *bounds, self.basis)

    def ratio(
        self,
        card_a: Card,
        card_b: Card,
        work: Work,
        precision: str,
        *,
        operation: str,
        launches: float = 0,
        case: str = "",
    ) -> Ratio:
        """How many times faster ``card_a`` does the step than ``card_b``.

        Raises:
            UsageError: as `step`.
        """
        (log_a, slope_a), (log_b, slope_b) = (
            self.efficiencies.log_seconds(_asked(card, work, precision, operation, launches, case))
            for card in (card_a, card_b)
        )
        difference = dict(slope_b)
        for effect, weight in slope_a.items():
            difference[effect] = difference.get(effect, 0.0) - weight
        noise = 0.0 if card_a == card_b else 2 * self.efficiencies.noise**2
        reach = REACH * math.sqrt(self.efficiencies.variance(difference) + noise)
        log = log_b - log_a
        bounds = (math.exp(log + sign * reach) for sign in (-1, 1))
        return Ratio(math.exp(log), *bounds, self.basis)

    def estimate(
        self,
        card: Card,
        work: Work,
        precision: str,
        *,
        operation: str,
        launches: float = 0,
        case: str = "",
    ) -> Estimate:
        """Seconds of a step with their errors by cause, so that any ratio has its own interval.

        Of one step on one card the interval is that of `step`, of two cards that of `ratio`.

        Raises:
            UsageError: as `step`.
        """
        asked = _asked(card, work, precision, operation, launches, case)
        log, slope = self.efficiencies.log_seconds(asked)
        errors = self.efficiencies.errors(slope)
        what = case or f"{operation} {precision} {work.flops} {work.bytes} {launches}"
        return Estimate(log, {**errors, f"residue {card.card_id} {what}": self.efficiencies.noise})

    def with_measured(self, rows: Iterable[Mapping[str, Any]]) -> "Predictor":
        """The same with results measured here, on cards of the catalogue, learnt on top.

        ``rows`` are those of `table.load`; what is not ok, not measured, or faster than its card
        can be, is left out.
        """
        observations = measured(rows)
        if not observations:
            return self
        cards = len({observation.card.card_id for observation in observations})
        basis = f"{self.basis} and measured ones of {cards} card{'s' * (cards > 1)}"
        return Predictor(updated(self.efficiencies, observations), basis)


def usable(results: Iterable[Published]) -> list[Observation]:
    """Speeds of one card of the catalogue each.

    What several cards reach together hangs on their links too, of which the model knows nothing.
    """
    known = catalogue()
    found = (
        observation(result, known[result.card_id])
        for result in results
        if result.n_gpus == 1 and result.card_id in known
    )
    return [one for one in found if one is not None]


def measured(rows: Iterable[Mapping[str, Any]]) -> list[Observation]:
    """Observations from rows of result files, the trials of a case on a card as one."""
    del rows
    return []


def _asked(  # the operands of `step`
    card: Card, work: Work, precision: str, operation: str, launches: float, case: str
) -> Observation:
    if operation not in OPERATIONS:
        raise unknown_name("operation", operation, OPERATIONS)
    reason = unsupported_precision(card.capability, precision)
    if reason or precision not in card.peaks:
        raise UsageError(
            reason or f"no {precision} rate of {card.name} is known",
            "ask for another precision; `gpubench list cards` shows what cards have",
        )
    if not work.flops and not work.bytes:
        raise UsageError("a step without work takes no time that could be predicted")
    moved = work.bytes or 0.0
    if operation in LEAST_TRAFFIC:
        least = LEAST_TRAFFIC[operation] * (work.flops or 0.0) * PRECISION_BYTES[precision]
        moved = max(moved, least)
    work = Work(flops=work.flops, bytes=moved)
    return Observation(card, work, precision, operation, launches, series=case)
