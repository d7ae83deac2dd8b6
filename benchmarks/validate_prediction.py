"""How far off is a prediction for a card that the model has never seen?

    python benchmarks/validate_prediction.py [FILE.csv …] [--without TERM]

Takes each card in turn out of the published results (the package's, and those of files in the same
format), learns everything again without it, and predicts its results. What a program and its
software cost is common to all cards of a series (one source, workload, precision and mode) and is
learnt from the series' *other* cards, never from the card that is left out. Three baselines get the
same: FLOPs over the dense peak, bytes over the bandwidth, and the larger of both (the plain
roofline), each with one constant per series, the mean over its other cards. A second table knows
less and takes more: nothing of a source is learnt, and one constant for all of its results is
removed in hindsight. Of files, rows of their own stand first in the table, and what of them can't
be compared is said beforehand. Prints tables as Markdown; without files it also writes
docs/prediction.json and draws docs/prediction.svg.
"""

import argparse
import json
import math
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from gpubench import efficiency, evidence
from gpubench.cards import catalogue
from gpubench.efficiency import Efficiencies, Observation
from gpubench.errors import GpubenchError
from gpubench.estimate import REACH80
from gpubench.published import Published, load, published

DOCS = Path(__file__).parents[1] / "docs"
MODELS = ("model", "peak", "bandwidth", "roofline")
TARGETS = {
    "median": 0.06,
    "p90": 0.18,
    "coverage_from": 0.75,
    "coverage_to": 0.85,
    "spearman": 0.97,
}
# By a pair of names and a third: logarithms of seconds, or of ratios.
Grouped = dict[tuple[str, str], dict[str, list[float]]]
# What is left out together.
Key = Callable[[Observation], str]
# Above this share of launches in the predicted time, the host's speed decides, not the card.
MOST_LAUNCHES = 0.25
# What each term of the model is where it does nothing.
ABSENT = {
    **dict.fromkeys(("power", "boost", "graphics chip", "fp16 on cuda cores"), 0.0),
    "issue": 30.0,
    "launch": -60.0,
}
# Below this many cards in a series an order says nothing.
FEWEST_TO_ORDER = 3


@dataclass(frozen=True)
class Held:
    """A result of a card that was left out, beside what each way of predicting says (log s).

    ``plain`` is the same for whoever knows nothing of the source, up to a constant; ``pairs`` says
    of each other card of the series whether the ratio to it lies in its interval.
    """

    observation: Observation
    predicted: dict[str, float]
    plain: dict[str, float]
    deviation: float
    launch_share: float
    pairs: tuple[bool, ...]

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
        return abs(self.predicted["model"] - self.actual) <= REACH80 * self.deviation


def simple(step: Observation) -> dict[str, float]:
    """The baselines' logarithms of seconds, up to a constant."""
    compute, memory, *_ = efficiency.seconds_at_peak(step)
    tiny = 1e-30
    return {
        "peak": math.log(max(compute, tiny)),
        "bandwidth": math.log(max(memory, tiny)),
        "roofline": math.log(max(compute, memory)),
    }


def leave_out(observations: Sequence[Observation], key: Key, left_out: str) -> Iterator[Held]:
    """Everything learnt without these cards, and their results predicted, of shared series."""
    others = [one for one in observations if key(one) != left_out]
    learnt = efficiency.fit(others)
    stranger = learnt.shared()
    series = defaultdict(list)
    for one in others:
        series[one.source, one.series].append(one)
    for one in observations:
        same = series.get((one.source, one.series))
        if key(one) != left_out or not same:
            continue
        log, slope = learnt.log_seconds(one)
        deviation = math.sqrt(learnt.variance(slope) + learnt.noise_of(one))
        predicted, plain = {"model": log}, {"model": stranger.log_seconds(one)[0]}
        for name, value in simple(one).items():
            offsets = [math.log(other.seconds) - simple(other)[name] for other in same]
            predicted[name], plain[name] = value + float(np.mean(offsets)), value
        pairs = tuple(ratio_covered(learnt, one, other) for other in same)
        yield Held(one, predicted, plain, deviation, slope["launch",], pairs)


