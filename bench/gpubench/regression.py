"""Tests against their saved runs: which became slower, and is that real?

Sides are pytest-benchmark files; a test's independent values are the medians of its processes, as
in `compare`. Nothing here knows pytest.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gpubench import render, stats
from gpubench.compare import (
    MEANING,
    TRIALS_TO_SETTLE,
    VERDICTS,
    Judgement,
    corrected,
    judge,
    withheld,
)
from gpubench.exchange import Benchmark, benchmarks
from gpubench.record import IDENTITY, Record
from gpubench.render import Column

#: what two measurements of a test have to share; its source is what is compared
SHARED = ("card_id", "cache", *(name for name in IDENTITY if not name.startswith("workload_")))
#: what a witness has to share to be the same step on both sides
WITNESS_IDENTITY = ("gpubench_version", "torch", "threads")


@dataclass(frozen=True)
class Test:
    """One test of this run.

    Attributes:
        trials: what each of its processes measured.
        lost: why further processes measured nothing.
        min_effect: relative difference below which two results count as the same.
    """

    name: str
    trials: Sequence[Record]
    lost: Sequence[str] = ()
    min_effect: float = 0.03


@dataclass
class Baseline:
    """Saved runs, pooled by test; ``elsewhere`` says of some why they don't count."""

    saved: dict[str, list[Benchmark]] = field(default_factory=dict)
    elsewhere: dict[str, str] = field(default_factory=dict)


def read(documents: Iterable[tuple[str, Any]], machine: Mapping[str, Any]) -> Baseline:
    """Parsed pytest-benchmark files, by name; those of another ``machine_info`` are set apart.

    Raises:
        UnreadableResult: a file isn't what pytest-benchmark writes.
    """
    found = Baseline()
    for name, document in documents:
        saved = benchmarks(document, name)
        difference = _difference(_identity(document.get("machine_info")), _identity(machine))
        for benchmark in saved:
            if difference:
                found.elsewhere[benchmark.fullname] = f"another machine: {difference}"
            else:
                found.saved.setdefault(benchmark.fullname, []).append(benchmark)
    return found


def _identity(machine: object) -> dict[str, object]:
    """What tells machines apart; clock rates and the like differ from one minute to the next."""
    known = machine if isinstance(machine, Mapping) else {}
    cpu = known.get("cpu")
    processor = cpu if isinstance(cpu, Mapping) else {}
    return {
        **{name: known.get(name) for name in ("node", "system", "machine")},
        "cpu": processor.get("brand_raw"),
        "cpu count": processor.get("count"),
    }


def _difference(old: Mapping[str, object], new: Mapping[str, object]) -> str:
    parts = (f"{name} {old[name]} against {new[name]}" for name in new if old[name] != new[name])
    return "; ".join(parts)


def verdicts(tests: Iterable[Test], baseline: Baseline) -> list[dict[str, Any]]:
    """A row per test: its time on both sides in seconds, their ratio, the verdict and its reason.

    A time is the geometric mean of the processes' medians: the ratio is that of the two. Among many
    tests some differ by chance; those are taken back (Benjamini and Hochberg).
    """
    return corrected([_row(test, baseline) for test in tests])


def _row(test: Test, baseline: Baseline) -> dict[str, Any]:
    saved = baseline.saved.get(test.name, [])
    before = [median for benchmark in saved for median in benchmark.medians_s]
    now = [stats.median(trial.samples_s or ()) for trial in test.trials]
    judgement, detail = _judge(test, baseline, before, now)
    ratio = judgement.ratio
    return {
        "test": test.name,
        "baseline_s": stats.geometric_mean(before) if before else None,
        "median_s": stats.geometric_mean(now),
        "baseline_trials": len(before),
        "trials": len(now),
        "ratio": ratio.estimate if ratio else None,
        "ratio_low": ratio.low if ratio else None,
        "ratio_high": ratio.high if ratio else None,
        "chance": judgement.chance,
        "verdict": judgement.verdict,
        "reason": judgement.reason,
        "detail": detail,
    }


