"""Run a suite: worker processes, one case at a time, every outcome a row, nothing lost.

Iterating over an `Execution` gives its events, so that a command can draw progress and a program
can just collect records. Between two cases the file on disk is complete; stop it wherever you like.
"""

import random
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from gpubench import store
from gpubench.device import resolve
from gpubench.errors import UsageError
from gpubench.measure import Measurement, StopRule
from gpubench.record import FAILURES, Record
from gpubench.suite import Suite
from gpubench.worker import Forecast, Outcome, Worker
from gpubench.workload import Case, Work, format_value, get_workload

# What a case costs beside its steps: preparing, checking, writing the row.
OVERHEAD_S = 0.3
# A case that is running when the run's budget is spent may still end within this time.
GRACE_S = 5.0
# What the rows of one file have to share, beside the suite.
SAME_WHEN_RESUMED = ("provenance", "card_id", "host_hash", "torch", "driver")


@dataclass(frozen=True)
class Request:
    """What to run, where, and how often.

    Attributes:
        budget_s: seconds for all cases, from the first one's start; those that don't fit in become
            rows that say so.
        identify: keep unsalted hashes, so that machines are recognised across installations.
        first_trial: number of the first trial, where another run has had those before.
        run_id: shared by runs that each measure a part of one; by default a new one.
        graph: launch steps as CUDA graphs where they can be captured.
    """

    suite: Suite
    device: str = "auto"
    trials: int = 1
    budget_s: float | None = None
    identify: bool = False
    first_trial: int = 1
    run_id: str | None = None
    graph: bool = False

    @property
    def trial_numbers(self) -> range:
        """Numbers of the trials, as rows have them."""
        return range(self.first_trial, self.first_trial + self.trials)


@dataclass(frozen=True)
class Started:
    """A case is about to run.

    Attributes:
        left_s: the expected time until the run's end, in seconds.
        case_s: the part of it that is this case's.
    """

    case: Case
    trial: int
    position: int
    total: int
    left_s: float
    case_s: float


@dataclass(frozen=True)
class Finished:
    """A case has ended and its row is on disk; ``left_s`` seconds are expected to follow."""

    record: Record
    left_s: float


@dataclass
class Pace:
    """How long what is still to come will take: as expected, times how wrong that was so far.

    Attributes:
        ahead_s: expected wall time of the cases that have not ended.
        began: when the first case started, on the monotonic clock.
        budget_s: what the whole run may take; None is without limit.
        done_s: expected wall time of the cases that have ended.
    """

    ahead_s: float
    began: float
    budget_s: float | None = None
    done_s: float = 0.0

    @property
    def factor(self) -> float:
        """Measured time over the expected one, once a few cases have ended."""
        return (time.monotonic() - self.began) / self.done_s if self.done_s > 5 else 1.0

    @property
    def left_s(self) -> float:
        """Expected time until the run's end."""
        left_s = max(0.0, self.ahead_s) * self.factor
        if self.budget_s is None:
            return left_s
        return min(left_s, max(0.0, self.budget_s - (time.monotonic() - self.began)))

    def ended(self, expected_s: float) -> None:
        """A case of which this was expected has ended."""
        self.ahead_s -= expected_s
        self.done_s += expected_s


@dataclass
class Plan:
    """What would run: each case with its forecast, on the device it was made for."""

    device: str
    environment: dict[str, Any]
    forecasts: list[tuple[Case, Forecast]]
    rule: StopRule

    def case_s(self, forecast: Forecast) -> float:
        """Expected wall time of a case, from its step time and the suite's budgets."""
        if forecast.left_out:
            return 0.0
        longest = max(self.rule.budget_s, self.rule.sustain_s) + self.rule.warmup_s
        if forecast.step_s is None:
            return OVERHEAD_S + longest
        # A typical case needs some tens of samples, each with its cache cleared.
        shortest = max(longest / 4, self.rule.sustain_s)
        return OVERHEAD_S + max(min(60 * forecast.step_s, longest), shortest)

    @property
    def seconds(self) -> float:
        """Expected wall time of one trial."""
        return sum(self.case_s(forecast) for _, forecast in self.forecasts)


def plan(request: Request) -> Plan:
    """Say what would run, for ``--dry-run``."""
    worker = Worker(resolve(request.device), identify=request.identify)
    try:
        return _plan(request, worker)
    finally:
        worker.stop()


