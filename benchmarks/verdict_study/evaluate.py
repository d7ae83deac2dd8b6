"""How often is a build called slower than itself, and how often is a real slow-down found?

    python benchmarks/verdict_study/evaluate.py [docs/verdict-study.parquet]

Takes the runs that measure.py kept, splits them in all ways into two sides of five and of ten, and
asks each rule for its verdict on the very same samples: gpubench's, and others in use (these, and
slow-downs, in a tenth or a twentieth of the splits). Beside the splits, which mix the hours, the
runs are compared as users do: one side after the other, and in turns. Writes
docs/verdict-study.json, prints its table as Markdown, and draws docs/verdict-study.svg.
"""

import argparse
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, stdtr
from scipy.stats import mannwhitneyu

from gpubench import compare, stats, table

Array = NDArray[np.float64]
Index = NDArray[np.int64]
Shares = dict[str, float]
Calls = dict[str, tuple[Array, Array]]
BASE, SLOWED = "repeated_product:repeats=100", {3: "103", 10: "110"}
RULES = {
    "gpubench": "gpubench, all cases of the suite together",
    "one_case": "gpubench, each case on its own",
    "t_floor": "t-test on pooled samples, p < 5 %, beyond 1 %",
    "t": "t-test on pooled samples, p < 5 %",
    "rank": "Mann-Whitney on pooled samples, p < 5 %",
}
BATCH = 20_000  # pairs of sides looked at in one go
THRESHOLD = 0.05  # of pytest-benchmark's rules, and of the tests' p-values


@dataclass(frozen=True)
class Samples:
    """All runs of one case, in the order they were measured."""

    runs: list[Array]

    @property
    def median(self) -> Array:
        """Of each run, in seconds."""
        return np.array([float(np.median(run)) for run in self.runs])

    @property
    def min(self) -> Array:
        """Of each run, in seconds."""
        return np.array([float(np.min(run)) for run in self.runs])

    @property
    def mean(self) -> Array:
        """Of each run, in seconds."""
        return np.array([float(np.mean(run)) for run in self.runs])


def read(path: str) -> dict[str, Samples]:
    """Samples by case id; cases that were not measured in every run are left out."""
    frame = table.load([path]).sort_values("started_at", kind="stable")
    runs = list(dict.fromkeys(frame["run_id"]))
    found = {}
    for case, rows in frame.groupby("case_id"):
        by_run = rows.set_index("run_id")["samples_s"]
        if set(by_run.index) == set(runs):
            found[str(case)] = Samples([np.asarray(by_run[run]) for run in runs])
    return found


# sides and pairs of them --------------------------------------------------------------------------


@dataclass(frozen=True)
class Sides:
    """Every choice of ``size`` runs, for some cases (rows): what the rules need to know of it.

    ``logs`` and ``pooled`` are mean and squared standard error: of the runs' logarithmic medians,
    and of all samples put together; ``count`` is of those samples, ``member`` says which runs.
    """

    size: int
    member: Array
    logs: tuple[Array, Array]
    pooled: tuple[Array, Array]
    count: Array

    @classmethod
    def of(cls, cases: list[Samples], size: int) -> "Sides":
        """All of them, in the order of itertools.combinations."""
        runs = len(cases[0].runs)
        chosen = np.array(list(combinations(range(runs), size)))
        member = np.zeros((len(chosen), runs))
        np.put_along_axis(member, chosen, 1.0, axis=1)
        medians = np.log([case.median for case in cases])[:, chosen]
        logs = (medians.mean(axis=2), medians.var(axis=2, ddof=1) / size)

        def added(reduce: Callable[[Array], float]) -> Array:
            return np.array([[reduce(run) for run in case.runs] for case in cases]) @ member.T

        count = added(len)
        mean = added(np.sum) / count
        variance = (added(lambda run: float(np.sum(run**2))) - count * mean**2) / (count - 1)
        return cls(size, member, logs, (mean, variance / count), count)


