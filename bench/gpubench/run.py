"""Run a suite: worker processes, one case at a time, every outcome a row, nothing lost.

Iterating over an `Execution` gives its events, so that a command can draw progress and a program
can just collect records. Between two cases the file on disk is complete; stop it wherever you like.
"""

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from gpubench import store
from gpubench.device import resolve
from gpubench.errors import UsageError
from gpubench.measure import Measurement, Precision
from gpubench.record import FAILURES, Record
from gpubench.suite import Suite
from gpubench.worker import Forecast, Outcome, Worker
from gpubench.workload import Case, Work, format_value, get_workload

# What a case costs beside its steps: preparing, checking, writing the row.
OVERHEAD_S = 0.3


@dataclass(frozen=True)
class Request:
    """What to run, where, and how often.

    Attributes:
        budget_s: seconds for the whole run; cases that don't fit in become rows that say so.
        identify: keep unsalted hashes, so that machines are recognised across installations.
    """

    suite: Suite
    device: str = "auto"
    trials: int = 1
    budget_s: float | None = None
    identify: bool = False


@dataclass(frozen=True)
class Started:
    """A case is about to run; ``left_s`` is the expected time until the run's end."""

    case: Case
    trial: int
    position: int
    total: int
    left_s: float


@dataclass(frozen=True)
class Finished:
    """A case has ended and its row is on disk."""

    record: Record


@dataclass
class Plan:
    """What would run: each case with its forecast, on the device it was made for."""

    device: str
    environment: dict[str, Any]
    forecasts: list[tuple[Case, Forecast]]
    precision: Precision

    def case_s(self, forecast: Forecast) -> float:
        """Expected wall time of a case, from its step time and the suite's budgets."""
        if forecast.left_out:
            return 0.0
        longest = self.precision.budget_s + self.precision.warmup_s
        if forecast.step_s is None:
            return OVERHEAD_S + longest
        # A typical case needs some tens of samples, each with its cache cleared.
        return OVERHEAD_S + max(min(60 * forecast.step_s, longest), longest / 4)

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
    precision = Precision(suite.half_width, suite.budget_s, suite.warmup_s)
    made = Plan(
        resolve(request.device),
        worker.environment,
        list(zip(cases, forecasts, strict=True)),
        precision,
    )
    if request.budget_s is not None:
        # Give each case its share of the whole, and never more than the suite would.
        share = min(1.0, request.budget_s / max(made.seconds * request.trials, 1e-9))
        made.precision = replace(
            precision, budget_s=precision.budget_s * share, warmup_s=precision.warmup_s * share
        )
    return made


def result_path(output: str, device: str, card_id: str, suite: str, now: datetime) -> Path:
    """The file to write: ``output`` itself if it names one, else a new name in that folder."""
    if output.endswith(".parquet"):
        return Path(output)
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
        UsageError: it has no rows.
    """
    records = store.read_records(path)
    if not records:
        raise UsageError(f"{path} has no rows to go on from", "run without --resume")
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
        self._output = output
        self._worker: Worker | None = None
        self._worker_trial = 0
        self.run_id = self.records[-1].run_id if self.records else uuid4().hex[:12]

    def __iter__(self) -> Iterator[Started | Finished]:
        """Run everything; a row is on disk when its `Finished` comes.

        Raises:
            CannotWrite: the file can't be written (any more).
            EnvironmentRefused: the device can't be opened (any more).
        """
        try:
            made = _plan(self.request, self._worker_for(1))
            writer = self._open_file(made)
            todo = self._todo(made)
            expected_s = sum(made.case_s(forecast) for _, _, forecast in todo)
            began, done_s = time.monotonic(), 0.0
            for position, (trial, case, forecast) in enumerate(todo, start=1):
                elapsed = time.monotonic() - began
                pace = elapsed / done_s if done_s > 5 else 1.0
                yield Started(case, trial, position, len(todo), (expected_s - done_s) * pace)
                record = self._run_case(made, trial, case, forecast, elapsed)
                self.records.append(record)
                writer.append(record)
                done_s += made.case_s(forecast)
                yield Finished(record)
        finally:
            self._end_worker()

    @property
    def failures(self) -> list[Record]:
        """Cases whose last attempt should have worked and did not."""
        last = {record.key: record for record in self.records}
        return [record for record in last.values() if record.status in FAILURES]

    def _worker_for(self, trial: int) -> Worker:
        """The trial's own process: what differs between processes has to show between trials."""
        if self._worker is None or self._worker_trial != trial:
            self._end_worker()
            self._worker = Worker(self.device, identify=self.request.identify)
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
            self.path = result_path(self._output, self.device, card_id, suite, datetime.now(UTC))
            if self.path.exists():
                raise UsageError(
                    f"{self.path} exists already",
                    f"choose another -o, or complete it with --resume {self.path}",
                )
        return store.Writer(self.path, self.records)

    def _todo(self, made: Plan) -> list[tuple[int, Case, Forecast]]:
        """Trials in turn, each in an order of its own, without what an earlier attempt has done."""
        done = {record.key for record in self.records if record.status not in FAILURES}
        todo = []
        for trial in range(1, self.request.trials + 1):
            order = list(made.forecasts)
            random.Random(trial).shuffle(order)
            todo += [
                (trial, case, forecast)
                for case, forecast in order
                if (case.id, case.cache, trial) not in done
            ]
        return todo

    def _run_case(
        self, made: Plan, trial: int, case: Case, forecast: Forecast, elapsed_s: float
    ) -> Record:
        started_at = datetime.now(UTC)
        budget_s = self.request.budget_s
        if forecast.left_out:
            outcome = Outcome("unsupported", forecast.left_out)
        elif budget_s is not None and elapsed_s >= budget_s:
            reason = f"not started: the run's budget of {budget_s:g} s was spent"
            outcome = Outcome("timeout", f"{reason}; --resume goes on")
        else:
            worker = self._worker_for(trial)
            outcome = worker.measure(case, made.precision, self.request.suite.timeout_s)
        if outcome.poisoned:
            self._end_worker()
        return self._record(made, trial, case, started_at, outcome)

    def _record(
        self, made: Plan, trial: int, case: Case, started_at: datetime, outcome: Outcome
    ) -> Record:
        workload = get_workload(case.workload)
        earlier = [
            record.attempt for record in self.records if record.key == (case.id, case.cache, trial)
        ]
        work = workload.work(dict(case.params))
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
        return _with_measurement(record, outcome.measurement, work)


def _with_measurement(record: Record, measurement: Measurement | None, work: Work | None) -> Record:
    """Fill in the numbers; the declared work is kept even of a case that failed."""
    work = (measurement.work if measurement else work) or Work()
    record = replace(record, flops=work.flops, bytes=work.bytes, items=work.items, item=work.item)
    if measurement is None:
        return record
    samples = measurement.samples
    return replace(
        record,
        samples_s=samples.device_s,
        host_samples_s=samples.host_s or None,
        timer=measurement.timer,
        inner=measurement.inner,
        first_step_s=measurement.first_step_s,
        warmup_s=measurement.warmup_s,
        stop=measurement.stop,
        peak_memory_bytes=measurement.peak_memory_bytes,
        outcome=dict(measurement.outcome),
        notes=dict(measurement.notes),
        foreign_load=measurement.foreign_load,
        flags=list(measurement.flags),
    )
