"""Change points over many runs of one machine, and what else changed at each.

A series is one case on one machine, with a value per run. A search proposes where its level
changes, and `compare.judge` decides which of these are changes: what holds between two files
holds here.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from gpubench import render, stats, table
from gpubench.compare import MIN_EFFECT, Judgement, judge, show_speedup
from gpubench.errors import EnvironmentRefused, UsageError
from gpubench.names import case_labels, natural
from gpubench.record import IDENTITY
from gpubench.render import Column
from gpubench.series import SUMMED

#: runs on each side of a change: fewer can't be told from a stray run, nor judged
FEWEST_BESIDE = 3
FEWEST_RUNS = 2 * FEWEST_BESIDE
#: more changes than this in one series are no history to read, and take long to search
MOST_CHANGES = 30
#: The leading term of the modified BIC for change points, per change and in units of
#: variance × log(runs): Zhang and Siegmund 2007, "A modified Bayes information criterion with
#: applications to the analysis of comparative genomic hybridization data". The usual BIC's 2 (Yao
#: 1988) finds changes in a tenth of series without any; docs/method.md has the rates.
PENALTY = 3.0

_Item = TypeVar("_Item")
MACHINE = ("host_hash", "device_uuid_hash", "card_id")
CASE = ("case_id", "cache")
#: what all runs of a series share; new source of a workload begins a new one
SERIES = (*MACHINE, *CASE, *IDENTITY)
#: what may explain a change
FACTS = (
    Column("commit", "commit", lambda commit: _short(str(commit))),
    Column("driver", "driver"),
    Column("torch", "torch"),
    Column("cuda", "CUDA"),
    Column("cudnn", "cuDNN"),
    Column("cupy", "CuPy"),
    Column("python", "Python"),
    Column("os", "system"),
    Column("gpubench_version", "gpubench"),
    Column("power_limit_w", "power limit", lambda watts: f"{watts:g} W"),
    Column("ecc", "error correction", lambda on: "on" if on else "off"),
    Column("threads", "threads", lambda threads: f"{threads:g}"),
    Column("cpu", "processor"),
)
DIRTY = "-dirty"


@dataclass(frozen=True)
class Change:
    """The level changed with run number ``at``, from 0; its ratio is of times, after to before."""

    at: int
    judgement: Judgement


@dataclass(frozen=True)
class History:
    """One case on one machine, its runs in the order of time, and where its level changed.

    Attributes:
        runs: rows of `table.summary`, with the columns of SERIES and FACTS, ``run_id``, ``file``
            and ``started_at``, when the run began.
        changes: in the order of time.
        min_effect: relative difference that was no change.
    """

    runs: list[dict[str, Any]]
    changes: list[Change]
    min_effect: float = MIN_EFFECT

    @property
    def case(self) -> dict[str, Any]:
        """The latest run, which says what the series is."""
        return self.runs[-1]

    @property
    def segments(self) -> list[list[dict[str, Any]]]:
        """The runs between neighbouring changes."""
        return split(self.runs, [change.at for change in self.changes])


# reading ---------------------------------------------------------------------------------------


def histories(
    frame: pd.DataFrame,
    min_effect: float | Callable[[Any], float] = MIN_EFFECT,
    *,
    search: bool = True,
) -> list[History]:
    """Every series of the frame, from `table.load`, that has a result in some run.

    A run counts for a case where all of its trials are ok. Runs that don't say when they began
    have no place in a history and are left out. ``min_effect`` is one for all, or what gives a
    row's own; without ``search`` no changes are looked for.

    Raises:
        EnvironmentRefused: the library that searches is not installed.
    """
    series: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in _results(frame):
        series.setdefault(tuple(str(row[column]) for column in SERIES), []).append(row)
    found = []
    for rows in series.values():
        runs = sorted(rows, key=lambda row: row["started_at"])
        floor = min_effect(runs[-1]) if callable(min_effect) else min_effect
        values = [row["median_s"] for row in runs]
        found.append(History(runs, change_points(values, floor) if search else [], floor))
    return sorted(found, key=_order)


def _order(history: History) -> tuple[Any, ...]:
    case = history.case
    card = (str(case["architecture"]), str(case["card"]), str(case["host_hash"]))
    return (*card, natural(str(case["case_id"])), str(case["cache"]), history.runs[0]["started_at"])


def _results(frame: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """A row per run and case that gave a result."""
    began = frame.groupby("run_id")["started_at"].transform("min")
    frame = frame.assign(started_at=began)[began.notna()]
    # A run may be completed after the software or the machine has changed.
    for _, run in frame.groupby(["run_id", *MACHINE, "torch", "driver"], dropna=False, sort=False):
        good = run[run["status"] == "ok"].drop_duplicates(list(CASE), keep="last")
        columns = [*SERIES, *(fact.key for fact in FACTS), "dirty", "file", "run_id", "started_at"]
        own = {
            (row["case_id"], row["cache"]): row
            for row in table.as_rows(good[list(dict.fromkeys(columns))].reset_index(drop=True))
        }
        for row in table.as_rows(table.summary(run[list(SUMMED)])):
            if row["status"] == "ok":
                facts = own[row["case_id"], row["cache"]]
                commit = f"{facts['commit']}{DIRTY if facts['dirty'] else ''}"
                yield row | facts | {"commit": commit if facts["commit"] else None}


def choose(frame: pd.DataFrame, only: Sequence[str]) -> pd.DataFrame:
    """The rows of cases or workloads that one of the patterns matches; all without any.

    Raises:
        UsageError: there are none.
    """
    if not only:
        return frame

    def wanted(name: object) -> bool:
        return any(name == pattern or fnmatchcase(str(name), pattern) for pattern in only)

    kept = frame[frame[["workload", "case_id"]].map(wanted).any(axis=1)]
    if not len(kept):
        raise UsageError(
            f"--only {' '.join(only)!r} matches no case of these files",
            "`gpubench show --format csv` lists their ids",
        )
    return kept


# searching -------------------------------------------------------------------------------------


def change_points(values: Sequence[float], min_effect: float = MIN_EFFECT) -> list[Change]:
    """Where the level of values, in seconds and in the order of time, changes.

    What the search proposes is judged between the neighbouring segments. As long as one of the
    proposals is no change, the smallest such is dropped, its segments are joined, and all are
    judged again.

    Raises:
        EnvironmentRefused: the library that searches is not installed.
    """
    cuts = propose(values)
    while True:
        judged = [
            Change(at, judge(before, after, min_effect))
            for at, (before, after) in zip(cuts, pairwise(split(values, cuts)), strict=True)
        ]
        doubtful = [one for one in judged if one.judgement.verdict not in ("faster", "slower")]
        if not doubtful:
            return judged
        cuts.remove(min(doubtful, key=_size).at)


def _size(change: Change) -> float:
    ratio = change.judgement.ratio
    return abs(math.log(ratio.estimate)) if ratio else 0.0


def split(items: Sequence[_Item], cuts: Sequence[int]) -> list[list[_Item]]:
    """The items before, between and from the cuts on."""
    return [list(items[begin:end]) for begin, end in pairwise([0, *cuts, len(items)])]


def propose(values: Sequence[float]) -> list[int]:
    """The cuts into segments of constant level that explain the logarithms of the values best.

    They minimise the squares around the segments' means plus PENALTY · variance · log(count) per
    cut: exactly, by dynamic programming. (Pruning, as PELT does, is quicker, and not exact where
    segments have a least length.)

    Raises:
        EnvironmentRefused: the library that searches is not installed.
    """
    count = len(values)
    if count < FEWEST_RUNS:
        return []
    try:
        from ruptures import KernelCPD
    except ModuleNotFoundError as error:
        raise EnvironmentRefused(
            f"finding changes needs {error.name}, which is not installed",
            "`pip install ruptures`; it had no release for Python 3.14 yet: use 3.11 to 3.13",
        ) from error
    logs = np.log(np.asarray(values, dtype=float))
    penalty = PENALTY * noise(logs) ** 2 * math.log(count)
    searched = KernelCPD(kernel="linear", min_size=FEWEST_BESIDE).fit((logs - logs[0])[:, None])
    most = min(count // FEWEST_BESIDE - 1, MOST_CHANGES)
    # The largest number first: it finds the smaller ones on its way.
    found = [[count], *(searched.predict(n_bkps=cuts) for cuts in range(most, 0, -1))]
    best = min(found, key=lambda ends: searched.cost.sum_of_costs(ends) + penalty * len(ends))
    return [int(end) for end in best[:-1]]


def noise(logs: Any) -> float:
    """Standard deviation of the logarithms without their changes of level.

    From the median of the steps between neighbours, of which few are changes: 1.4826 makes it a
    normal distribution's standard deviation, and a step holds the noise of two runs. Where a
    coarse clock makes most steps zero, from their mean.
    """
    steps = np.abs(np.diff(logs))
    return float(1.4826 * (np.median(steps) or np.mean(steps)) / math.sqrt(2))


# saying ----------------------------------------------------------------------------------------


def rows(found: Sequence[History]) -> list[dict[str, Any]]:
    """A row per change; ``speedup`` is above 1 where it got faster, as in a comparison.

    ``latest`` marks the last change of a case that its newest series has.
    """
    newest: dict[tuple[str, ...], Any] = {}
    for history in found:
        last = history.case["started_at"]
        newest[_place(history)] = max(last, newest.get(_place(history), last))
    return [
        _row(history, number)
        | {
            "latest": history.case["started_at"] == newest[_place(history)]
            and number == len(history.changes) - 1
        }
        for history in found
        for number in range(len(history.changes))
    ]


def _place(history: History) -> tuple[str, ...]:
    return tuple(str(history.case[column]) for column in (*MACHINE, *CASE))


def _row(history: History, number: int) -> dict[str, Any]:
    change, case = history.changes[number], history.case
    before, after = history.segments[number : number + 2]
    ratio = change.judgement.ratio
    columns = ("architecture", "card", "provenance", "host_hash", "workload", "params", *CASE)
    return {
        **{column: case[column] for column in columns},
        "started_at": f"{after[0]['started_at']:%Y-%m-%dT%H:%M:%SZ}",
        "file": after[0]["file"],
        "run_id": after[0]["run_id"],
        "baseline_s": stats.geometric_mean([row["median_s"] for row in before]),
        "median_s": stats.geometric_mean([row["median_s"] for row in after]),
        "baseline_runs": len(before),
        "runs": len(after),
        "speedup": 1 / ratio.estimate if ratio else None,
        "speedup_low": 1 / ratio.high if ratio else None,
        "speedup_high": 1 / ratio.low if ratio else None,
        "min_effect": history.min_effect,
        "verdict": change.judgement.verdict,
        "changed": changed(before[-1], after[0]),
    }


def changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Which facts differ between two runs, of those that both know."""
    pairs = {fact.key: [before[fact.key], after[fact.key]] for fact in FACTS}
    return {key: pair for key, pair in pairs.items() if None not in pair and pair[0] != pair[1]}


