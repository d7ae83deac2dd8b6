"""Is it faster, and is that real? Verdicts that start at "don't know".

The independent unit is the process: each trial gives one median per case, and only the spread
between processes says what a difference is worth. Samples of one process are never pooled as if
they were independent; that is what makes other rules call identical builds different.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from shlex import quote
from typing import Any, Literal, get_args

import pandas as pd

from gpubench import render, stats
from gpubench.errors import UsageError
from gpubench.names import case_labels, natural
from gpubench.render import Column
from gpubench.table import marked, under_heading

Verdict = Literal["faster", "slower", "same", "inconclusive", "incomparable"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
AXES = ("card", "run", "torch", "driver")
MIN_EFFECT = 0.01
#: what two results have to share before a ratio of them means anything
IDENTITY = ("workload_version", "workload_hash", "timer", "provenance")
#: what all trials of one side have to share
POOLED = ("torch", "driver", "card_id")
#: trials a side that find a difference of 3 % where processes spread by 1 % (docs/method.md)
TRIALS_TO_SETTLE = 5

MEANING = {
    "above_floor": "the whole interval lies beyond the minimum effect",
    "within_floor": "the whole interval lies within the minimum effect",
    "single_trial": "one process on a side says nothing about the spread between processes",
    "wide_interval": "the interval reaches across the minimum effect: more trials may settle it",
    "no_spread": "all trials of a side are equal to the last digit: a clock too coarse to judge by",
    "failed_trials": "a side lost trials, perhaps its slow ones",
    "not_measured": "one side has no ok result",
    "one_side_only": "one side does not have the case at all",
    "differs": "the sides differ in what was measured",
}


@dataclass(frozen=True)
class Judgement:
    """A verdict with its reason code, and the interval of the ratio of times behind it."""

    verdict: Verdict
    reason: str
    ratio: stats.Interval | None = None


def judge(
    baseline: Sequence[float], contender: Sequence[float], min_effect: float = MIN_EFFECT
) -> Judgement:
    """Judge two sides by their processes' medians, in seconds.

    Welch's 95 % interval of the ratio of times has to clear ``min_effect`` as a whole.
    """
    ratio = stats.ratio_interval(baseline, contender)
    if min(len(baseline), len(contender)) < 2:
        return Judgement("inconclusive", "single_trial", ratio)
    if any(len(set(side)) == 1 for side in (baseline, contender)):
        return Judgement("inconclusive", "no_spread", ratio)
    if ratio.low > 1 + min_effect:
        return Judgement("slower", "above_floor", ratio)
    if ratio.high < 1 / (1 + min_effect):
        return Judgement("faster", "above_floor", ratio)
    if ratio.low >= 1 / (1 + min_effect) and ratio.high <= 1 + min_effect:
        return Judgement("same", "within_floor", ratio)
    return Judgement("inconclusive", "wide_interval", ratio)


def compare(
    frame: pd.DataFrame,
    by: str | None = None,
    baseline: str | None = None,
    min_effect: float = MIN_EFFECT,
) -> list[dict[str, Any]]:
    """Compare every side with the baseline, case by case.

    Args:
        frame: from `table.load`.
        by: what tells the sides apart: card, run, torch or driver; card where there are several.
        baseline: beginning of the label of the side to compare with; the oldest by default.
        min_effect: relative difference below which two results count as the same.

    Raises:
        UsageError: there is one side only, or no side has such a label.
    """
    cards = [marked(*pair) for pair in zip(frame["card"], frame["provenance"], strict=True)]
    frame = frame.assign(card=cards)
    by = by or ("card" if len(set(frame["card"])) > 1 else "run")
    frame = frame.assign(side=labels(frame, by))
    order = list(frame.groupby("side", sort=False)["started_at"].min().sort_values().index)
    if len(order) < 2:
        raise UsageError(
            f"there is one {by} only, {order[0] if order else 'none'}: nothing to compare it with",
            f"give more files, or another --by ({', '.join(AXES)})",
        )
    chosen = _pick_baseline(order, baseline, by)
    rows = []
    last = frame.groupby("side")[["architecture", "card", "provenance"]].last()
    for _, cases in frame.groupby(["case_id", "cache"], sort=False, dropna=False):
        base = cases[cases["side"] == chosen]
        for side in order:
            other = cases[cases["side"] == side]
            if side != chosen and (len(base) or len(other)):
                where = {"baseline": chosen, "side": side, **last.loc[side].map(str)}
                rows.append(_row(base, other, min_effect) | where)
    return sorted(
        rows,
        key=lambda row: (row["architecture"], row["card"], row["side"], natural(row["case_id"])),
    )


def labels(frame: pd.DataFrame, by: str) -> list[str]:
    """The side each row belongs to, named as people would."""
    if by not in AXES:
        raise UsageError(f"--by {by!r}", f"it is one of {', '.join(AXES)}")
    if by == "run":
        names = [name.removesuffix(".parquet") for name in frame["file"]]
        shared = frame.groupby("file")["run_id"].transform("nunique") > 1
        return [
            f"{name}#{run_id}" if several else name
            for name, run_id, several in zip(names, frame["run_id"], shared, strict=True)
        ]
    return [f"{by} unknown" if render.missing(value) else str(value) for value in frame[by]]


def _pick_baseline(order: Sequence[str], wanted: str | None, by: str) -> str:
    if wanted is None:
        return order[0]
    wanted = wanted.rsplit("/", 1)[-1].removesuffix(".parquet")
    matches = [label for label in order if label == wanted] or [
        label for label in order if label.casefold().startswith(wanted.casefold())
    ]
    if len(matches) != 1:
        problem = "matches several" if matches else "is not there"
        raise UsageError(
            f"--baseline {wanted!r}: such a {by} {problem}", f"there are: {'; '.join(order)}"
        )
    return matches[0]


def _row(base: pd.DataFrame, other: pd.DataFrame, min_effect: float) -> dict[str, Any]:
    good = [side[side["status"] == "ok"] for side in (base, other)]
    judgement, detail = _judge_sides(base, other, good, min_effect)
    last = (other if len(other) else base).iloc[-1]
    ratio = judgement.ratio
    return {
        "workload": str(last["workload"]),
        "case_id": str(last["case_id"]),
        "params": last["params"],
        "cache": str(last["cache"]),
        "baseline_s": stats.median(list(good[0]["median_s"])) if len(good[0]) else None,
        "median_s": stats.median(list(good[1]["median_s"])) if len(good[1]) else None,
        "baseline_trials": len(good[0]),
        "trials": len(good[1]),
        # A speedup is the reciprocal of the ratio of times, so its bounds change places.
        "speedup": 1 / ratio.estimate if ratio else None,
        "speedup_low": 1 / ratio.high if ratio else None,
        "speedup_high": (1 / ratio.low if ratio.low else float("inf")) if ratio else None,
        "verdict": judgement.verdict,
        "reason": judgement.reason,
        "detail": detail,
        "suite": str(last["suite"]),
    }


def _judge_sides(
    base: pd.DataFrame, other: pd.DataFrame, good: Sequence[pd.DataFrame], min_effect: float
) -> tuple[Judgement, str]:
    for side, ok in zip((base, other), good, strict=True):
        if not len(side):
            which = "baseline" if side is base else "other side"
            return Judgement("incomparable", "one_side_only"), f"the {which} has no such case"
        if not len(ok):
            last = side.iloc[-1]
            text = f"{last['status']}: {last['reason']}"
            return Judgement("incomparable", "not_measured"), text
    for column, ok in product(POOLED, good):
        found = sorted(set(map(str, ok.get(column, []))))
        if len(found) > 1:
            text = f"one side pools {column} {' and '.join(found)}"
            return Judgement("incomparable", "differs"), text
    for column in IDENTITY:
        values = [sorted(set(map(str, ok[column]))) for ok in good]
        if values[0] != values[1] or len(values[0]) > 1:
            text = f"{column} {'/'.join(values[0])} against {'/'.join(values[1])}"
            return Judgement("incomparable", "differs"), text
    judgement = judge(list(good[0]["median_s"]), list(good[1]["median_s"]), min_effect)
    suspects = {"faster": [other], "slower": [base], "same": [base, other]}
    lost = [
        ~side["status"].isin(["ok", "unsupported"]) for side in suspects.get(judgement.verdict, [])
    ]
    if any(some.any() for some in lost):
        judgement = Judgement("inconclusive", "failed_trials", judgement.ratio)
    return judgement, MEANING[judgement.reason]


def next_step(rows: Sequence[dict[str, Any]]) -> str | None:
    """What to type to settle what is inconclusive; None when all is settled."""
    open_ones = [row for row in rows if row["verdict"] == "inconclusive"]
    if not open_ones:
        return None
    had = max(min(row["baseline_trials"], row["trials"]) for row in open_ones)
    trials = max(TRIALS_TO_SETTLE, 2 * had)
    suite = quote(render.clean(open_ones[0]["suite"]))  # a stranger's file may say anything
    return (
        f"to settle the inconclusive ones, measure each side with `gpubench run "
        f"--suite {suite} --trials {trials}` and compare the new files"
    )


def show_speedup(row: dict[str, Any]) -> str:
    """``1.230 [1.200, 1.260]``, or ``[?]`` where the interval is unknown."""
    if row["speedup"] is None:
        return render.UNKNOWN
    bounded = row["speedup_low"] > 0 and row["speedup_high"] < float("inf")
    bounds = f"{row['speedup_low']:.3f}, {row['speedup_high']:.3f}" if bounded else "?"
    return f"{row['speedup']:.3f} [{bounds}]"


def with_text(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows worth showing, with the cells that people read: short names, speedups in words."""
    labels = case_labels(rows)
    return [
        row | {"case": labels[row["case_id"], row["cache"]], "speedup_text": show_speedup(row)}
        for row in rows
        if worth_showing(row)
    ]