def ratio_covered(learnt: Efficiencies, one: Observation, other: Observation) -> bool:
    """Whether the 80 % interval has the ratio of two cards' times; what they share cancels."""
    (log, slope), (other_log, other_slope) = map(learnt.log_seconds, (one, other))
    effects = {*slope, *other_slope}
    between = {effect: slope.get(effect, 0.0) - other_slope.get(effect, 0.0) for effect in effects}
    variance = learnt.variance(between) + learnt.noise_of(one) + learnt.noise_of(other)
    error = log - other_log - math.log(one.seconds / other.seconds)
    return abs(error) <= REACH80 * math.sqrt(variance)


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
    pairs = [covered for row in rows for covered in row.pairs]
    out: dict[str, Any] = {
        "results": len(rows),
        "cards": len({row.observation.card.card_id for row in rows}),
        "coverage": float(np.mean([row.covered for row in rows])),
        "coverage_between": uncertain(rows),
        "pairs": len(pairs),
        "pairs_coverage": float(np.mean(pairs)),
        "half_width": math.expm1(REACH80 * float(np.median([row.deviation for row in rows]))),
    }
    for model in MODELS:
        out[model] = quantiles([row.error(model) for row in rows])
        out[model]["spearman"] = spearman(rows, model)
    return out


def quantiles(errors: Sequence[float]) -> dict[str, float]:
    """The two that targets are about."""
    return {"median": float(np.median(errors)), "p90": float(np.quantile(errors, 0.9))}


def uncertain(rows: Sequence[Held]) -> list[float]:
    """A 95 % interval of the coverage; a card's results in one source depend on one another."""
    blocks = defaultdict(list)
    for row in rows:
        blocks[row.observation.source, row.observation.card.card_id].append(row.covered)
    inside = np.array([[sum(block), len(block)] for block in blocks.values()])
    drawn = np.random.default_rng(0).integers(0, len(inside), (2000, len(inside)))
    sums = inside[drawn].sum(axis=1)
    return [float(end) for end in np.quantile(sums[:, 0] / sums[:, 1], [0.025, 0.975])]


def by_source(rows: Sequence[Held]) -> dict[str, dict[str, Any]]:
    """Errors where nothing of a source is known and one constant is removed from all it has."""
    sources = defaultdict(list)
    for row in rows:
        sources[row.observation.source].append(row)
    names = short(sources)
    errors: Grouped = defaultdict(lambda: defaultdict(list))
    for source, own in sources.items():
        for model in MODELS:
            off = np.array([row.plain[model] - row.actual for row in own])
            left = [float(abs(math.expm1(one))) for one in off - np.median(off)]
            errors["", names[source]][model] = left
            errors["", "all"][model] += left
    return {
        name: {"results": len(found["model"])} | {m: quantiles(found[m]) for m in MODELS}
        for (_, name), found in sorted(errors.items(), key=lambda item: item[0][1] != "all")
    }


def groups(rows: Sequence[Held], given: set[str]) -> list[tuple[str, list[Held]]]:
    """All, by source, by operation; first of the sources ``given``."""
    theirs = [row for row in rows if row.observation.source in given]
    bound = [row for row in rows if row.launch_share < MOST_LAUNCHES]
    names = short({row.observation.source for row in rows})
    found = [
        ("the files given", theirs),
        *(_by(theirs, lambda row: f"the files given: {row.observation.operation}")),
        ("all", list(rows)),
        ("all whose time is the card's", bound),
        ("all that wait for the host", [row for row in rows if row not in bound]),
        *_by(rows, lambda row: names[row.observation.source]),
        *_by(rows, lambda row: row.observation.operation),
    ]
    return [(name, same) for name, same in found if same]


def _by(rows: Sequence[Held], key: Callable[[Held], str]) -> list[tuple[str, list[Held]]]:
    found = defaultdict(list)
    for row in rows:
        found[key(row)].append(row)
    return list(found.items())


