"""Two sides in turn, A B B A, each round a fresh process; the pairs are judged.

Conditions move: a neighbour comes, a card warms up. What is measured right after each other
shares them, so the ratio within a pair keeps the difference of the sides and little else, and the
mirrored order takes a steady drift out of two pairs together.
"""

import math
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

from gpubench import compare, store, table
from gpubench.errors import (
    EXIT_CASE_FAILED,
    EXIT_DONE,
    EXIT_INTERRUPTED,
    EXIT_USAGE,
    EnvironmentRefused,
    UsageError,
)
from gpubench.record import FAILURES, Record
from gpubench.sides import MAY_DIFFER, Side, is_of_gpubench, made_ready, suite_of

#: reasons of `inconclusive` that more pairs may end
SETTLED_BY_PAIRS = ("wide_interval", "few_trials", "many_cases")


@dataclass(frozen=True)
class Request:
    """What to set against each other, and how.

    Attributes:
        given: A, the baseline, and B, as `sides.kind_of` takes them.
        suite: a name or a file; None is `quick`, or of files what both define.
        pairs: rounds a side.
        budget_s: seconds for everything; no pair is begun that would not fit.
        output: folder of the two files that are kept.
    """

    given: tuple[str, str]
    suite: str | None = None
    device: str = "auto"
    only: Sequence[str] = ()
    skip: Sequence[str] = ()
    pairs: int = 12
    budget_s: float | None = None
    output: str = "results"


@contextmanager
def opened(request: Request) -> Iterator["Interleaved"]:
    """A comparison that is ready to begin; at the end everything but its two files is removed.

    Raises:
        UsageError, EnvironmentRefused: as `sides.made_ready` says, or there is no suite for it.
    """
    if Path(request.output).suffix == ".parquet" or Path(request.output).is_file():
        raise UsageError(f"-o {request.output} is not a folder", "two files are kept: give -o DIR")
    try:
        temporary = TemporaryDirectory(prefix="gpubench-ab-", ignore_cleanup_errors=True)
    except OSError as error:
        raise EnvironmentRefused(
            f"there is no temporary folder: {error}", "let TMPDIR name one that can be written"
        ) from error
    with temporary as name:
        folder = Path(name)
        with made_ready(request.given, folder) as sides:
            flags = ["--suite", _suite(request, sides[0].kind, folder), "--device", request.device]
            for flag, patterns in (("--only", request.only), ("--skip", request.skip)):
                for pattern in patterns:
                    flags += [flag, pattern]
            yield Interleaved(request, sides, flags, folder)


def _suite(request: Request, kind: str, folder: Path) -> str:
    """The suite's name, or its file: the same for both, whatever a commit has in its place."""
    if request.suite is not None:
        is_path = request.suite.endswith(".toml")
        return str(Path(request.suite).absolute()) if is_path else request.suite
    if kind == "file":
        return str(suite_of(request.given, folder))
    if kind == "commit" and not is_of_gpubench():
        raise UsageError(
            "this checkout is not gpubench's: the suite quick measures nothing of it",
            "give --suite with a suite of its workloads, by name or as FILE.toml",
        )
    return "quick"


@dataclass(frozen=True)
class Began:
    """A round has begun; ``left_s`` is the expected time to the end, None while it is unknown."""

    pair: int
    side: Side
    left_s: float | None


