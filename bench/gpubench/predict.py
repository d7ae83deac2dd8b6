"""Time per step on a card that is not at hand, with an 80 % interval: a number that is modelled.

The model and what it learnt is `efficiency`; here it is asked. What all cards share (the software,
the kernels' quality) widens a time and cancels in the ratio of two cards; `Predictor.estimate`
keeps errors by cause for that.
"""

import json
import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from gpubench import evidence
from gpubench.cards import ABOVE_PEAK, Card, unsupported_precision
from gpubench.efficiency import Efficiencies, Observation, fit, updated
from gpubench.errors import UsageError, unknown_name
from gpubench.estimate import Estimate
from gpubench.published import Published
from gpubench.workload import Work

SHIPPED = Path(__file__).parent / "data" / "efficiencies.json"
OPERATIONS = (
    *("gemm", "conv2d", "attention", "memory", "reduction", "cnn", "transformer", "decode"),
    *("prefill", "other"),
)
# Beyond an interval's ends by this factor no result is believed: units mixed up, a clock that
# stood still, somebody's joke.
FARTHEST = 5.0
# More results than this add time, not knowledge: every second or third of them does.
MOST_TAUGHT = 300


@dataclass(frozen=True)
class Prediction:
    """Modelled seconds of one step, and the bounds between which 80 % of such fall."""

    seconds: float
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
        """What the package's collection of published results taught; nothing is fitted here."""
        content = json.loads(SHIPPED.read_text(encoding="utf-8"))
        basis = f"{content['results']} published results of {content['cards']} cards"
        return cls(Efficiencies.from_json(content), basis)

    @classmethod
    def of(cls, results: Iterable[Published]) -> "Predictor":
        """Fitted to these results; those of several cards, or of unknown ones, say nothing here."""
        learnt = evidence.from_published(results)
        cards = len({one.card.card_id for one in learnt})
        return cls(fit(learnt), f"{len(learnt)} published results of {cards} cards")

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
        found = self._estimate(asked)
        low = max(found.low, math.exp(log_at_peak(asked)) / ABOVE_PEAK)
        return Prediction(found.value, low, found.high, self.basis)

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
        """The same with its errors by cause: the ratio of two cards has an interval of its own.

        Raises:
            UsageError: as `step`.
        """
        return self._estimate(_asked(card, work, precision, operation, launches, case))

    def _estimate(self, asked: Observation) -> Estimate:
        """As learnt, but not faster than the peak at the reference clock allows."""
        log, slope = self.efficiencies.log_seconds(asked)
        if asked.precision == "tf32":  # which libraries may use, not must
            log = min(log, self.efficiencies.log_seconds(replace(asked, precision="fp32"))[0])
        residue = math.sqrt(self.efficiencies.noise_of(asked))
        what = f"{asked.series} {asked.operation} {asked.precision} {asked.work}"
        errors = self.efficiencies.errors(slope) | {f"residue {asked.card.card_id} {what}": residue}
        return Estimate(max(log, log_at_peak(asked)), errors)

    def with_measured(self, rows: Iterable[Mapping[Hashable, Any]]) -> "Predictor":
        """The same with results measured here, on cards of the catalogue, learnt on top.

        ``rows`` are those of `table.load`; see `evidence.measured` for what is left out.
        """
        return self.with_observations(list(evidence.measured(rows)))

    def with_observations(self, learnt: Sequence[Observation]) -> "Predictor":
        """The same with these learnt on top, but for those too far from what is expected."""
        near = [one for one in learnt if self._may_be(one)]
        if not near:
            return self
        cards = len({one.card.card_id for one in near})
        basis = f"{self.basis} and results measured on {cards} card{'s' * (cards > 1)}"
        if far := len(learnt) - len(near):
            basis += f" ({far} more too far from all expectation)"
        every = math.ceil(len(near) / MOST_TAUGHT)
        return Predictor(updated(self.efficiencies, near[::every]), basis)

    def _may_be(self, one: Observation) -> bool:
        """Whether a result lies within ``FARTHEST`` times the interval of what is expected."""
        found = self._estimate(one)
        return found.low / FARTHEST < one.seconds < FARTHEST * found.high


def log_at_peak(asked: Observation) -> float:
    """Logarithm of the seconds at the whole peak or bandwidth; -∞ where that is no floor.

    Only where every operation is done and every byte moved: fast algorithms spare convolutions a
    part, causal attention skips one, and networks find some bytes in the cache.
    """
    operation = asked.operation
    work, card = asked.work, asked.card
    amounts = {
        "gemm": (work.flops or 0.0) / card.peaks[asked.precision],
        "transformer": (work.flops or 0.0) / card.peaks[asked.precision],
        "memory": (work.bytes or 0.0) / card.bandwidth,
        "reduction": (work.bytes or 0.0) / card.bandwidth,
    }
    seconds = amounts.get(operation, 0.0)
    return math.log(seconds) if seconds else -math.inf


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
    whole = evidence.complete(work, precision, operation)
    return Observation(card, whole, precision, operation, launches, series=case)