def text(rows: Sequence[dict[str, Any]], form: str) -> str:
    """Rows of a comparison in one of `render.FORMATS`."""
    if form not in ("table", "markdown"):
        return render.rows(rows, COLUMNS, form, "comparison")
    shown = with_text(rows)
    if form == "markdown":
        return render.rows(shown, COLUMNS, form, "comparison")
    if len({row["side"] for row in shown}) > 1:
        return under_heading(shown, COLUMNS)
    columns = [column for column in COLUMNS if column.key != "side"]
    sides = "".join(f"{row['side']}\n  against {row['baseline']}\n\n" for row in shown[:1])
    return render.clean_lines(sides) + under_heading(shown, columns)


def worth_showing(row: dict[str, Any]) -> bool:
    """Whether a row says something: both sides have the case, and one of them a result."""
    if row["reason"] == "one_side_only":
        return False
    return row["baseline_s"] is not None or row["median_s"] is not None


COLUMNS = (
    Column("architecture", "architecture"),
    Column("card", "card"),
    Column("side", "side"),
    Column("case", "case"),
    Column("cache", "cache"),
    Column("baseline_s", "baseline", render.seconds, right=True),
    Column("median_s", "median", render.seconds, right=True),
    Column("speedup_text", "speedup [95 %]", right=True),
    Column("verdict", "verdict"),
    Column("reason", "reason"),
)


def conclusions(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The comparison in words: how many of each verdict, and what to type next."""
    if not rows:
        return ["no case is on two sides"]
    counts = Counter(row["verdict"] for row in rows if worth_showing(row))
    verdicts = (f"{counts[verdict]} {verdict}" for verdict in VERDICTS if counts[verdict])
    alone = sum(row["reason"] == "one_side_only" for row in rows)
    nowhere = len(rows) - alone - counts.total()
    lines = [
        f"baseline: {render.clean(rows[0]['baseline'])}",
        ", ".join(verdicts),
        f"not shown: {alone} cases that one side lacks" if alone else None,
        f"not shown: {nowhere} cases without a result on either side" if nowhere else None,
        next_step(rows),
    ]
    return [line for line in lines if line]