@dataclass
class Interleaved:
    """A comparison in progress; iterating runs the rounds, and a pair is on disk when it ends.

    Attributes:
        sides: A, the baseline, and B.
        flags: of each round's `gpubench run`.
        folder: for the files of single rounds.
        pairs_done: how many pairs the files hold.
        failures: rows that should have worked and did not, with the label of their side.
    """

    request: Request
    sides: tuple[Side, Side]
    flags: Sequence[str]
    folder: Path
    pairs_done: int = 0
    failures: list[tuple[str, Record]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Name the files; nothing is written before the first pair is whole."""
        stamp = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
        self.paths = {
            side.name: Path(self.request.output) / f"ab-{stamp}-{side.name.lower()}.parquet"
            for side in self.sides
        }
        self._run_ids = {side.name: uuid4().hex[:12] for side in self.sides}
        self._writers: dict[str, store.Writer] = {}
        self._held = ExitStack()

    def __iter__(self) -> Iterator[Began]:
        """Run pair after pair.

        Raises:
            UsageError, EnvironmentRefused: a side refuses what it is asked for, as its error says.
            CannotWrite: the files can't be written (any more).
        """
        with self._held:
            yield from self._pairs()

    def _pairs(self) -> Iterator[Began]:
        began = time.monotonic()
        for pair, order in mirrored(self.sides, self.request.pairs):
            if not self._fits(time.monotonic() - began):
                return
            found: dict[str, list[Record]] = {}
            for side in order:
                done = 2 * self.pairs_done + len(found)
                yield Began(pair, side, self._left_s(time.monotonic() - began, done))
                found[side.name] = self._round(side, pair, done + 1)
            self._keep(found)

    def _fits(self, elapsed_s: float) -> bool:
        """Whether one more pair like those before ends within the budget."""
        pair_s = elapsed_s / self.pairs_done if self.pairs_done else 0.0
        return self.request.budget_s is None or elapsed_s + pair_s <= self.request.budget_s

    def _left_s(self, elapsed_s: float, rounds_done: int) -> float | None:
        if not rounds_done:
            return None
        left_s = elapsed_s / rounds_done * (2 * self.request.pairs - rounds_done)
        budget_s = self.request.budget_s
        return left_s if budget_s is None else min(left_s, max(0.0, budget_s - elapsed_s))

    def _round(self, side: Side, pair: int, number: int) -> list[Record]:
        path = self.folder / f"{pair}-{side.name.lower()}.parquet"
        command = ["run", *self.flags, "--trials", "1", "--output", str(path)]
        if side.numbers_trials:  # of the round: no two may have one order or simulated noise
            command += ["--first-trial", str(number)]
        if self.request.budget_s is not None:
            command += ["--budget", f"{self.request.budget_s / self.request.pairs / 2:g}"]
        done = side.call("-m", "gpubench", *command)
        if done.returncode == EXIT_INTERRUPTED:
            raise KeyboardInterrupt
        if done.returncode not in (EXIT_DONE, EXIT_CASE_FAILED) or not path.exists():
            raise refusal(side, done)
        run_id = self._run_ids[side.name]
        records = [replace(row, run_id=run_id, trial=pair) for row in store.read_records(str(path))]
        path.unlink()
        return records

    def _keep(self, found: dict[str, list[Record]]) -> None:
        for side in self.sides:
            if side.name not in self._writers:
                path = self._held.enter_context(store.exclusive_new(self.paths[side.name]))
                self.paths[side.name] = path
                self._writers[side.name] = store.Writer(path)
            for record in found[side.name]:
                self._writers[side.name].append(record)
                if record.status in FAILURES:
                    self.failures.append((side.label, record))
        self.pairs_done += 1


def mirrored(sides: tuple[Side, Side], pairs: int) -> Iterator[tuple[int, Sequence[Side]]]:
    """A B, B A, A B …, numbered from 1: what drifts steadily cancels over two pairs."""
    for pair in range(1, pairs + 1):
        yield pair, sides if pair % 2 else sides[::-1]


def refusal(
    side: Side, done: "subprocess.CompletedProcess[str]"
) -> UsageError | EnvironmentRefused:
    """What a side's process said when it ended without results, as an error of ours."""
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    said = [line.removeprefix("gpubench: ") for line in lines if line.startswith("gpubench: ")]
    remedies = [line.removeprefix("→ ") for line in lines if line.startswith("→ ")]
    problem = said[-1] if said else " | ".join([f"exit status {done.returncode}", *lines[-3:]])
    kind = UsageError if done.returncode == EXIT_USAGE else EnvironmentRefused
    return kind(f"{side.label}: {problem}", remedies[-1] if remedies else "")


def verdicts(
    interleaved: Interleaved, min_effect: float | None
) -> tuple[list[dict[str, Any]], str]:
    """B judged against A, case by case, by the ratios within the pairs; and by what floor."""
    sides = interleaved.sides
    paths = [str(interleaved.paths[side.name]) for side in sides]
    frame = table.load(paths)
    labels = {interleaved.paths[side.name].name: side.label for side in sides}
    # A floor learnt of the machine's noise would be too high: most of that cancels in pairs.
    floor = compare.MIN_EFFECT if min_effect is None else min_effect
    rows = compare.compare(
        frame.assign(file=frame["file"].map(labels)),
        by="run",
        baseline=f"{sides[0].name}: ",
        min_effect=floor,
        paired=True,
        may_differ=MAY_DIFFER[sides[0].kind],
    )
    return rows, f"minimum effect: {100 * floor:g}%"


def failed(interleaved: Interleaved) -> list[str]:
    """Each case that failed, on which side, how often and why the last time."""
    found = {(label, row.case_id, row.cache): row for label, row in interleaved.failures}
    times = Counter((label, row.case_id, row.cache) for label, row in interleaved.failures)
    return [
        f"{key[0]}: {row.case_id} in {times[key]} of {interleaved.pairs_done} pairs: "
        f"{row.status}: {row.reason}"
        for key, row in found.items()
    ]


def next_step(interleaved: Interleaved, rows: Sequence[dict[str, Any]]) -> str | None:
    """What may settle what is inconclusive; None where more pairs would not."""
    if not any(row["reason"] in SETTLED_BY_PAIRS for row in rows):
        return None
    trials = max(2 * interleaved.pairs_done, interleaved.request.pairs)
    # Below this not even the clearest of so many cases could be called by its ranks.
    trials = max(trials, math.ceil(1 + math.log2(len(rows) / compare.FALSE_DISCOVERIES)))
    return f"to settle the inconclusive ones, the same again with `--trials {trials}`"
