"""What a machine's own noise makes of a verdict: effect floors learnt from runs of one build.

Runs of the same build on the same machine differ only by noise, so every `faster` or `slower`
between two halves of them is a false alarm. The floor of a case is the smallest minimum effect
with which no more than 1 % of such comparisons are called. One file per machine and device is
kept beside the installation's other settings; `compare` uses it by itself. Several runs at
different hours, each counting as one value, teach more than many trials of one that share its.
"""

import json
import math
import os
import random
from collections.abc import Callable, Hashable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from typing import Any

import pandas as pd

from gpubench import plugins, render, stats
from gpubench.compare import MIN_EFFECT, units
from gpubench.errors import CannotWrite, EnvironmentRefused, UsageError
from gpubench.record import IDENTITY
from gpubench.render import Column

Floor = Callable[[Mapping[Hashable, Any]], float]

#: share of the comparisons of a build with itself that may be called
FALSE_ALARMS = 0.01
#: processes of one build below which their splits say little
LEAST_TRIALS = 6
#: processes on a side of a split, the number that `compare` recommends at least
SIDE = 5
#: splits looked at, of up to 92,378 that there are of 20 processes
MOST_SPLITS = 2000
FORMAT = 1
#: what reading a damaged file may raise; of brackets inside brackets a RecursionError
DAMAGED = (
    *(OSError, EnvironmentRefused, RecursionError, ValueError, TypeError, KeyError),
    *(AttributeError, OverflowError),
)


@dataclass(frozen=True)
class Calibration:
    """Effect floors of one device, by case; relative, such as 0.02.

    Attributes:
        host_hash: the machine, as its result files have it.
        card_id: the device.
        cases: the floor of each case (``case_id`` and cache state).
        trials: processes that each floor was learnt from, at least.
        learnt_at: ISO date and time, UTC.
    """

    host_hash: str
    card_id: str
    cases: Mapping[str, float] = field(default_factory=dict)
    trials: int = 0
    learnt_at: str = ""

    def floor(self, row: Mapping[Hashable, Any]) -> float:
        """Minimum effect for a row of `table.load`; the plain one on another machine.

        A case that was not calibrated takes the median floor of its workload, or of them all.
        """
        if (row["host_hash"], row["card_id"]) != (self.host_hash, self.card_id) or not self.cases:
            return MIN_EFFECT
        known = self.cases.get(_key(row))
        if known is not None:
            return known
        kin = [floor for key, floor in self.cases.items() if key.startswith(f"{row['workload']}:")]
        return stats.median(kin or list(self.cases.values()))