def in_words(changes: Mapping[str, Sequence[Any]]) -> list[str]:
    """``torch 2.9.0 → 2.13.0`` for each fact that changed."""
    return [
        " → ".join(render.clean(text) for text in (f"{fact.heading} {before}", after))
        for fact in FACTS
        if fact.key in changes
        for before, after in [map(fact.show, changes[fact.key])]
    ]


def _short(commit: str) -> str:
    return commit[:7] + (DIRTY if commit.endswith(DIRTY) else "")


def with_text(found: Sequence[History]) -> list[dict[str, Any]]:
    """The rows of `rows` with the cells that people read."""
    labels = case_labels(history.case for history in found)
    return [
        row
        | {
            "card": table.marked(row["card"], row["provenance"]),
            "case": labels[row["case_id"], row["cache"]],
            "when": row["started_at"][:16].replace("T", " "),
            "machine": render.UNKNOWN if row["host_hash"] is None else row["host_hash"][:6],
            "speedup_text": show_speedup(row),
            "changed_text": ", ".join(in_words(row["changed"])) or "nothing recorded",
        }
        for row in rows(found)
    ]


def columns(changes: Sequence[dict[str, Any]]) -> list[Column]:
    """The columns to show; the machine only where there are several."""
    several = len({row["host_hash"] for row in changes}) > 1
    return [column for column in COLUMNS if several or column.key != "machine"]