def pairs(sides: Sides, every: int) -> Iterator[tuple[Index, Index]]:
    """Ordered pairs of sides that share no run, in batches of indices; of ``every``-th sides."""
    runs, size = sides.member.shape[1], sides.size
    bits = 1 << np.arange(runs)
    place_of = np.full(1 << runs, -1, dtype=np.int32)
    masks = (sides.member.astype(int) * bits).sum(axis=1)
    place_of[masks] = np.arange(len(masks))
    places = np.array(list(combinations(range(runs - size), size)))
    first: list[Index] = []
    second: list[Index] = []
    for index in range(0, len(masks), every):
        member = sides.member[index]
        others = place_of[bits[member == 0][places].sum(axis=1)]
        first.append(np.full(len(others), index))
        second.append(others)
        if len(first) * len(others) >= BATCH:
            yield np.concatenate(first), np.concatenate(second)
            first, second = [], []
    if first:
        yield np.concatenate(first), np.concatenate(second)


# rules --------------------------------------------------------------------------------------------


def two_sided(degrees: Array, reach: Array) -> Array:
    """Student's two-sided p-values, where they can be below 5 % at all; 1 elsewhere."""
    chance = np.ones_like(reach)
    close = reach > 1.95
    chance[close] = 2 * stdtr(degrees[close], -reach[close])
    return chance


def gpubench_chance(a: Sides, b: Sides, i: Index, j: Index) -> Array:
    """Signed p-values against the minimum effect: negative where the second side is faster."""
    difference = b.logs[0][:, j] - a.logs[0][:, i]
    errors = a.logs[1][:, i], b.logs[1][:, j]
    total = errors[0] + errors[1]
    degrees = total**2 * (a.size - 1) / (errors[0] ** 2 + errors[1] ** 2)
    beyond = (np.abs(difference) - math.log1p(compare.MIN_EFFECT)) / np.sqrt(total)
    return np.sign(difference) * two_sided(degrees, beyond)


def called(chances: Array) -> Array:
    """+1 slower, -1 faster, 0 neither, each case (row) on its own."""
    return np.where(np.abs(chances) < THRESHOLD, np.sign(chances), 0.0)


def called_together(chances: Array) -> Array:
    """The same for all cases of a comparison, after Benjamini and Hochberg's correction."""
    count = len(chances)
    order = np.argsort(np.abs(chances), axis=0)
    ranked = np.take_along_axis(np.abs(chances), order, axis=0)
    ranked = ranked * count / np.arange(1, count + 1)[:, None]
    adjusted = np.minimum.accumulate(ranked[::-1], axis=0)[::-1]
    back = np.empty_like(adjusted)
    np.put_along_axis(back, order, adjusted, axis=0)
    return np.where(back < compare.FALSE_DISCOVERIES, np.sign(chances), 0.0)


def pooled_chance(a: Sides, b: Sides, i: Index, j: Index, floor: float) -> Array:
    """Signed p-values of Welch's t-test on all samples of a side as if each were independent."""
    difference = b.pooled[0][:, j] - a.pooled[0][:, i]
    errors, counts = (a.pooled[1][:, i], b.pooled[1][:, j]), (a.count[:, i], b.count[:, j])
    total = errors[0] + errors[1]
    degrees = total**2 / sum(e**2 / (n - 1) for e, n in zip(errors, counts, strict=True))
    beyond = (np.abs(difference) - floor * a.pooled[0][:, i]) / np.sqrt(total)
    return np.sign(difference) * two_sided(degrees, beyond)


def rank_wins(firsts: list[Samples], seconds: list[Samples], sides: Sides) -> Array:
    """Mann and Whitney's U of single runs, added up over the runs of each first side."""
    return np.array(
        [
            sides.member
            @ np.array([[mannwhitneyu(y, x).statistic for y in b.runs] for x in a.runs])
            for a, b in zip(firsts, seconds, strict=True)
        ]
    )


def pooled_rank(wins: Array, a: Sides, b: Sides, i: Index, j: Index) -> Array:
    """Mann-Whitney on all samples of a side: U adds up over pairs of runs."""
    beaten = np.einsum("cpr,pr->cp", wins[:, i], b.member[j])
    n1, n2 = a.count[:, i], b.count[:, j]
    z = (beaten - n1 * n2 / 2) / np.sqrt(n1 * n2 * (n1 + n2 + 1) / 12)
    return np.where(2 * ndtr(-np.abs(z)) < THRESHOLD, np.sign(z), 0.0)


# the study ----------------------------------------------------------------------------------------