def _plan(request: Request, worker: Worker) -> Plan:
    suite = request.suite
    cases = list(suite.cases)
    forecasts = worker.forecast(cases, suite.step_limit_s)
    rule = StopRule(
        suite.half_width,
        suite.budget_s,
        suite.warmup_s,
        sustain_s=suite.sustain_s,
        graph=request.graph,
    )
    made = Plan(
        resolve(request.device),
        worker.environment,
        list(zip(cases, forecasts, strict=True)),
        rule,
    )
    if request.budget_s is not None:
        # Give each case its share of the whole, and never more than the suite would.
        share = min(1.0, request.budget_s / max(made.seconds * request.trials, 1e-9))
        made.rule = replace(rule, budget_s=rule.budget_s * share, warmup_s=rule.warmup_s * share)
    return made


def result_path(output: str, device: str, card_id: str, suite: str, now: datetime) -> Path:
    """The file to write: ``output`` itself if it names one, else a new name in that folder."""
    if output.endswith(".parquet"):
        return Path(output)
    try:
        is_file = Path(output).is_file()
    except OSError:
        is_file = False  # nor anything else; whoever writes there says why
    if Path(output).suffix or is_file:
        raise UsageError(
            f"-o {output} is neither a folder nor a .parquet file",
            "give -o results or -o NAME.parquet",
        )
    kind = "virtual-" if device.startswith("virtual:") else ""
    return Path(output) / f"{kind}{card_id}-{suite}-{now:%Y%m%dT%H%M%SZ}.parquet"


@dataclass(frozen=True)
class Resumed:
    """What an earlier file says of the run it was made by."""

    suite: str
    trials: int


def resumed(path: str) -> Resumed:
    """Read what a run has to be called with to complete ``path``.

    Raises:
        UnreadableResult: the file can't be read.
    """
    records = store.read_records(path)
    if not records:
        return Resumed("quick", 1)
    return Resumed(records[-1].suite, max(record.trial for record in records))


