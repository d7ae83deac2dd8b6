"""How far off is a prediction for a card that the model has never seen?

    python benchmarks/validate_prediction.py [FILE.csv …] [--out DIR]

Takes each card in turn out of the published results (the package's, and those of files in the same
format), learns everything again without it, and predicts its results. What a program and its
software cost is common to all cards of a series (one source, workload, precision and mode) and is
learnt from the series' *other* cards, never from the card that is left out. Three baselines get the
same: FLOPs over the dense peak, bytes over the bandwidth, and the larger of both (the plain
roofline), each with one constant per series, the mean over its other cards. Prints tables as
Markdown; without files it also writes docs/prediction.json and draws docs/prediction.svg.
"""

import argparse
import json
import math
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from gpubench import efficiency, evidence
from gpubench.cards import catalogue
from gpubench.efficiency import Observation
from gpubench.errors import GpubenchError
from gpubench.predict import REACH
from gpubench.published import Published, load, published

DOCS = Path(__file__).parents[1] / "docs"
MODELS = ("model", "peak", "bandwidth", "roofline")
TARGETS = {"median": 0.06, "p90": 0.18, "coverage": (0.75, 0.85), "spearman": 0.97}
# Below this many cards in a series an order says nothing.
FEWEST_TO_ORDER = 3


@dataclass(frozen=True)
class Held:
    """A result of a card that was left out, beside what each way of predicting says (log s)."""

    observation: Observation
    predicted: dict[str, float]
    deviation: float

    @property
    def actual(self) -> float:
        """Logarithm of the published seconds."""
        return math.log(self.observation.seconds)

    def error(self, model: str) -> float:
        """Relative, of the predicted time."""
        return abs(math.expm1(self.predicted[model] - self.actual))

    @property
    def covered(self) -> bool:
        """Whether the 80 % interval has it."""
        return abs(self.predicted["model"] - self.actual) <= REACH * self.deviation


def simple(step: Observation) -> dict[str, float]:
    """The baselines' logarithms of seconds, up to a constant."""
    compute, memory, _ = efficiency.seconds_at_peak(step)
    tiny = 1e-30
    return {
        "peak": math.log(max(compute, tiny)),
        "bandwidth": math.log(max(memory, tiny)),
        "roofline": math.log(max(compute, memory)),
    }


def leave_out(observations: Sequence[Observation], card_id: str) -> Iterable[Held]:
    """Everything learnt without the card, and its results predicted: those of shared series."""
    others = [one for one in observations if one.card.card_id != card_id]
    learnt = efficiency.fit(others)
    series = defaultdict(list)
    for one in others:
        series[one.source, one.series].append(one)
    for one in observations:
        same = series.get((one.source, one.series))
        if one.card.card_id != card_id or not same:
            continue
        log, slope = learnt.log_seconds(one)
        deviation = math.sqrt(learnt.variance(slope) + learnt.noise_of(one))
        predicted = {"model": log}
        for name, value in simple(one).items():
            offsets = [math.log(other.seconds) - simple(other)[name] for other in same]
            predicted[name] = value + float(np.mean(offsets))
        yield Held(one, predicted, deviation)


def spearman(rows: Sequence[Held], model: str) -> float:
    """Rank correlation over the cards of a series, the mean over series of three cards or more."""
    series = defaultdict(list)
    for row in rows:
        series[row.observation.source, row.observation.series].append(row)
    found, weights = [], []
    for same in series.values():
        cards = defaultdict(list)
        for row in same:
            cards[row.observation.card.card_id].append((row.predicted[model], row.actual))
        if len(cards) >= FEWEST_TO_ORDER:
            pairs = np.array([np.mean(values, axis=0) for values in cards.values()])
            if len(set(pairs[:, 0])) > 1:
                found.append(float(spearmanr(pairs[:, 0], pairs[:, 1]).statistic))
                weights.append(len(cards))
    return float(np.average(found, weights=weights)) if found else math.nan


def summary(rows: Sequence[Held]) -> dict[str, Any]:
    """Errors of each way over some results."""
    out: dict[str, Any] = {
        "results": len(rows),
        "cards": len({row.observation.card.card_id for row in rows}),
        "coverage": float(np.mean([row.covered for row in rows])),
        "half_width": math.expm1(REACH * float(np.median([row.deviation for row in rows]))),
    }
    for model in MODELS:
        errors = [row.error(model) for row in rows]
        out[model] = {
            "median": float(np.median(errors)),
            "p90": float(np.quantile(errors, 0.9)),
            "spearman": spearman(rows, model),
        }
    return out