COLUMNS = (
    Column("architecture", "architecture", spare=1),
    Column("card", "card"),
    Column("machine", "machine"),
    Column("case", "case"),
    Column("cache", "cache", spare=2),
    Column("when", "when (UTC)"),
    Column("file", "first run after it"),
    Column("baseline_s", "before", render.seconds, right=True, spare=3),
    Column("median_s", "after", render.seconds, right=True, spare=4),
    Column("speedup_text", "speedup [95 %]", right=True),
    Column("verdict", "verdict"),
    Column("changed_text", "what changed there"),
)


def text(found: Sequence[History], form: str) -> str:
    """The changes in one of `render.FORMATS`; a table without any is empty."""
    if form not in ("table", "markdown"):
        return render.rows(rows(found), COLUMNS, form, "history")
    shown = with_text(found)
    if form == "markdown":
        return render.rows(shown, columns(shown), form, "history")
    return table.under_heading(shown, columns(shown)) if shown else ""


def conclusions(found: Sequence[History], frame: pd.DataFrame) -> list[str]:
    """The history in words: how much changed, how much did not, and what could not be judged."""
    long = [history for history in found if len(history.runs) >= FEWEST_RUNS]
    moved = [history for history in long if history.changes]
    verdicts = Counter(change.judgement.verdict for one in moved for change in one.changes)
    kinds = ", ".join(f"{count} {verdict}" for verdict, count in sorted(verdicts.items()))
    steady = [history for history in long if not history.changes]
    lines = [
        f"changes in {render.count(len(moved), 'case')} {_over(moved)}: {kinds}" if moved else None,
        f"{render.count(len(steady), 'case')} without a change {_over(steady)}" if steady else None,
        *_too_short([history for history in found if len(history.runs) < FEWEST_RUNS]),
        _begun_anew(found),
        _undated(frame),
    ]
    return [line for line in lines if line] or ["no case has a result"]