def _judge(
    test: Test, baseline: Baseline, before: Sequence[float], now: Sequence[float]
) -> tuple[Judgement, str]:
    saved = baseline.saved.get(test.name, [])
    if not saved:
        reason = "differs" if test.name in baseline.elsewhere else "one_side_only"
        detail = baseline.elsewhere.get(test.name, "no saved run has this test")
        return Judgement("incomparable", reason), detail
    if not before:
        return Judgement("incomparable", "differs"), "saved by `benchmark`, not `gpu_benchmark`"
    for column in SHARED:
        old = {str(getattr(row, column)) for benchmark in saved for row in benchmark.trials}
        new = {str(getattr(row, column)) for row in test.trials}
        if len(old | new) > 1:
            detail = f"{column} {'/'.join(sorted(old))} against {'/'.join(sorted(new))}"
            return Judgement("incomparable", "differs"), detail
    judgement = judge(before, now, test.min_effect)
    if judgement.verdict in ("faster", "slower"):
        earlier = [trial for benchmark in saved for trial in benchmark.trials]
        judgement, evidence = _confirmed(judgement, (earlier, before), (test.trials, now), test)
        if evidence:
            return judgement, evidence
    # Losing slow trials makes a test look faster, never slower.
    if test.lost and judgement.verdict in ("faster", "same"):
        judgement = withheld(judgement, "failed_trials")
    return judgement, MEANING[judgement.reason]


Side = tuple[Sequence[Record], Sequence[float]]


def _confirmed(
    judgement: Judgement, before: Side, now: Side, test: Test
) -> tuple[Judgement, str | None]:
    """The judgement, withheld if nothing of it is left in units of a step that never changes.

    Saved runs are of another hour, in which a shared machine may have been a fifth faster. What
    changed the witness as well is no change of the test.
    """
    trials = [*before[0], *now[0]]
    steps = ({getattr(trial, name) for trial in trials} for name in WITNESS_IDENTITY)
    if len(before[0]) != len(before[1]) or any(len(found) > 1 for found in steps):
        return judgement, None
    for name in sorted(set.intersection(*(_believable(trial.witness_s) for trial in trials))):
        old, new = (
            [median / trial.witness_s[name] for trial, median in zip(*side, strict=True)]
            for side in (before, now)
        )
        ratio = stats.welch(old, new).interval()
        # By the estimate: asking for the whole interval as well would cost a noisy machine, whose
        # witnesses are as noisy, most of its real findings.
        slowdown = ratio.estimate if judgement.verdict == "slower" else 1 / ratio.estimate
        if slowdown <= 1 + test.min_effect:
            shown = render.ratio(ratio.estimate, ratio.low, ratio.high)
            text = f"{MEANING['machine_changed']}: in units of {name} the ratio is {shown}"
            return withheld(judgement, "machine_changed"), text
    return judgement, None


def _believable(witness_s: Mapping[str, float]) -> set[str]:
    """Names of the witnesses whose times can be; a file may say anything."""
    return {name for name, seconds in witness_s.items() if 0 < seconds < math.inf}


COLUMNS = (
    Column("test", "test"),
    Column("baseline_s", "baseline", render.seconds, right=True),
    Column("median_s", "now", render.seconds, right=True),
    Column("ratio_text", "time ratio [95 %]", right=True),
    Column("trials_text", "trials", right=True),
    Column("verdict", "verdict"),
    Column("detail", "reason"),
)


def text(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as a table for a terminal, the slower ones last, where the eye is."""
    shown = [
        {
            **row,
            "ratio_text": render.ratio(row["ratio"], row["ratio_low"], row["ratio_high"]),
            "trials_text": f"{row['baseline_trials']} + {row['trials']}",
        }
        for row in sorted(rows, key=lambda row: bool(row["verdict"] == "slower"))
    ]
    return render.rows(shown, COLUMNS, "table", "")


def conclusion(rows: Sequence[Mapping[str, Any]]) -> str:
    """How many of each verdict."""
    counts = Counter(row["verdict"] for row in rows)
    return ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS if counts[verdict])


def next_step(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """What to type to settle the inconclusive ones; None when there are none."""
    open_ones = [row for row in rows if row["verdict"] == "inconclusive"]
    if not open_ones:
        return None
    had = max(min(row["baseline_trials"], row["trials"]) for row in open_ones)
    trials = f"--gpubench-trials {max(TRIALS_TO_SETTLE, 2 * had)}"
    return (
        f"to settle the inconclusive ones, save the old code anew with `--benchmark-save=NAME "
        f"{trials}` and check the new with `--gpubench-baseline NAME --gpubench-fail-on slower "
        f"{trials}`"
    )