def calls(firsts: list[Samples], seconds: list[Samples], size: int, every: int) -> Calls:
    """Shares of the splits in which each rule says slower, and faster, case by case.

    The rules of others, which take longer, see a tenth of the batches.
    """
    a, b = Sides.of(firsts, size), Sides.of(seconds, size)
    wins = rank_wins(firsts, seconds, a)
    slower = {rule: np.zeros(len(firsts)) for rule in RULES}
    faster = {rule: np.zeros(len(firsts)) for rule in RULES}
    looked = dict.fromkeys(RULES, 0)
    for number, (i, j) in enumerate(pairs(a, every)):
        chances = gpubench_chance(a, b, i, j)
        verdicts = {"gpubench": called_together(chances), "one_case": called(chances)}
        if number % 10 == 0:
            verdicts |= {
                "t_floor": called(pooled_chance(a, b, i, j, compare.MIN_EFFECT)),
                "t": called(pooled_chance(a, b, i, j, 0.0)),
                "rank": pooled_rank(wins, a, b, i, j),
            }
        for rule, said in verdicts.items():
            slower[rule] += (said > 0).sum(axis=1)
            faster[rule] += (said < 0).sum(axis=1)
            looked[rule] += len(i)
    return {rule: (slower[rule] / looked[rule], faster[rule] / looked[rule]) for rule in RULES}


def found(cases: dict[str, Samples], quick: list[Samples], size: int, per_cent: int) -> Shares:
    """Share of the splits in which a real slow-down is called slower.

    ``gpubench`` judges it among the cases of the quick suite, which are equal on both sides.
    """
    base, slow = cases[BASE], slowed(cases, per_cent)
    shares = calls([base, *quick], [slow, *quick], size, every=20 if size < 10 else 10)
    return {rule: float(slower[0]) for rule, (slower, _) in shares.items()}


def slowed(cases: dict[str, Samples], per_cent: int) -> Samples:
    """The samples of the step that takes ``per_cent`` more."""
    return cases[f"{BASE.partition('=')[0]}={SLOWED[per_cent]}"]


def one_after_the_other(cases: list[Samples], size: int) -> float:
    """Share of comparisons of ``size`` runs with the next ``size`` that are called, as users do."""
    verdicts = [
        compare.judge(list(case.median[k : k + size]), list(case.median[k + size : k + 2 * size]))
        for case in cases
        for k in range(len(case.runs) - 2 * size + 1)
    ]
    return sum(verdict.verdict in ("faster", "slower") for verdict in verdicts) / len(verdicts)


def in_turns(base: Samples, other: Samples, size: int) -> list[str]:
    """Verdicts of `gpubench ab` on neighbouring runs, A B B A …, from each place to begin at.

    Fresh processes on both sides, as there: the n-th pair is of two runs, never of one.
    """
    before, after = base.median, other.median
    verdicts: list[str] = []
    for begin in range(len(before) - 2 * size + 1):
        places = [(begin + 2 * pair, begin + 2 * pair + 1) for pair in range(size)]
        turned = [place if n % 2 == 0 else place[::-1] for n, place in enumerate(places)]
        sides = [before[a] for a, _ in turned], [after[b] for _, b in turned]
        verdicts.append(compare.judge_pairs(*sides).verdict)
    return verdicts


def single_run_rules(
    cases: dict[str, Samples], names: list[str], slow: dict[str, str]
) -> dict[str, float]:
    """pytest-benchmark's rules on one run a side, as they are used: all ordered pairs of runs."""
    shares = {}
    for statistic in ("min", "median", "mean"):
        beyond = []
        for name in names:
            before, after = (
                getattr(cases[which], statistic) for which in (name, slow.get(name, name))
            )
            above = after[None, :] > (1 + THRESHOLD) * before[:, None]
            beyond.append(above[~np.eye(len(before), dtype=bool)].mean())
        shares[f"{statistic}:5%"] = float(np.mean(beyond))
    return shares


