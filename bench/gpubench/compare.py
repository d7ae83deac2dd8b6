"""Is it faster, and is that real? Verdicts that start at "don't know".

The independent unit is the process: each trial gives one median per case, and only the spread
between processes says what a difference is worth. Samples of one process are never pooled as if
they were independent; that is what makes other rules call identical builds different.
"""

from collections import Counter
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, product
from shlex import quote
from typing import Any, Literal, get_args

import pandas as pd

from gpubench import render, stats
from gpubench.errors import UsageError
from gpubench.names import case_labels, natural
from gpubench.record import IDENTITY
from gpubench.render import Column
from gpubench.table import UNIT_LETTERS, is_memory_bound, marked, under_heading

Verdict = Literal["faster", "slower", "same", "inconclusive", "incomparable"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
AXES = ("card", "run", "torch", "driver")
#: what counts as no difference, on a machine whose own noise was never measured
MIN_EFFECT = 0.01
#: what all trials of one side have to share
POOLED = ("torch", "driver", "card_id")
#: two processes may agree by chance, and their spread then says far too little
LEAST_TRIALS = 3
#: trials a side that find a difference of 3 % where processes spread by 1 % (docs/method.md)
TRIALS_TO_SETTLE = 5
#: share of false alarms among the verdicts of one comparison
FALSE_DISCOVERIES = 0.05

MEANING = {
    "above_floor": "the whole interval lies beyond the minimum effect",
    "within_floor": "the whole interval lies within the minimum effect",
    "few_trials": "fewer than three processes on a side don't show how far processes spread",
    "wide_interval": "the interval reaches across the minimum effect: more trials may settle it",
    "no_spread": "all trials of a side are equal to the last digit: a clock too coarse to judge by",
    "many_cases": "clear on its own, but among so many cases one such is to be expected by chance",
    "clocks_differ": "the clocks differ, and clock cycles say something else than the times",
    "machine_changed": "measured by a step that never changes, the machine was not the same",
    "above_peak": "a side is faster than its card can be: a wrong clock, cache or declaration",
    "failed_trials": "a side lost trials, perhaps its slow ones",
    "not_measured": "one side has no ok result",
    "one_side_only": "one side does not have the case at all",
    "differs": "the sides differ in what was measured",
}


@dataclass(frozen=True)
class Judgement:
    """A verdict with its reason code, the interval of the ratio of times, and the odds.

    ``chance`` is the two-sided p-value against a difference within the minimum effect.
    """

    verdict: Verdict
    reason: str
    ratio: stats.Interval | None = None
    chance: float | None = None


def judge(
    baseline: Sequence[float], contender: Sequence[float], min_effect: float = MIN_EFFECT
) -> Judgement:
    """Judge two sides by their processes' medians, in seconds, measured in any order.

    Welch's 95 % interval of the ratio of times has to clear ``min_effect`` as a whole.
    """
    found = stats.welch(baseline, contender)
    if any(len(set(side)) == 1 < len(side) for side in (baseline, contender)):
        return Judgement("inconclusive", "no_spread", found.interval())
    return _judge(found, min(len(baseline), len(contender)), min_effect)


def judge_pairs(
    baseline: Sequence[float], contender: Sequence[float], min_effect: float = MIN_EFFECT
) -> Judgement:
    """Judge two sides whose processes ran in turns, the n-th of one next to the n-th of the other.

    The 95 % interval of the paired ratios of times has to clear ``min_effect`` as a whole.
    """
    found = stats.paired(baseline, contender)
    if not found.logs:
        return Judgement("inconclusive", "few_trials")
    if len(set(found.logs)) == 1 < len(found.logs):
        return Judgement("inconclusive", "no_spread", found.interval())
    return _judge(found, len(baseline), min_effect)


def _judge(
    found: stats.LogRatio | stats.PairedLogRatio, trials: int, min_effect: float
) -> Judgement:
    ratio, chance = found.interval(), found.chance(min_effect)
    if trials < LEAST_TRIALS:
        return Judgement("inconclusive", "few_trials", ratio)
    if ratio.low > 1 + min_effect:
        return Judgement("slower", "above_floor", ratio, chance)
    if ratio.high < 1 / (1 + min_effect):
        return Judgement("faster", "above_floor", ratio, chance)
    if ratio.low >= 1 / (1 + min_effect) and ratio.high <= 1 + min_effect:
        return Judgement("same", "within_floor", ratio, chance)
    return Judgement("inconclusive", "wide_interval", ratio, chance)


def compare(
    frame: pd.DataFrame,
    by: str | None = None,
    baseline: str | None = None,
    min_effect: float | Callable[[Mapping[Hashable, Any]], float] = MIN_EFFECT,
    *,
    paired: bool = False,
    may_differ: Collection[str] = (),
) -> list[dict[str, Any]]:
    """Compare every side with the baseline, case by case.

    Args:
        frame: from `table.load`.
        by: what tells the sides apart: card, run, torch or driver; card where there are several.
        baseline: beginning of the label of the side to compare with; the oldest by default.
        min_effect: relative difference below which two results count as the same, or what gives
            it for a row of the frame (`calibration.Calibration.floor`).
        paired: the sides ran in turns, so that trials of one number are neighbours in time.
        may_differ: columns of `record.IDENTITY` that are themselves what is compared.

    Returns:
        A row per case and side. ``baseline_s`` and ``median_s`` are the geometric means of the
        trials' medians, in seconds, and ``speedup`` is the one over the other; of twelve pairs and
        more both are Hodges and Lehmann's estimates, which agree with each other nearly.

    Raises:
        UsageError: there is one side only, or no side has such a label.
    """
    frame, by = _with_sides(frame, by)
    order = list(frame.groupby("side", sort=False)["started_at"].min().sort_values().index)
    if len(order) < 2:
        raise UsageError(
            f"there is one {by} only, {order[0] if order else 'none'}: nothing to compare it with",
            f"give more files, or another --by ({', '.join(AXES)})",
        )
    chosen = _pick_baseline(order, baseline, by)
    floor = min_effect if callable(min_effect) else lambda _: min_effect
    rule = Rule(floor, paired=paired, may_differ=frozenset(may_differ))
    rows = []
    last = frame.groupby("side")[["architecture", "card", "provenance"]].last()
    card_ids = dict(zip(frame["side"], frame["card_id"], strict=True))
    for _, cases in frame.groupby(["case_id", "cache"], sort=False, dropna=False):
        base = cases[cases["side"] == chosen]
        for side in order:
            other = cases[cases["side"] == side]
            if side != chosen and (len(base) or len(other)):
                where = {
                    "baseline": chosen,
                    "baseline_card_id": card_ids[chosen],
                    "side": side,
                    "card_id": card_ids[side],
                    **last.loc[side].map(str),
                }
                rows.append(_row(base, other, rule) | where)
    return sorted(
        corrected(rows),
        key=lambda row: (row["architecture"], row["card"], row["side"], natural(row["case_id"])),
    )


def _with_sides(frame: pd.DataFrame, by: str | None) -> tuple[pd.DataFrame, str]:
    """The frame with each row's side, and what tells the sides apart."""
    cards = [marked(*pair) for pair in zip(frame["card"], frame["provenance"], strict=True)]
    frame = frame.assign(card=cards)
    by = by or ("card" if len(set(frame["card"])) > 1 else "run")
    return frame.assign(side=labels(frame, by)), by


@dataclass(frozen=True)
class Rule:
    """How two sides of a case are judged; see `compare`."""

    floor: Callable[[Mapping[Hashable, Any]], float]
    paired: bool = False
    may_differ: frozenset[str] = frozenset()

    def judge(self, base: pd.DataFrame, other: pd.DataFrame, factor: str | None) -> Judgement:
        """Judge ok rows by their medians, multiplied by column ``factor`` (clocks give cycles)."""
        min_effect = self.floor(other.iloc[-1].to_dict())
        decide = judge_pairs if self.paired else judge
        return decide(*self.values(base, other, factor), min_effect)

    def values(
        self, base: pd.DataFrame, other: pd.DataFrame, factor: str | None = None
    ) -> tuple[list[float], list[float]]:
        """The independent values of both sides: what a ratio of them is made of."""
        sides = [side.assign(value=_scaled(side, factor)) for side in (base, other)]
        if self.paired:
            both = sides[0].merge(sides[1], on="trial")
            return list(both["value_x"]), list(both["value_y"])
        by_run = any(len(set(side["run_id"])) > 1 for side in sides)
        before, after = (units(side, by_run=by_run) for side in sides)
        return before, after

    def centres(self, base: pd.DataFrame, other: pd.DataFrame) -> list[float | None]:
        """A time of each side, in seconds, such that their ratio is the one that is judged."""
        centre = stats.paired_centre if self.paired else stats.geometric_mean
        values = self.values(base, other)
        # A round without its partner is in no ratio; alone it is still what was measured.
        own = (list(side["median_s"]) for side in (base, other))
        either = (some or alone for some, alone in zip(values, own, strict=True))
        return [centre(some) if some else None for some in either]


def _scaled(side: pd.DataFrame, factor: str | None) -> "pd.Series[float]":
    return side["median_s"] * side[factor] if factor else side["median_s"]


def units(side: pd.DataFrame, *, by_run: bool) -> list[float]:
    """The independent values of a side: one per run where a side has several, else per process.

    Processes of one run share its hour: their spread is less than that between runs, and that
    of two runs says nothing of a third.
    """
    if not by_run:
        return list(side["value"])
    return [stats.geometric_mean(list(values)) for _, values in side.groupby("run_id")["value"]]


def corrected(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Take back what so many looks make likely by chance (Benjamini and Hochberg)."""
    judged = [row for row in rows if row["chance"] is not None]
    adjusted = stats.false_discovery([row["chance"] for row in judged])
    for row, share in zip(judged, adjusted, strict=True):
        row["false_discovery_rate"] = share
        if row["verdict"] in ("faster", "slower") and share > FALSE_DISCOVERIES:
            row |= {"verdict": "inconclusive", "reason": "many_cases"}
            row["detail"] = MEANING["many_cases"]
    return rows


def labels(frame: pd.DataFrame, by: str) -> list[str]:
    """The side each row belongs to, named as people would."""
    if by not in AXES:
        raise UsageError(f"--by {by!r}", f"it is one of {', '.join(AXES)}")
    if by == "run":
        names = [name.removesuffix(".parquet") for name in frame["file"]]
        runs = frame.groupby("file")["run_id"].transform("nunique")
        shards = frame.groupby("run_id")["file"].transform("nunique")
        return [
            f"run {run_id}" if pieces > 1 else f"{name}#{run_id}" if several > 1 else name
            for name, run_id, several, pieces in zip(
                names, frame["run_id"], runs, shards, strict=True
            )
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


def _row(base: pd.DataFrame, other: pd.DataFrame, rule: Rule) -> dict[str, Any]:
    good = [side[side["status"] == "ok"] for side in (base, other)]
    judgement, detail = _judge_sides(base, other, good, rule)
    last = (other if len(other) else base).iloc[-1]
    ratio = judgement.ratio
    baseline_s, median_s = rule.centres(*good)
    return {
        "workload": str(last["workload"]),
        "case_id": str(last["case_id"]),
        "params": last["params"],
        "cache": str(last["cache"]),
        "baseline_s": baseline_s,
        "median_s": median_s,
        "baseline_trials": len(good[0]),
        "trials": len(good[1]),
        # A speedup is the reciprocal of the ratio of times, so its bounds change places.
        "speedup": 1 / ratio.estimate if ratio else None,
        "speedup_low": 1 / ratio.high if ratio else None,
        "speedup_high": (1 / ratio.low if ratio.low else float("inf")) if ratio else None,
        "min_effect": rule.floor(last.to_dict()),
        "chance": judgement.chance,
        "false_discovery_rate": None,
        "verdict": judgement.verdict,
        "reason": judgement.reason,
        "detail": detail,
        "suite": str(last["suite"]),
    }


def _judge_sides(
    base: pd.DataFrame, other: pd.DataFrame, good: Sequence[pd.DataFrame], rule: Rule
) -> tuple[Judgement, str]:
    if refused := _refused(base, other, good, rule):
        return refused
    judgement = rule.judge(good[0], good[1], None)
    suspects = {"faster": [other], "slower": [base], "same": [base, other]}
    lost = [
        ~side["status"].isin(["ok", "unsupported"]) for side in suspects.get(judgement.verdict, [])
    ]
    if any(some.any() for some in lost):
        judgement = withheld(judgement, "failed_trials")
    elif any("above_peak" in flags for ok in good for flags in ok["flags"]):
        judgement = withheld(judgement, "above_peak")
    elif _contradicted_by_cycles(good, judgement, rule):
        judgement = withheld(judgement, "clocks_differ")
    return judgement, MEANING[judgement.reason]


def withheld(judgement: Judgement, reason: str) -> Judgement:
    """No verdict after all; it counts among the looks, and not among the finds."""
    return replace(judgement, verdict="inconclusive", reason=reason, chance=1.0)


def _refused(
    base: pd.DataFrame, other: pd.DataFrame, good: Sequence[pd.DataFrame], rule: Rule
) -> tuple[Judgement, str] | None:
    """What makes a ratio of two sides mean nothing, with the evidence."""
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
        between = values[0] != values[1] and column not in rule.may_differ
        if between or any(len(found) > 1 for found in values):
            text = f"{column} {'/'.join(values[0])} against {'/'.join(values[1])}"
            return Judgement("incomparable", "differs"), text
    return None


def _contradicted_by_cycles(good: Sequence[pd.DataFrame], judgement: Judgement, rule: Rule) -> bool:
    """Whether one card's clock cycles, counted between different clocks, say something else.

    Memory has a clock of its own: what waits for it takes the same time in fewer cycles.
    """
    if judgement.verdict == "inconclusive":
        return False
    cards = {card for ok in good for card in ok["card_id"]}
    clocked = [ok.assign(clock_hz=[_mean(spread) for spread in ok["sm_clock_hz"]]) for ok in good]
    if len(cards) > 1 or any(ok["clock_hz"].isna().any() for ok in clocked):
        return False
    before, after = (stats.median(list(ok["clock_hz"])) for ok in clocked)
    if abs(after / before - 1) <= MIN_EFFECT or is_memory_bound(good[0].iloc[-1].to_dict()):
        return False
    in_cycles = rule.judge(clocked[0], clocked[1], "clock_hz").verdict
    return in_cycles not in ("inconclusive", judgement.verdict)


def _mean(spread: Mapping[str, float] | None) -> float:
    return spread["mean"] if spread else float("nan")


def at_other_times(frame: pd.DataFrame, by: str | None) -> bool:
    """Whether sides of one machine were measured one after the other, not in turns."""
    same = len(set(frame["host_hash"])) == 1 and len(set(frame["card_id"])) == 1
    times = frame.assign(side=labels(frame, by or "run")).groupby("side")["started_at"]
    spans = sorted(zip(times.min(), times.max(), strict=True))
    return same and all(end <= begin for (_, end), (begin, _) in pairwise(spans))


def elsewhere(frame: pd.DataFrame, rows: Sequence[dict[str, Any]], by: str | None) -> list[str]:
    """In words: the sides of another machine than the baseline's, or of another such card.

    ``rows`` are those of `compare`; machines are known by salted hashes, where they are kept.
    """
    if not rows:
        return []
    by_side = _with_sides(frame, by)[0].groupby("side", sort=False)
    sides = {str(side): part for side, part in by_side}
    base = sides.pop(rows[0]["baseline"])
    alike = [side for side in sides if set(sides[side]["card_id"]) == set(base["card_id"])]
    lines = []
    for noun, column, of in (("machine", "host_hash", sides), ("card", "device_uuid_hash", alike)):
        own = _hashes(base, column)
        others = [
            f"{side} (#{' #'.join(found)})"
            for side in of
            if own and (found := _hashes(sides[side], column)) and not set(found) & set(own)
        ]
        if others:
            was = f"another {noun} than the baseline's (#{' #'.join(own)})"
            lines.append(render.clean(f"{was}: {', '.join(others)}"))
    return lines


def _hashes(side: pd.DataFrame, column: str) -> list[str]:
    return sorted({str(text)[:UNIT_LETTERS] for text in side[column] if not render.missing(text)})


def differences(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What differs where nothing can be compared for that, with the number of cases."""
    counts = Counter(row["detail"] for row in rows if row["reason"] == "differs")
    return [
        f"differs in {render.count(number, 'case')}: {render.clean(detail)}"
        for detail, number in counts.items()
    ]


WEAKER_DESIGN = (
    "the sides were measured at different times, which trials can't tell from a change; "
    "`gpubench ab`, which measures them in turns, is the stronger design"
)


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
        f"--suite {suite}{_simulated(open_ones)} --trials {trials}` and compare the new files"
    )


def _simulated(rows: Sequence[dict[str, Any]]) -> str:
    """The device to name where results are simulated: without one, a run would be of this machine.

    How the card was scripted, such as its seed, no result says.
    """
    if any(row["provenance"] != "virtual" for row in rows):
        return ""
    cards = {row[side] for row in rows for side in ("card_id", "baseline_card_id")}
    return f" --device virtual:{quote(render.clean(cards.pop())) if len(cards) == 1 else 'CARD'}"


def show_speedup(row: dict[str, Any]) -> str:
    """The speedup as people read it."""
    return render.ratio(row["speedup"], row["speedup_low"], row["speedup_high"])


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
    Column("architecture", "architecture", spare=2),
    Column("card", "card"),
    Column("side", "side"),
    Column("case", "case"),
    Column("cache", "cache", spare=1),
    Column("baseline_s", "baseline", render.seconds, right=True, spare=3),
    Column("median_s", "time", render.seconds, right=True, spare=4),
    Column("speedup_text", "speedup [95 %]", right=True),
    Column("verdict", "verdict"),
    Column("reason", "reason"),
)


def conclusions(rows: Sequence[dict[str, Any]], why: str = "") -> list[str]:
    """The comparison in words: how many of each verdict, and what to type next.

    ``why`` the baseline is what it is.
    """
    if not rows:
        return ["no case is on two sides"]
    counts = Counter(row["verdict"] for row in rows if worth_showing(row))
    verdicts = (f"{counts[verdict]} {verdict}" for verdict in VERDICTS if counts[verdict])
    # Of several sides a case may lack more than one: it is one case all the same.
    alone, nowhere = set[tuple[str, str]](), set[tuple[str, str]]()
    for row in rows:
        if not worth_showing(row):
            hidden = alone if row["reason"] == "one_side_only" else nowhere
            hidden.add((row["case_id"], row["cache"]))
    lines = [
        f"baseline: {render.clean(rows[0]['baseline'])}{f' ({why})' if why else ''}",
        ", ".join(verdicts),
        f"not shown: {render.count(len(alone), 'case')} that one side lacks" if alone else None,
        f"not shown: {render.count(len(nowhere), 'case')} without a result on either side"
        if nowhere
        else None,
        next_step(rows),
    ]
    return [line for line in lines if line]