def short(sources: Iterable[str]) -> dict[str, str]:
    """Their names without host and revision, but for revisions of one repository."""
    names = {source: repository(source).partition("/")[2] or source for source in sources}
    common = Counter(names.values())
    return {
        source: name if common[name] == 1 else f"{name}@{source.partition('@')[2]}"
        for source, name in names.items()
    }


def repository(source: str) -> str:
    """A source without its revision."""
    return source.partition("@")[0]


def disagreement(observations: Sequence[Observation]) -> dict[str, dict[str, float]]:
    """What the data's own noise allows: how far two results of the same comparison differ.

    ``between_sources``: the ratio of two cards on one network, mode and precision as one source has
    it, against the same ratio of another. ``within_source``: two results of one card, program and
    source (other machines, or other batches).
    """
    series: Grouped = defaultdict(lambda: defaultdict(list))
    for one in observations:
        series[one.source, one.series][one.card.card_id].append(math.log(one.seconds))
    ratios: Grouped = defaultdict(lambda: defaultdict(list))
    within = []
    for (source, name), cards in series.items():
        program = " ".join(name.split()[:3]).replace(" amp", " fp16")
        for a, b in combinations(sorted(cards), 2):
            ratio = float(np.mean(cards[a]) - np.mean(cards[b]))
            ratios[program, f"{a} {b}"][source].append(ratio)
        for values in cards.values():
            within += [abs(one - other) for one, other in combinations(values, 2)]
    between = [
        abs(float(np.mean(first) - np.mean(second)))
        for sources in ratios.values()
        for first, second in combinations(sources.values(), 2)
    ]
    return {
        name: {
            "pairs": len(values),
            "median": float(np.median(np.expm1(values))),
            "p90": float(np.quantile(np.expm1(values), 0.9)),
        }
        for name, values in (("between_sources", between), ("within_source", within))
    }


def validate(observations: Sequence[Observation], key: Key) -> list[Held]:
    """Each card, or whatever ``key`` names, left out in turn."""
    held: list[Held] = []
    names = sorted({key(one) for one in observations})
    for number, left_out in enumerate(names, start=1):
        print(f"[{number}/{len(names)}] without {left_out}", file=sys.stderr)
        held += leave_out(observations, key, left_out)
    return held


def card_of(one: Observation) -> str:
    """What is left out usually."""
    return one.card.card_id


def generation_of(one: Observation) -> str:
    """What a card of a new generation is: nothing like it was ever seen."""
    return one.card.compute_capability


def strangers(observations: Sequence[Observation]) -> dict[str, dict[str, float]]:
    """Absolute times of a source that the model has never seen, and what one measured card changes.

    Nothing of the source is known at first, no constant either; then the results of one of its
    cards, for each in turn, and the others' are predicted. Sources of one card, and work that is no
    more than a guess, are left out.
    """
    found = {}
    for source in sorted({repository(one.source) for one in observations}):
        theirs = [
            one for one in observations if repository(one.source) == source and not one.guessed
        ]
        cards = sorted({one.card.card_id for one in theirs})
        if len(cards) < 2:
            continue
        others = [one for one in observations if repository(one.source) != source]
        blind = efficiency.fit(others).shared()
        before = [_miss(blind, one) for one in theirs]
        after = []
        for card_id in cards:
            given = [one for one in theirs if one.card.card_id == card_id]
            told = efficiency.updated(blind, given)
            after += [_miss(told, one) for one in theirs if one.card.card_id != card_id]
        found[short([source])[source]] = {
            "results": len(theirs),
            "cards": len(cards),
            "median": float(np.median([error for error, _ in before])),
            "coverage": float(np.mean([inside for _, inside in before])),
            "told_median": float(np.median([error for error, _ in after])),
            "told_coverage": float(np.mean([inside for _, inside in after])),
        }
    return found


def _miss(learnt: efficiency.Efficiencies, one: Observation) -> tuple[float, bool]:
    """Relative error of a time, and whether its 80 % interval has it."""
    log, slope = learnt.log_seconds(one)
    off = log - math.log(one.seconds)
    reach = REACH80 * math.sqrt(learnt.variance(slope) + learnt.noise_of(one))
    return abs(math.expm1(off)), abs(off) <= reach