class Execution:
    """A run; iterating over it runs the cases and yields what happens.

    Args:
        request: what to run.
        output: folder or file to write.
        resume: an earlier file to complete in place; cases that it has done are not run again.
    """

    def __init__(
        self, request: Request, output: str = "results", resume: str | None = None
    ) -> None:
        self.request = request
        self.device = resolve(request.device)
        self.records: list[Record] = store.read_records(resume) if resume else []
        self.path = Path(resume) if resume else None
        if self.path and self.path.is_symlink():  # writing replaces a file, and would the link
            self.path = self.path.resolve()
        self._output = output
        self._held = ExitStack()
        self._begun: Path | None = None
        self._worker: Worker | None = None
        self._worker_trial = 0
        fresh = request.run_id or uuid4().hex[:12]
        self.run_id = self.records[-1].run_id if self.records else fresh

    def __iter__(self) -> Iterator[Started | Finished]:
        """Run everything; a row is on disk when its `Finished` comes.

        Raises:
            CannotWrite: the file can't be written (any more).
            EnvironmentRefused: the device can't be opened (any more).
        """
        try:
            made = _plan(self.request, self._worker_for(self.request.first_trial))
            writer = self._open_file(made)
            todo = self._todo(made)
            costs = [made.case_s(forecast) for _, _, forecast in todo]
            pace = Pace(sum(costs), time.monotonic(), self.request.budget_s)
            for position, (trial, case, forecast) in enumerate(todo, start=1):
                case_s = costs[position - 1]
                yield Started(case, trial, position, len(todo), pace.left_s, case_s * pace.factor)
                record = self._run_case(made, trial, case, forecast, pace.began)
                self.records.append(record)
                writer.append(record)
                pace.ended(case_s)
                yield Finished(record, pace.left_s)
        finally:
            self._end_worker()
            if self._begun and not self.records:
                self._begun.unlink(missing_ok=True)  # a file without rows is no use to anybody
            self._held.close()

    @property
    def failures(self) -> list[Record]:
        """Cases whose last attempt should have worked and did not."""
        last = {record.key: record for record in self.records}
        return [record for record in last.values() if record.status in FAILURES]

    def _worker_for(self, trial: int) -> Worker:
        """The trial's own process: what differs between processes has to show between trials."""
        if self._worker is None or self._worker_trial != trial:
            self._end_worker()
            self._worker = Worker(self.device, identify=self.request.identify, trial=trial)
            self._worker_trial = trial
        return self._worker

    def _end_worker(self) -> None:
        if self._worker is not None:
            self._worker.stop()
            self._worker = None

    def _open_file(self, made: Plan) -> store.Writer:
        if self.path is None:
            card_id = str(made.environment["card_id"])
            suite = self.request.suite.name
            path = result_path(self._output, self.device, card_id, suite, datetime.now(UTC))
            if path != Path(self._output):  # a name of ours, so another will do as well
                path = self._held.enter_context(store.exclusive_new(path))
            elif path.exists():
                raise UsageError(
                    f"{path} exists already",
                    f"choose another -o, or complete it with --resume {path}",
                )
            else:
                self._held.enter_context(store.exclusive(path))
            self.path = path
        else:
            self._held.enter_context(store.exclusive(self.path))
            self.records = store.read_records(str(self.path))
            self._refuse_another_run(made)
        writer = store.Writer(self.path, self.records)
        self._begun = self.path
        return writer

    def _refuse_another_run(self, made: Plan) -> None:
        """A file is completed only by what it was begun with.

        Raises:
            UsageError: another suite, device or software.
        """
        wanted = {"suite": self.request.suite.name} | {
            column: made.environment.get(column) for column in SAME_WHEN_RESUMED
        }
        for column, now in wanted.items():
            before = {getattr(record, column) for record in self.records}
            if before - {now}:
                raise UsageError(
                    f"{self.path} was measured with {column} "
                    f"{' and '.join(sorted(map(str, before)))}, not {now}",
                    "give the same --suite and --device as then, or start a new file",
                )

    def _todo(self, made: Plan) -> list[tuple[int, Case, Forecast]]:
        """Trials in turn, each in an order of its own, without what an earlier attempt has done."""
        done = {record.key for record in self.records if record.status not in FAILURES}
        todo = []
        for trial in self.request.trial_numbers:
            order = list(made.forecasts)
            random.Random(f"{self.run_id}:{trial}").shuffle(order)
            todo += [
                (trial, case, forecast)
                for case, forecast in order
                if (case.id, case.cache, trial) not in done
            ]
        return todo

    def _run_case(
        self, made: Plan, trial: int, case: Case, forecast: Forecast, began: float
    ) -> Record:
        started_at = datetime.now(UTC)
        if forecast.left_out:
            outcome = Outcome("unsupported", forecast.left_out)
        else:
            outcome = self._measure(made, trial, case, began)
        if outcome.poisoned:
            self._end_worker()
        return self._record(made, trial, case, forecast, started_at, outcome)

    def _measure(self, made: Plan, trial: int, case: Case, began: float) -> Outcome:
        """Have a case measured within the suite's limit and what is left of the run's budget."""
        timeout_s, budget_s = self.request.suite.timeout_s, self.request.budget_s
        if budget_s is None:
            return self._worker_for(trial).measure(case, made.rule, timeout_s)
        spent = f"the run's budget of {budget_s:g} s was spent"
        if time.monotonic() - began >= budget_s:
            return Outcome("timeout", f"not started: {spent}; --resume goes on")
        worker = self._worker_for(trial)  # starting a new one takes of the budget, too
        left_s = max(0.0, budget_s - (time.monotonic() - began)) + GRACE_S
        outcome = worker.measure(case, made.rule, min(timeout_s, left_s))
        if outcome.status == "timeout" and left_s < timeout_s:
            reason = f"ended after {left_s:.3g} s: {spent}; --resume goes on"
            outcome = replace(outcome, reason=reason)
        return outcome

    def _record(
        self,
        made: Plan,
        trial: int,
        case: Case,
        forecast: Forecast,
        started_at: datetime,
        outcome: Outcome,
    ) -> Record:
        workload = get_workload(case.workload)
        earlier = [
            record.attempt for record in self.records if record.key == (case.id, case.cache, trial)
        ]
        record = Record(
            run_id=self.run_id,
            started_at=started_at,
            suite=self.request.suite.name,
            workload=workload.name,
            workload_version=workload.version,
            workload_hash=workload.source_hash,
            case_id=case.id,
            params={name: format_value(value) for name, value in case.params},
            trial=trial,
            attempt=max(earlier, default=0) + 1,
            cache=case.cache,
            status=outcome.status,
            reason=outcome.reason,
            **made.environment,
        )
        return _with_measurement(record, outcome.measurement, forecast.work)


def _with_measurement(record: Record, measurement: Measurement | None, work: Work | None) -> Record:
    """Fill in the numbers; the declared work is kept even of a case that failed."""
    work = (measurement.work if measurement else work) or Work()
    record = replace(record, flops=work.flops, bytes=work.bytes, items=work.items, item=work.item)
    return replace(record, **measurement.columns()) if measurement else record