def study(path: str) -> dict[str, Any]:
    """Everything that the method page shows."""
    cases = read(path)
    quick = {name: data for name, data in cases.items() if not name.startswith("repeated_product")}
    equal, base = list(quick.values()), cases[BASE]
    result: dict[str, Any] = {
        "runs": len(base.runs),
        "cases": list(quick),
        "spread": {
            name: float(np.std(np.log(data.median), ddof=1)) for name, data in cases.items()
        },
        "min_effect": compare.MIN_EFFECT,
    }
    for size in (5, 10):
        by_case = {
            rule: list(slower + faster)
            for rule, (slower, faster) in calls(equal, equal, size, every=1).items()
        }
        result[f"false_{size}"] = {rule: float(np.mean(shares)) for rule, shares in by_case.items()}
        result[f"false_{size}_by_case"] = by_case
        result[f"false_{size}"]["consecutive"] = one_after_the_other(equal, size)
        turns = [said for case in equal for said in in_turns(case, case, size)]
        result[f"false_{size}"]["in_turns"] = float(
            np.mean([said in ("faster", "slower") for said in turns])
        )
        for per_cent in SLOWED:
            shares = found(cases, equal, size, per_cent)
            said = in_turns(base, slowed(cases, per_cent), size)
            shares["in_turns"] = said.count("slower") / len(said)
            result[f"found_{per_cent}_{size}"] = shares
    result["false_1"] = single_run_rules(cases, list(quick), {})
    for per_cent, repeats in SLOWED.items():
        slow = {BASE: f"{BASE.partition('=')[0]}={repeats}"}
        result[f"found_{per_cent}_1"] = single_run_rules(cases, [BASE], slow)
    return result


def as_markdown(result: dict[str, Any]) -> str:
    """The table of the method page."""
    lines = [
        "| rule | runs a side | false `faster` or `slower` | finds +3 % | finds +10 % |",
        "| --- | --- | --- | --- | --- |",
    ]

    def row(text: str, rule: str, size: int, *, only_false: bool = False) -> str:
        keys = [f"false_{size}", *(f"found_{per_cent}_{size}" for per_cent in SLOWED)]
        cells = [f"{result[key][rule]:.1%}" for key in keys[: 1 if only_false else 3]]
        return f"| {text} | {size} | {' | '.join(cells + ['–'] * (3 - len(cells)))} |"

    for rule, text in RULES.items():
        lines += [row(text, rule, size) for size in (5, 10)]
    for size in (5, 10):
        text = "gpubench, each case on its own, runs one after the other"
        lines.append(row(text, "consecutive", size, only_false=True))
    lines += [row("gpubench, runs in turns (`gpubench ab`)", "in_turns", n) for n in (5, 10)]
    for rule in ("min:5%", "median:5%", "mean:5%"):
        lines.append(row(f"pytest-benchmark `{rule}` (slower only)", rule, 1))
    return "\n".join(lines)


def draw(result: dict[str, Any], path: Path) -> None:
    """False alarms of each case against the spread of its runs, rule by rule."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "gpubench"  # the same file from the same figures
    from matplotlib import pyplot as plt

    spread, by_case, cases = result["spread"], result["false_5_by_case"], result["cases"]
    figure, axes = plt.subplots(figsize=(7.5, 4.2), layout="constrained")
    styles = {"gpubench": ("#0072b2", "o"), "t": ("#d55e00", "s"), "rank": ("#cc79a7", "^")}
    for rule, (colour, marker) in styles.items():
        x = [100 * spread[name] for name in cases]
        y = [100 * value for value in by_case[rule]]
        axes.scatter(x, y, color=colour, marker=marker, label=RULES[rule], alpha=0.8)
    axes.axhline(1, color="#555555", linestyle="--", linewidth=1)
    axes.set_xscale("log")
    ticks = [1, 2, 5, 10, 20, 50]
    axes.set_xticks(ticks, labels=[f"{tick} %" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlim(1, 50)
    axes.set_xlabel("spread of a case between identical runs (standard deviation)")
    axes.set_ylabel("called faster or slower (% of splits, 5 + 5 runs)")
    axes.set_ylim(-2, 102)
    axes.text(48, 3, "1 %", ha="right", color="#555555")
    axes.legend(frameon=False)
    axes.set_title(
        f"{result['runs']} identical runs of the quick suite, split in all ways", loc="left"
    )
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Evaluate, write, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("results", nargs="?", default="docs/verdict-study.parquet")
    arguments = parser.parse_args()
    result = study(arguments.results)
    stem = Path(arguments.results).with_suffix("")
    stem.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    draw(result, stem.with_suffix(".svg"))
    print(as_markdown(result))
    spread = result["spread"]
    print("\nspread between runs (standard deviation of the logarithm):")
    for name, value in sorted(spread.items(), key=lambda pair: pair[1]):
        print(f"  {value:6.2%}  {name}")
    print(f"median {stats.median(list(spread.values())):.2%}")


if __name__ == "__main__":
    main()