def groups(rows: Sequence[Held]) -> list[tuple[str, list[Held]]]:
    """All, by source, by operation."""
    found: list[tuple[str, list[Held]]] = [("all", list(rows))]
    keys: list[Callable[[Held], str]] = [
        lambda row: short(row.observation.source),
        lambda row: row.observation.operation,
    ]
    for key in keys:
        names = dict.fromkeys(key(row) for row in rows)
        found += [(name, [row for row in rows if key(row) == name]) for name in names]
    return found


def short(source: str) -> str:
    """A source without host and revision."""
    return source.partition("/")[2].partition("@")[0] or source


def disagreement(observations: Sequence[Observation]) -> dict[str, Any]:
    """How far results of the same two cards differ: between sources, and within one.

    The ratio of two cards on one network, in training or inference at one precision, as one source
    has it, against the same ratio of another source; and between batch sizes or repetitions of one.
    """
    ratios: dict[tuple[str, ...], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    series = defaultdict(lambda: defaultdict(list))
    for one in observations:
        series[one.source, one.series][one.card.card_id].append(math.log(one.seconds))
    for (source, name), cards in series.items():
        program = " ".join(name.split()[:3])
        for a, b in combinations(sorted(cards), 2):
            value = float(np.mean(cards[a]) - np.mean(cards[b]))
            ratios[program, a, b][source].append(value)
    between = [
        abs(float(np.mean(first)) - float(np.mean(second)))
        for sources in ratios.values()
        for first, second in combinations(sources.values(), 2)
    ]
    within = [
        abs(one - other)
        for cards in series.values()
        for values in cards.values()
        for one, other in combinations(values, 2)
    ]

    def said(values: list[float]) -> dict[str, Any]:
        shares = np.expm1(values)
        return {
            "pairs": len(values),
            "median": float(np.median(shares)) if values else math.nan,
            "p90": float(np.quantile(shares, 0.9)) if values else math.nan,
        }

    return {"between_sources": said(between), "within_source": said(within)}


ONLY = ()


def validate(results: Sequence[Published]) -> tuple[list[Observation], list[Held]]:
    """Each card left out in turn."""
    observations = evidence.from_published(results)
    cards = sorted({one.card.card_id for one in observations})
    held = []
    cards = [c for c in cards if c in ONLY] or cards
    for number, card_id in enumerate(cards, start=1):
        print(f"\rcard {number} of {len(cards)}", end="", file=sys.stderr)
        held += list(leave_out(observations, card_id))
    print(file=sys.stderr)
    return observations, held


def markdown(rows: Sequence[Held]) -> str:
    """The table: median and 90th percentile of the error of each way, order, and coverage."""
    lines = [
        "| results | number | cards | model: median | 90 % | Spearman | 80 % interval has | its "
        "half-width | peak alone | bandwidth alone | roofline |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, some in groups(rows):
        found = summary(some)
        model = found["model"]
        others = " | ".join(
            f"{found[other]['median']:.1%} / {found[other]['p90']:.0%} / "
            f"{found[other]['spearman']:.2f}"
            for other in MODELS[1:]
        )
        lines.append(
            f"| {name} | {found['results']} | {found['cards']} | {model['median']:.1%} | "
            f"{model['p90']:.1%} | {model['spearman']:.2f} | {found['coverage']:.0%} | "
            f"±{found['half_width']:.0%} | {others} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("files", nargs="*", type=Path)
    arguments = parser.parse_args()
    import os

    global ONLY
    ONLY = os.environ.get("ONLY", "").split(",")
    results = list(published())
    for f in arguments.files:
        results += load(f)
    observations, held = validate(results)
    print(markdown(held))
    print(disagreement(observations))
    worst = defaultdict(list)
    for h in held:
        worst[
            h.observation.card.card_id,
            short(h.observation.source),
            h.observation.operation,
            h.observation.precision,
        ].append(h.predicted["model"] - h.actual)
    for k, v in sorted(worst.items()):
        print(*k, len(v), f"{np.mean(v):+.3f} sd {np.std(v):.3f}")


if __name__ == "__main__":
    main()