def judged(found: dict[str, Any]) -> str:
    """Which targets a group of results misses."""
    model = found["model"]
    missed = []
    if model["median"] > TARGETS["median"]:
        missed.append("median")
    if model["p90"] > TARGETS["p90"]:
        missed.append("90 %")
    if model["spearman"] < TARGETS["spearman"]:
        missed.append("order")
    if not TARGETS["coverage_from"] <= found["coverage"] <= TARGETS["coverage_to"]:
        missed.append("coverage")
    missed += [f"behind {name}" for name in MODELS[1:] if found[name]["median"] < model["median"]]
    return ", ".join(missed) or "all met"


def markdown(summaries: dict[str, dict[str, Any]]) -> str:
    """The table: errors, order and coverage of the model; errors and order of the baselines."""
    lines = [HEAD, "|" + " --- |" * HEAD.count(" | ") + " --- |"]
    for name, found in summaries.items():
        others = [
            f"{percent(found[other]['median'])} / {percent(found[other]['p90'])} / "
            f"{order(found[other]['spearman'])}"
            for other in MODELS[1:]
        ]
        model = found["model"]
        cells = [
            name,
            f"{found['results']} / {found['cards']}",
            percent(model["median"]),
            percent(model["p90"]),
            order(model["spearman"]),
            "{} [{:.0f}, {:.0f}]".format(
                percent(found["coverage"]), *(100 * end for end in found["coverage_between"])
            ),
            percent(found["pairs_coverage"]),
            f"±{percent(found['half_width'])}",
            *others,
            judged(found),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def constants_table(constants: dict[str, dict[str, Any]]) -> str:
    """Median and 90th percentile of each way, by source."""
    lines = ["| one constant per source | results | " + " | ".join(MODELS) + " |"]
    lines.append("|" + " --- |" * (2 + len(MODELS)))
    for name, found in constants.items():
        cells = [f"{percent(found[m]['median'])} / {percent(found[m]['p90'])}" for m in MODELS]
        lines.append("| " + " | ".join([name, str(found["results"]), *cells]) + " |")
    return "\n".join(lines)


def strangers_table(unseen: dict[str, dict[str, float]]) -> str:
    """What `strangers` found, by source."""
    head = (
        "| source never seen | results / cards | absolute error | in the 80 % interval | "
        "error once one card is measured | in the 80 % interval |"
    )
    lines = [head, "|" + " --- |" * 6]
    for name, row in unseen.items():
        shares = ("median", "coverage", "told_median", "told_coverage")
        cells = [name, f"{row['results']} / {row['cards']}", *(percent(row[s]) for s in shares)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


HEAD = (
    "| results of | results / cards | median error | 90 % below | order | in the 80 % interval | "
    "ratios in theirs | its half-width | peak alone | bandwidth alone | roofline | targets missed |"
)


def percent(value: float) -> str:
    """0.0612 → ``6.1 %``."""
    return f"{100 * value:.1f} %"


def order(value: float) -> str:
    """A rank correlation; a dash where too few cards were compared."""
    return "–" if math.isnan(value) else f"{value:.2f}"


def draw(held: Sequence[Held], path: Path) -> None:
    """Predicted over published time by source, and each way's errors as shares of the results."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "gpubench"  # the same file from the same data
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    by_source = defaultdict(list)
    names = short({row.observation.source for row in held})
    for row in held:
        by_source[names[row.observation.source]].append(row)
    sources = sorted(by_source, key=lambda source: len(by_source[source]))
    for at, source in enumerate(sources):
        ratios = [math.exp(row.predicted["model"] - row.actual) for row in by_source[source]]
        heights = at + np.linspace(-0.3, 0.3, len(ratios))
        left.plot(ratios, heights, "o", ms=2.5, alpha=0.6)
    left.axvline(1, color="black", lw=0.8)
    left.set(xscale="log", xlabel="predicted over published time", title="cards left out")
    left.set_xticks([0.5, 0.7, 1, 1.4, 2], labels=["0.5", "0.7", "1", "1.4", "2"])
    left.minorticks_off()
    left.set_yticks(range(len(sources)), labels=[source.partition("/")[2] for source in sources])
    names = {"model": "this model", "peak": "peak alone", "bandwidth": "bandwidth alone"}
    for model in MODELS:
        errors = sorted(row.error(model) for row in held)
        shares = np.arange(1, len(errors) + 1) / len(errors)
        right.plot(errors, shares, label=names.get(model, model), lw=2 if model == "model" else 1)
    right.set(xscale="log", xlim=(0.005, 3), ylim=(0, 1), xlabel="relative error")
    right.set(ylabel="share of results below", title="against the baselines")
    right.set_xticks([0.01, 0.06, 0.18, 1], labels=["1 %", "6 %", "18 %", "100 %"])
    right.grid(visible=True, alpha=0.3)
    right.legend(fontsize=8, frameon=False)
    figure.savefig(path, metadata={"Date": None})


def given(path: Path) -> list[Published]:
    """The results of a user's file that the package hasn't; says which of them can't be compared.

    Exits where the file can't be read, or nothing of it compared.
    """
    try:
        results = list(load(path))
    except GpubenchError as error:
        sys.exit(f"validate_prediction: {error}\n  → {error.remedy}")
    new = [result for result in results if result not in published()]
    series = defaultdict(set)
    for one in evidence.from_published([*published(), *new]):
        series[one.source, one.series].add(one.card.card_id)
    usable = evidence.from_published(new)
    compared = [one for one in usable if len(series[one.source, one.series]) > 1]
    why = {"known already": len(results) - len(new), **unusable(new)}
    why["no card beside it in its series"] = len(usable) - len(compared)
    said = ", ".join(f"{reason} {count}" for reason, count in why.items() if count)
    print(
        f"{path}: {len(compared)} of {len(results)} results are compared"
        + (f"; not: {said}" if said else ""),
        file=sys.stderr,
    )
    if not compared:
        sys.exit("validate_prediction: nothing to compare; a series needs two cards or more")
    return new


def unusable(results: Sequence[Published]) -> dict[str, int]:
    """How many are of what the model doesn't predict, by the first reason of each."""
    reasons: Counter[str] = Counter()
    for result in results:
        if result.n_gpus > 1:
            reasons["several cards"] += 1
        elif result.card_id not in catalogue():
            reasons[f"a card that the catalogue lacks ({result.card_id})"] += 1
        elif result.rate is None:
            reasons[f"no speed ({result.unit})"] += 1
    return dict(reasons)


def main() -> None:
    """Validate, print, and without files of the user's keep data and figure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("files", nargs="*", type=Path, help="further published results, CSV")
    parser.add_argument("--without", choices=ABSENT, help="leave a term of the model out")
    arguments = parser.parse_args()
    if arguments.without:
        efficiency.PHYSICAL[arguments.without,] = (ABSENT[arguments.without], 1e-6)
    further = [result for path in arguments.files for result in given(path)]
    results = [*published(), *further]
    observations = evidence.from_published(results)
    held = validate(observations, card_of)
    theirs = {result.family for result in further}
    summaries = {name: summary(rows) for name, rows in groups(held, theirs)}
    summaries["all, with their whole generation left out"] = summary(
        validate(observations, generation_of)
    )
    constants = by_source(held)
    noise = disagreement(observations)
    unseen = strangers(observations)
    left_out = unusable(results) | {
        "no card beside it in its series": len(observations) - len(held)
    }
    print(markdown(summaries))
    print(f"\n{constants_table(constants)}")
    print(f"\n{strangers_table(unseen)}")
    print(f"\nleft out: {left_out}\nthe data's own disagreement: {noise}")
    if not further and not arguments.without:
        content = {
            "summaries": summaries,
            "one_constant_per_source": constants,
            "strangers": unseen,
            "disagreement": noise,
            "left_out": left_out,
        }
        text = json.dumps(content, indent=1).replace("NaN", "null")
        (DOCS / "prediction.json").write_text(text + "\n", encoding="utf-8")
        draw(held, DOCS / "prediction.svg")


if __name__ == "__main__":
    main()