def learn(frame: pd.DataFrame) -> Calibration:
    """Learn floors from runs of one build on one machine.

    Raises:
        UsageError: the rows are of several machines, builds or devices, or too few.
    """
    ok = frame[frame["status"] == "ok"]
    for column in ("host_hash", "card_id", "torch", "driver"):
        found = sorted(set(map(str, ok[column])))
        if len(found) > 1:
            raise UsageError(
                f"these runs differ in {column}: {', '.join(found)}",
                "calibrate from runs of one build on one machine: only noise may differ",
            )
    groups = [
        (group, units(group.assign(value=group["median_s"]), by_run=len(set(group["run_id"])) > 1))
        for _, group in ok.groupby(["case_id", "cache", *IDENTITY], dropna=False)
    ]
    groups = [(group, values) for group, values in groups if len(values) >= LEAST_TRIALS]
    if not groups:
        raise UsageError(
            f"no case has {LEAST_TRIALS} processes of one run, or {LEAST_TRIALS} runs: the least "
            "that calibration needs",
            "`gpubench calibrate` without files measures them",
        )
    last = ok.iloc[-1]
    return Calibration(
        host_hash=str(last["host_hash"]),
        card_id=str(last["card_id"]),
        cases={_key(group.iloc[0].to_dict()): floor_of(values) for group, values in groups},
        trials=min(len(values) for _, values in groups),
        learnt_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _key(row: Mapping[Hashable, Any]) -> str:
    return f"{row['case_id']} {row['cache']}"


def floor_of(medians: list[float], side: int = SIDE) -> float:
    """The smallest minimum effect that calls at most 1 % of the splits of these processes.

    Both sides of a split have ``side`` processes, or half of them where there are fewer.
    """
    side = min(side, len(medians) // 2)
    beyond = sorted(_beyond(*split) for split in splits(medians, side))
    allowed = math.floor(FALSE_ALARMS * len(beyond))
    # Just above the largest that is not among the allowed ones, whichever way that is rounded.
    return max(MIN_EFFECT, math.expm1(beyond[len(beyond) - 1 - allowed]) * (1 + 1e-9))


def splits(
    medians: list[float], side: int, most: int = MOST_SPLITS
) -> list[tuple[list[float], list[float]]]:
    """Ways to put ``side`` of the values on each of two sides: all, or a seeded choice."""
    count = len(medians)
    ways = math.comb(count, side) * math.comb(count - side, side)
    if ways <= most:
        return [
            ([medians[i] for i in one], [medians[i] for i in other])
            for one in combinations(range(count), side)
            for other in combinations([i for i in range(count) if i not in one], side)
        ]
    generator = random.Random(0)
    chosen = (generator.sample(medians, 2 * side) for _ in range(most))
    return [(drawn[:side], drawn[side:]) for drawn in chosen]


def _beyond(baseline: list[float], contender: list[float]) -> float:
    """How far from equality the nearer bound of the interval lies, as a logarithm; 0 if inside."""
    ratio = stats.welch(baseline, contender).interval()
    return max(0.0, math.log(ratio.low) if ratio.low > 0 else 0.0, -math.log(ratio.high))


def keep(calibration: Calibration) -> Path:
    """Write a calibration where `kept` finds it.

    Raises:
        CannotWrite: no space or no permission.
        EnvironmentRefused: this user has no home.
    """
    remedy = "set XDG_CONFIG_HOME to a folder that can be written"
    try:
        path = _path(calibration.host_hash, calibration.card_id)
    except RuntimeError as error:  # this user has no home
        raise CannotWrite(f"a calibration has no place: {error}", remedy) from error
    content = {"calibration_format": FORMAT} | asdict(calibration)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise CannotWrite(f"{path}: {error.strerror}", remedy) from error
    return path


def kept(host_hash: str, card_id: str) -> Calibration | None:
    """The calibration of a device; None where there is none that can be read."""
    try:
        content = json.loads(_path(host_hash, card_id).read_text(encoding="utf-8"))
        if content.pop("calibration_format") != FORMAT:
            return None
        found = Calibration(**content)
        cases = {str(case): max(MIN_EFFECT, float(floor)) for case, floor in found.cases.items()}
        trials = int(found.trials)
    except DAMAGED:
        return None
    if not all(map(math.isfinite, cases.values())):
        return None
    return Calibration(host_hash, card_id, cases, trials, str(found.learnt_at))


def floor_for(frame: pd.DataFrame, given: float | None) -> tuple[Floor, str]:
    """The minimum effect to judge a frame's rows by, and where it comes from in words.

    What the user gave; else what was learnt of the one device that the frame is about; else the
    plain one.
    """
    if given is not None:
        return (lambda _: given), f"minimum effect: {given:.3g}, as given"
    devices = set(zip(map(str, frame["host_hash"]), map(str, frame["card_id"]), strict=True))
    if len(devices) != 1:
        return (lambda _: MIN_EFFECT), f"minimum effect: {MIN_EFFECT:.0%}"
    (device,) = devices
    found = kept(*device)
    if found is None or not found.cases:
        advice = "; `gpubench calibrate` learns this machine's own"
        return (lambda _: MIN_EFFECT), f"minimum effect: {MIN_EFFECT:.0%}{advice}"
    least, most = min(found.cases.values()), max(found.cases.values())
    return found.floor, (
        f"minimum effect: {least:.1%} to {most:.1%} by case, learnt from {found.trials} processes "
        f"of this machine on {found.learnt_at[:10]}"
    )


def text(calibration: Calibration, form: str) -> str:
    """The floors in one of `render.FORMATS`."""
    rows = [
        {"case": case, "min_effect": floor} for case, floor in sorted(calibration.cases.items())
    ]
    columns = (
        Column("case", "case"),
        Column("min_effect", "minimum effect", lambda floor: f"{floor:.1%}", right=True),
    )
    return render.rows(rows, columns, form, "calibration")


def _path(host_hash: str, card_id: str) -> Path:
    # Both may come from a stranger's file: nothing of them may leave the folder.
    name = "".join(c if c.isalnum() or c == "-" else "_" for c in f"{host_hash}-{card_id}")
    return plugins.settings() / f"calibration-{name[:120]}.json"