def _over(some: Sequence[History]) -> str:
    lengths = sorted({len(history.runs) for history in some})
    return f"over {' to '.join(map(str, dict.fromkeys((lengths[0], lengths[-1]))))} runs"


def _too_short(short: Sequence[History]) -> list[str]:
    if not short:
        return []
    had = max(len(history.runs) for history in short)
    cases = render.count(len(short), "case")
    needed = f"{FEWEST_RUNS} runs on, {FEWEST_BESIDE} before it and {FEWEST_BESIDE} after"
    lines = [
        f"{cases} with too few runs, {had} at most: a change can be told from {needed}",
    ]
    machines = {str(history.case["host_hash"]) for history in short}
    if len(machines) > 1:
        lines.append(
            f"these are {len(machines)} machines by their hashes; where each run has a fresh home "
            "folder, as in a container, `gpubench run --identify` keeps one machine one"
        )
    return lines


def _begun_anew(found: Sequence[History]) -> str | None:
    where = [key for key in SERIES if not key.startswith("workload_")]
    series = Counter(tuple(str(history.case[key]) for key in where) for history in found)
    anew = sum(count > 1 for count in series.values())
    if not anew:
        return None
    return f"{render.count(anew, 'case')} begun anew where the workload's own source changed"


def _undated(frame: pd.DataFrame) -> str | None:
    undated = frame.groupby("run_id")["started_at"].min().isna().sum() if len(frame) else 0
    return f"left out: {undated} runs that don't say when they began" if undated else None
