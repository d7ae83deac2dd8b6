"""What share of its peaks a card reaches: learnt from results, with its uncertainty.

The logarithm of a time per step is

    level + log(  flops / peak · exp(-c)  +  bytes / bandwidth · exp(-b)
                + elements / cycles · exp(-i)  +  launches · exp(l)  )

where c, b, i and l (log efficiencies and the log time of a launch) and the level are sums of
*effects*: few physical ones (tensor cores, a second FP32 unit, power), and deviations of a
generation, an operation, a source of results, each drawn from a normal distribution around zero
whose width is learnt with them (empirical Bayes). What few results say is thereby held near the
plain sum model, and what none say keeps its full width. Fitted by Gauss-Newton steps; around the
fit everything is linear and normal, so that intervals, ratios and later results come from one
mean and covariance.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gpubench.cards import Card, catalogue
from gpubench.workload import PRECISION_BYTES

if TYPE_CHECKING:
    from gpubench.workload import Work

Array = NDArray[np.float64]
Effect = tuple[str, ...]
#: the weight of each effect in the sums that SIGNS names, and in "level"
Coefficients = dict[str, dict[Effect, float]]

TENSOR, CUDA = "tensor cores", "cuda cores"

# Mean and standard deviation before any result was seen, of the physical effects (logarithms).
PHYSICAL: dict[Effect, tuple[float, float]] = {
    (CUDA,): (math.log(0.85), 0.15),
    (TENSOR,): (math.log(0.75), 0.15),
    # Chips for graphics: their usual card is a GeForce, whose tensor cores add up in FP32 at half
    # their rate, and which therefore holds its clocks, or higher ones, at that rate.
    ("graphics chip",): (0.3, 0.15),
    # GA10x, Ada and GB20x count a second FP32 unit that integers share (NVIDIA's GA102 white
    # paper, 2020, page 12), and that real kernels seldom fill.
    ("second fp32 unit",): (math.log(0.65), 0.2),
    # FP16 without tensor cores: cuDNN and cuBLAS convert, or have no good kernels.
    ("fp16 on cuda cores",): (0.0, 0.2),
    # Boards of one generation reach about the same clock, whatever their reference clock is.
    ("boost",): (0.5, 0.2),
    ("memory",): (math.log(0.85), 0.1),
    ("power",): (0.4, 0.15),
    # Elements that a multiprocessor handles in a cycle outside of products (normalisation, GELU,
    # dropout's random numbers): 128 lanes, some twenty instructions an element.
    ("issue",): (math.log(6.0), 0.5),
    # From Python, with autograd's part; sources that trained small batches tell little more.
    ("launch",): (math.log(8e-6), 0.25),
}
#: the parts of a time, and whether the exponent makes a part shorter or longer
SIGNS = {"compute": -1.0, "bandwidth": -1.0, "issue": -1.0, "launch": 1.0}
# Widths to begin with, of the deviations, and how many results such a guess is worth.
WIDTHS: dict[str, float] = {
    "generation compute": 0.1,
    "generation bandwidth": 0.1,
    "generation operation": 0.08,
    "card compute": 0.06,
    "card bandwidth": 0.06,
    "operation": 0.3,
    "operation compute": 0.2,
    "source": 0.3,
    "program": 0.2,
    "series": 0.3,
    "source launch": 0.5,
    "host launch": 0.4,
    "host": 0.04,
}
GUESS_WORTH = 4.0
# Standard deviations where the work is a guess: of the series' level, and of each result.
GUESSED_LEVEL = 1.5
GUESSED_NOISE = 0.1
NOISE = 0.05
ROUNDS = 10
UPDATES = 12
# In standard deviations. One sound result in eighty lies further off, if errors are normal.
FAR = 2.5
TWO_FP32_UNITS = ("8.6", "8.9", "12.0")
GRAPHICS_CHIPS = ("7.5", "8.6", "8.9", "12.0")
# These only move bytes: nothing is computed with an element that would take time of its own.
STREAMING = ("memory", "reduction", "decode")
# A prediction is of a card of these figures, not of the specimens that somebody measured: so a
# card that is better in every figure is never predicted slower.
OF_ONE_CARD = ("card compute", "card bandwidth", "host", "host launch")
# Two cards asked about would stand in the same machine: its error is one, and cancels in a ratio.
OF_THE_HOST = ("host", "host launch")
OF_ONE_SOURCE = ("program", "source", "series", "guess", "source launch")


@dataclass(frozen=True)
class Observation:
    """A step on a card, with how long it took where that is known.

    Attributes:
        launches: kernels per step.
        source: whose machine and software: results of one source share a level.
        series: the same program, whose results differ by card alone.
        seconds: per step; NaN where it is to be predicted.
        guessed: its work is no more than a guess, so that nothing can be learnt from its level.
    """

    card: Card
    work: "Work"
    precision: str
    operation: str
    launches: float = 0.0
    source: str = "here"
    series: str = ""
    seconds: float = math.nan
    guessed: bool = False


def units_of(card: Card, precision: str) -> str:
    """Whether products in ``precision`` run on tensor cores or on CUDA cores."""
    has_tensor = card.capability >= (8, 0) or card.peaks.get("fp16", 0.0) > 3 * card.peaks["fp32"]
    return TENSOR if has_tensor and precision not in ("fp32", "fp64") else CUDA


@cache
def _usual_flops_per_watt(compute_capability: str, precision: str) -> float:
    """Median over the catalogue's cards of that capability."""
    rates = sorted(
        card.peaks[precision] / card.power_w
        for card in catalogue().values()
        if card.compute_capability == compute_capability and precision in card.peaks
        if not card.own  # a user's card must not move what is said of others
    )
    return rates[len(rates) // 2] if rates else math.inf


@cache
def _usual_clock(compute_capability: str) -> float | None:
    """Median reference clock of the catalogue's cards of that capability, in hertz."""
    clocks = sorted(
        card.boost_clock_hz
        for card in catalogue().values()
        if card.compute_capability == compute_capability and not card.own
    )
    return clocks[len(clocks) // 2] if clocks else None


def power_shortage(card: Card, precision: str) -> float:
    """Logarithm of how many more FLOP/s a watt has to feed than on the generation's usual card."""
    usual = _usual_flops_per_watt(card.compute_capability, precision)
    if not math.isfinite(usual):  # a user's card of a generation that the catalogue lacks
        return 0.0
    return max(0.0, math.log(card.peaks[precision] / card.power_w / usual))


def seconds_at_peak(step: Observation) -> tuple[float, float, float, float]:
    """Seconds of products, of memory traffic, of one element a cycle and multiprocessor; launches.

    What the work leaves unknown is 0.
    """
    card, moved = step.card, step.work.bytes or 0.0
    elements = 0.0 if step.operation in STREAMING else moved / PRECISION_BYTES[step.precision]
    return (
        (step.work.flops or 0.0) / card.peaks[step.precision],
        moved / card.bandwidth,
        elements / (card.sm_count * card.boost_clock_hz),
        step.launches,
    )


def coefficients(step: Observation) -> Coefficients:
    """The effects that act on a step, by the sum that they belong to."""
    card, source, operation = step.card, step.source, step.operation
    generation, units = card.compute_capability, units_of(card, step.precision)
    bandwidth = {
        ("memory",): 1.0,
        ("generation bandwidth", generation): 1.0,
        ("card bandwidth", card.card_id): 1.0,
    }
    launch = {
        ("launch",): 1.0,
        ("source launch", source): 1.0,
        ("host launch", source, card.card_id): 1.0,
    }
    level = {
        ("operation", operation): 1.0,
        ("generation operation", generation, operation): 1.0,
        ("source", source): 1.0,
        ("program", source, operation, units): 1.0,
        ("guess" if step.guessed else "series", source, step.series): 1.0,
        ("host", source, card.card_id): 1.0,
    }
    return {
        "compute": _compute_effects(step, units),
        "bandwidth": bandwidth,
        "issue": {("issue",): 1.0},
        "launch": launch,
        "level": level,
    }


def _compute_effects(step: Observation, units: str) -> dict[Effect, float]:
    """What makes products faster than their peak says (or slower, below zero)."""
    card, generation = step.card, step.card.compute_capability
    own_clock = card.boost_clock_hz
    effects = {
        (units,): 1.0,
        ("operation compute", step.operation, units): 1.0,
        ("generation compute", generation, units): 1.0,
        ("card compute", card.card_id): 1.0,
        ("power",): -power_shortage(card, step.precision),
        ("boost",): math.log((_usual_clock(generation) or own_clock) / own_clock),
    }
    if units == TENSOR and generation in GRAPHICS_CHIPS:
        effects["graphics chip",] = 1.0
    if units == CUDA and generation in TWO_FP32_UNITS:
        effects["second fp32 unit",] = 1.0
    if units == CUDA and step.precision == "fp16":
        effects["fp16 on cuda cores",] = 1.0
    return effects


@dataclass(frozen=True)
class Efficiencies:
    """Mean and covariance of the effects, and the widths they were drawn from."""

    index: Mapping[Effect, int]
    mean: Array
    covariance: Array
    widths: Mapping[str, float]
    noise: float
    noises: Mapping[str, float]

    def prior(self, effect: Effect) -> tuple[float, float]:
        """Mean and standard deviation of an effect that no result spoke of."""
        if effect[0] == "guess":
            return 0.0, GUESSED_LEVEL
        return PHYSICAL.get(effect) or (0.0, self.widths[effect[0]])

    def place(self, effect: Effect) -> int | None:
        """Where its mean stands; None where results can't tell it."""
        return None if effect[0] in OF_ONE_CARD else self.index.get(effect)

    def value(self, effect: Effect) -> float:
        """Its mean."""
        at = self.place(effect)
        return self.prior(effect)[0] if at is None else float(self.mean[at])

    def log_seconds(self, step: Observation) -> tuple[float, dict[Effect, float]]:
        """Logarithm of the time, and its derivative by each effect."""
        sums = coefficients(step)
        totals = {
            name: sum(weight * self.value(effect) for effect, weight in effects.items())
            for name, effects in sums.items()
        }
        compute, memory, elements, launches = seconds_at_peak(step)
        parts = {
            "compute": compute * math.exp(-totals["compute"]),
            "bandwidth": memory * math.exp(-totals["bandwidth"]),
            "issue": elements * math.exp(-totals["issue"]),
            "launch": launches * math.exp(totals["launch"]),
        }
        whole = sum(parts.values())
        gradient = dict(sums["level"])
        for name, part in parts.items():
            for effect, weight in sums[name].items():
                gradient[effect] = SIGNS[name] * part / whole * weight
        return math.log(whole) + totals["level"], gradient

    def noise_of(self, step: Observation) -> float:
        """Variance of one result around what the effects say."""
        own = self.noises.get(step.source, self.noise)
        return own**2 + GUESSED_NOISE**2 * step.guessed

    def variance(self, gradient: Mapping[Effect, float]) -> float:
        """Of a linear combination of effects."""
        known = np.zeros(len(self.mean))
        unseen = 0.0
        for effect, weight in gradient.items():
            at = self.place(effect)
            if at is None:
                unseen += (weight * self.prior(effect)[1]) ** 2
            else:
                known[at] = weight
        return float(known @ self.covariance @ known) + unseen

    def errors(self, gradient: Mapping[Effect, float]) -> dict[str, float]:
        """A linear combination of effects as one of independent causes, each of deviation 1.

        Effects depend on one another since they were learnt together; along the columns of a root
        of the covariance they don't. `variance` is the sum of these squares.
        """
        known = np.zeros(len(self.mean))
        found: dict[str, float] = {}
        for effect, weight in gradient.items():
            at = self.place(effect)
            if at is None:
                cause = " ".join(effect[:2] if effect[0] in OF_THE_HOST else effect)
                found[cause] = weight * self.prior(effect)[1]
            else:
                known[at] = weight
        along = (known @ self._root).tolist()
        return found | {f"learnt {at}": value for at, value in enumerate(along)}

    @cached_property
    def _root(self) -> Array:
        """R with R·Rᵀ the covariance; by eigenvalues, which rounding can't make it refuse."""
        values, vectors = np.linalg.eigh(self.covariance)
        root: Array = vectors * np.sqrt(np.clip(values, 0.0, None))
        return root

    def shared(self) -> "Efficiencies":
        """Without what belongs to single sources, series and cards: all a stranger's step needs."""
        kept = [effect for effect in self.index if effect[0] not in (*OF_ONE_CARD, *OF_ONE_SOURCE)]
        places = [self.index[effect] for effect in kept]
        index = {effect: at for at, effect in enumerate(kept)}
        covariance = self.covariance[np.ix_(places, places)]
        return replace(self, index=index, mean=self.mean[places], covariance=covariance, noises={})

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, rounded beyond what they are good for; the covariance's lower triangle."""
        triangle = self.covariance[np.tril_indices(len(self.mean))]
        return {
            "effects": {
                "/".join(effect): _rounded(self.mean[at]) for effect, at in self.index.items()
            },
            "widths": {name: _rounded(width) for name, width in self.widths.items()},
            "noise": _rounded(self.noise),
            "covariance": [_rounded(value) for value in triangle],
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Efficiencies":
        """What `to_json` made."""
        effects = content["effects"]
        lower = np.zeros((len(effects), len(effects)))
        lower[np.tril_indices(len(effects))] = content["covariance"]
        return cls(
            index={tuple(name.split("/")): at for at, name in enumerate(effects)},
            mean=np.array(list(effects.values())),
            covariance=lower + np.tril(lower, -1).T,
            widths=content["widths"],
            noise=content["noise"],
            noises={},
        )


def _rounded(value: float) -> float:
    return float(f"{value:.7g}")


def fit(observations: Sequence[Observation]) -> Efficiencies:
    """Effects, widths and noise from results alone: from nothing but what is passed."""
    index = _index(observations)
    design = _Design.of(observations, index)
    state = Efficiencies(index, np.zeros(len(index)), np.zeros((0, 0)), dict(WIDTHS), NOISE, {})
    mean = np.array([state.prior(effect)[0] for effect in index])
    state = replace(state, mean=mean)
    for _ in range(ROUNDS):
        prior = np.array([state.prior(effect) for effect in index])
        precision = np.diag(prior[:, 1] ** -2.0)
        state = design.step(state, prior[:, 0], precision, design.noise(state))
        state = _learn_widths(state, design)
    return state


def updated(before: Efficiencies, observations: Sequence[Observation]) -> Efficiencies:
    """The same with further results, few beside those it was fitted to; widths stay as they are.

    A result further than ``FAR`` deviations from everything else that is known, a throttled card's
    perhaps, teaches the less the further it is.
    """
    new = [effect for effect in _index(observations) if effect not in before.index]
    index = {**before.index, **{e: len(before.index) + i for i, e in enumerate(new)}}
    size = len(before.index)
    priors = np.array([before.prior(effect) for effect in new]).reshape(-1, 2)
    mean = np.concatenate([before.mean, priors[:, 0]])
    precision = np.zeros((len(index), len(index)))
    precision[:size, :size] = _inverse(before.covariance)
    precision[range(size, len(index)), range(size, len(index))] = priors[:, 1] ** -2.0
    design = _Design.of(observations, index)
    state = replace(before, index=index, mean=mean, covariance=_inverse(precision))
    noise = design.noise(state)
    for _ in range(UPDATES):
        state = design.step(state, mean, precision, noise)
        noise = design.wider_where_surprised(state, precision, noise)
    return state


def _inverse(matrix: Array) -> Array:
    """Of a symmetric matrix, symmetric to the last digit."""
    inverse: Array = np.linalg.inv(matrix).astype(np.float64)
    return (inverse + inverse.T) / 2


def _index(observations: Sequence[Observation]) -> dict[Effect, int]:
    effects = {
        effect
        for observation in observations
        for group in coefficients(observation).values()
        for effect in group
    }
    return {effect: at for at, effect in enumerate(sorted(effects | set(PHYSICAL)))}


@dataclass(frozen=True)
class _Design:
    """The observations as arrays: a row each, a column an effect."""

    sums: Mapping[str, Array]
    at_peak: Array
    logs: Array
    observations: Sequence[Observation]

    @classmethod
    def of(cls, observations: Sequence[Observation], index: Mapping[Effect, int]) -> "_Design":
        sums = {
            name: np.zeros((len(observations), len(index)))
            for name in ("compute", "bandwidth", "issue", "launch", "level")
        }
        for row, observation in enumerate(observations):
            for name, effects in coefficients(observation).items():
                for effect, weight in effects.items():
                    sums[name][row, index[effect]] = weight
        return cls(
            sums,
            np.array([seconds_at_peak(observation) for observation in observations]),
            np.log([observation.seconds for observation in observations]),
            observations,
        )

    def predicted(self, mean: Array) -> tuple[Array, Array]:
        """Logarithms of seconds, and their derivatives (row, effect)."""
        totals = {name: matrix @ mean for name, matrix in self.sums.items()}
        parts = self.at_peak * np.exp(
            np.stack([sign * totals[name] for name, sign in SIGNS.items()], axis=1)
        )
        whole = parts.sum(axis=1)
        shares = parts / whole[:, None]
        slope = self.sums["level"].copy()
        for at, (name, sign) in enumerate(SIGNS.items()):
            slope += sign * shares[:, at : at + 1] * self.sums[name]
        return np.log(whole) + totals["level"], slope

    def noise(self, state: Efficiencies) -> Array:
        """Each result's variance around what the effects say."""
        return np.array([state.noise_of(one) for one in self.observations])

    def step(
        self, state: Efficiencies, prior: Array, precision: Array, noise: Array
    ) -> Efficiencies:
        """One Gauss-Newton step from ``state`` towards the most probable effects."""
        expected, slope = self.predicted(state.mean)
        weights = 1 / noise
        pull = slope.T @ (weights * (self.logs - expected)) - precision @ (state.mean - prior)
        covariance = _inverse(slope.T @ (weights[:, None] * slope) + precision)
        return replace(state, mean=state.mean + covariance @ pull, covariance=covariance)

    def wider_where_surprised(self, state: Efficiencies, precision: Array, noise: Array) -> Array:
        """Each result's variance given how far it lies from what all others lead one to expect.

        What the others say of a result comes from the fit with it by taking its share out again
        (the usual identities for leaving one row out of a linear fit).
        """
        expected, slope = self.predicted(state.mean)
        covariance = _inverse(slope.T @ (slope / noise[:, None]) + precision)
        spread = ((slope @ covariance) * slope).sum(axis=1)
        kept = 1 - spread / noise
        surprise = (self.logs - expected) / kept
        others = spread / kept
        usual = self.noise(state)
        whole = others + usual
        weight = np.minimum(1.0, FAR**2 * whole / np.maximum(surprise**2, 1e-12))
        wider: Array = np.maximum(whole / weight - others, usual)
        return wider


def _learn_widths(state: Efficiencies, design: _Design) -> Efficiencies:
    """One step of expectation maximisation for the widths and the noise.

    A guess counts as ``GUESS_WORTH`` results, so that no width falls to zero.
    """
    second = state.mean**2 + np.diag(state.covariance)
    widths = {}
    for name, guess in WIDTHS.items():
        own = [at for effect, at in state.index.items() if effect[0] == name]
        total = second[own].sum() + GUESS_WORTH * guess**2
        widths[name] = math.sqrt(total / (len(own) + GUESS_WORTH))
    expected, slope = design.predicted(state.mean)
    spread = ((slope @ state.covariance) * slope).sum(axis=1)
    squares: dict[str, list[float]] = {}
    for one, square in zip(
        design.observations, (design.logs - expected) ** 2 + spread, strict=True
    ):
        if not one.guessed:
            squares.setdefault(one.source, []).append(float(square))
    noises = {
        source: math.sqrt((sum(own) + GUESS_WORTH * NOISE**2) / (len(own) + GUESS_WORTH))
        for source, own in squares.items()
    }
    usual = math.sqrt(sum(noise**2 for noise in noises.values()) / len(noises))
    return replace(state, widths=widths, noise=usual, noises=noises)
