"""Results in other tools' formats: pytest-benchmark's JSON both ways, and CSV of every sample.

What pytest-benchmark has no place for stands in each benchmark's ``extra_info``, which it keeps
for others: the rows of the result file (TRIALS) and the medians of their processes (MEDIANS). The
plugin writes the same, so one reader serves both. A file is a stranger's: every type is checked.
"""

import json
import math
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any

from gpubench import render, stats
from gpubench.errors import CannotWrite, UnreadableResult, UsageError, install_line
from gpubench.names import case_labels
from gpubench.record import SCHEMA_VERSION, Record, Spread

FORMATS = ("pytest-benchmark", "csv")
#: of ``extra_info``: seconds per step, the median of each process
MEDIANS = "gpubench_trial_medians_s"
#: of ``extra_info``: one row of a result file for each process, without what is null
TRIALS = "gpubench_trials"
SAMPLES = ("samples_s", "host_samples_s")
MOST_INTEGER = 2**63 - 1


# to others -----------------------------------------------------------------------------------


def export(patterns: Sequence[str], form: str) -> str:
    """Result files as the text of one of FORMATS.

    Raises:
        UnreadableResult: a file can't be read.
        UsageError: the format can't hold these results.
    """
    from gpubench import store

    records = [record for path in store.expand(patterns) for record in store.read_records(path)]
    if form == "csv":
        return render.rows([line for record in records for line in _lines(record)], (), "csv", "")
    return json.dumps(document(records), indent=1) + "\n"


def _lines(record: Record) -> list[dict[str, Any]]:
    """A row per sample; one without a time for a case that gave none."""
    shared = {
        name: getattr(record, name)
        for name in ("run_id", "card", "workload", "case_id", "cache", "trial", "status", "flags")
    }
    samples: Sequence[float | None] = record.samples_s or [None]
    return [
        shared | {"sample": number, "seconds": seconds}
        for number, seconds in enumerate(samples, start=1)
    ]


def document(records: Sequence[Record]) -> dict[str, Any]:
    """One run as pytest-benchmark would have saved it, a benchmark per case.

    Its statistics are of all samples; the trials stand apart in ``extra_info``. Cases without
    samples are left out: that format has no failures.

    Raises:
        UsageError: there are no samples, or several runs.
    """
    from pytest_benchmark import __version__

    measured = [record for record in records if record.status == "ok" and record.samples_s]
    if not measured:
        raise UsageError(
            "there is no sample to export", "`gpubench show` says what became of each case"
        )
    runs = {record.run_id for record in measured}
    if len(runs) > 1:
        raise UsageError(
            f"these are {len(runs)} runs, and a pytest-benchmark file holds one",
            "export them one by one; `pytest-benchmark compare` takes several files",
        )
    cases: dict[tuple[str, str | None], list[Record]] = {}
    for record in measured:
        cases.setdefault((record.case_id, record.cache), []).append(record)
    labels = case_labels([asdict(record) for record in measured])
    first = measured[0]
    return {
        "machine_info": {
            "node": first.host_hash,
            "machine": first.architecture,
            "system": (first.os or "").partition(" ")[0],
            "python_version": first.python,
            "cpu": {"brand_raw": first.cpu},
        },
        "commit_info": {"id": first.commit, "dirty": first.dirty},
        "benchmarks": [_benchmark(labels[key], trials) for key, trials in cases.items()],
        "datetime": (first.started_at or datetime.now(UTC)).isoformat(),
        "version": __version__,
    }


def _benchmark(label: str, trials: Sequence[Record]) -> dict[str, Any]:
    from pytest_benchmark.stats import Stats

    first, found = trials[0], Stats()
    found.data = [sample for trial in trials for sample in trial.samples_s or ()]
    return {
        "group": first.workload,
        "name": label,
        "fullname": f"{first.case_id} {first.cache}" if first.cache else first.case_id,
        "params": first.params or None,
        "param": label.removeprefix(first.workload).strip() or None,
        "extra_info": extra_info(trials),
        "options": {"timer": first.timer},
        "stats": found.as_dict() | {"data": found.data, "iterations": first.inner or 1},
    }


def extra_info(trials: Sequence[Record], *, samples: bool = True) -> dict[str, Any]:
    """What stands beside pytest-benchmark's statistics; without ``samples`` their medians only."""
    left_out = () if samples else SAMPLES
    rows = [
        {name: value for name, value in row_of(trial).items() if name not in left_out}
        for trial in trials
    ]
    return {MEDIANS: [stats.median(trial.samples_s or ()) for trial in trials], TRIALS: rows}


def row_of(record: Record) -> dict[str, Any]:
    """A record as JSON can hold it; what is unknown or empty is left out."""
    row = {name: value for name, value in asdict(record).items() if value not in (None, [], {})}
    if record.started_at:
        row["started_at"] = record.started_at.isoformat()
    return row


# from others ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Benchmark:
    """One benchmark of a pytest-benchmark file, its types checked; times in seconds per step.

    Attributes:
        medians_s: of each process, where gpubench measured; empty for others' benchmarks.
        trials: what gpubench kept of each process; without samples where the file has none.
    """

    fullname: str
    params: dict[str, str]
    samples_s: list[float]
    inner: int
    timer: str | None
    medians_s: list[float] = field(default_factory=list)
    trials: list[Record] = field(default_factory=list)


def load(path: str) -> tuple[Any, str]:
    """A JSON file and a short hash of its bytes.

    Raises:
        UnreadableResult: there is no such file, or it isn't JSON.
    """
    try:
        content = Path(path).read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UnreadableResult(f"{path}: {reason}", "check the path") from error
    try:
        return json.loads(content), blake2b(content, digest_size=16).hexdigest()
    except (ValueError, RecursionError) as error:
        raise _refused(path, "it is not JSON") from error


def benchmarks(document: object, source: str) -> list[Benchmark]:
    """The benchmarks of a parsed file; ``source`` names it in errors.

    Raises:
        UnreadableResult: it isn't what pytest-benchmark writes.
    """
    found = document.get("benchmarks") if isinstance(document, dict) else None
    if not isinstance(found, list):
        raise _refused(source, "it has no list of benchmarks")
    return [_checked_benchmark(benchmark, source) for benchmark in found]


def _checked_benchmark(benchmark: object, source: str) -> Benchmark:
    fullname = benchmark.get("fullname") if isinstance(benchmark, dict) else None
    if not isinstance(benchmark, dict) or not isinstance(fullname, str):
        raise _refused(source, "a benchmark has no fullname")
    where = f"{source}: {fullname}"
    numbers, extra = _mapping(benchmark, "stats", where), _mapping(benchmark, "extra_info", where)
    inner = numbers.get("iterations", 1)
    timer = _mapping(benchmark, "options", where).get("timer")
    trials = extra.get(TRIALS, [])
    if not isinstance(trials, list):
        raise _refused(where, f"{TRIALS} is no list")
    return Benchmark(
        fullname=fullname,
        params={
            str(name): render.clean(value)
            for name, value in _mapping(benchmark, "params", where).items()
        },
        samples_s=_times(numbers.get("data", []), f"{where}: data"),
        inner=_fitting(inner, int, f"{where}: iterations"),
        timer=timer if isinstance(timer, str) else None,
        medians_s=_times(extra.get(MEDIANS, []), f"{where}: {MEDIANS}"),
        trials=[record_of(row, where) for row in trials],
    )


def _mapping(owner: Mapping[str, Any], name: str, where: str) -> dict[str, Any]:
    value = owner.get(name)
    if not isinstance(value, dict | None):
        raise _refused(where, f"{name} holds {_kind(value)}")
    return value or {}


def _times(values: object, where: str) -> list[float]:
    if not isinstance(values, list):
        raise _refused(where, f"{_kind(values)} where times belong")
    times = [_fitting(value, float, where) for value in values]
    if not all(0 < time < math.inf for time in times):
        raise _refused(where, "a time is not positive and finite")
    return times


def record_of(row: object, source: str) -> Record:
    """The record that `row_of` made a row from; unknown columns are dropped.

    Raises:
        UnreadableResult: a column has another type, or the row is of a newer version.
    """
    if not isinstance(row, dict):
        raise _refused(source, f"{_kind(row)} where a row belongs")
    hints = typing.get_type_hints(Record)
    values = {
        name: _fitting(row[name], hint, f"{source}: {name}")
        for name, hint in hints.items()
        if row.get(name) is not None
    }
    record = Record(**values)
    if record.schema_version > SCHEMA_VERSION:
        raise UnreadableResult(
            f"{source} has schema version {record.schema_version}; this gpubench reads up to "
            f"{SCHEMA_VERSION}",
            f"git pull && {install_line()}",
        )
    return record


def _fitting(value: object, annotation: Any, where: str) -> Any:
    """``value`` as the annotation wants it."""
    arguments, origin = typing.get_args(annotation), typing.get_origin(annotation)
    if isinstance(annotation, types.UnionType):  # every union is "X | None"
        return _fitting(value, arguments[0], where)
    if origin is list and isinstance(value, list):
        return [_fitting(inner, arguments[0], where) for inner in value]
    if origin is dict and isinstance(value, dict):
        return {name: _fitting(inner, arguments[1], where) for name, inner in value.items()}
    if annotation is Spread and isinstance(value, dict) and set(value) == {"mean", "min", "max"}:
        return Spread(**{name: _fitting(inner, float, where) for name, inner in value.items()})
    if annotation is datetime and isinstance(value, str):
        return _moment(value, where)
    return _plain(value, annotation, where)


def _plain(value: object, annotation: Any, where: str) -> Any:
    """A text, number or truth value; no mixing of the last two, and no integer beyond 64 bits."""
    if type(value) is int and abs(value) <= MOST_INTEGER and annotation in (int, float):
        return annotation(value)
    if type(value) is annotation and annotation in (str, float, bool):
        return value
    raise _refused(where, f"{_kind(value)} does not belong there")


def _moment(text: str, where: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise _refused(where, f"{render.clean(text)[:40]!r} is no moment") from error


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "a truth value"}
    return names.get(type(value), "a null" if value is None else f"the number {str(value)[:20]}")


def _refused(source: str, problem: str) -> UnreadableResult:
    return UnreadableResult(
        f"{source} is not what pytest-benchmark writes: {problem}",
        "give a file made by --benchmark-json, --benchmark-save or `gpubench export`",
    )


def records(document: object, source: str, run_id: str) -> list[Record]:
    """The rows of a result file that a pytest-benchmark file stands for.

    Raises:
        UnreadableResult: it isn't what pytest-benchmark writes, makes no sense, or has no samples.
    """
    from gpubench import store

    environment = _environment(document, source)
    found = [
        record
        for benchmark in benchmarks(document, source)
        for record in _records_of(benchmark, environment, source, run_id)
    ]
    for record in found:
        if problem := store.contradiction(asdict(record)):
            raise _refused(source, problem)
    keys = {(record.run_id, record.key) for record in found}
    if len(keys) < len(found):
        raise _refused(source, "it has a trial of one benchmark twice")
    return found


def _environment(document: object, source: str) -> dict[str, Any]:
    """Columns that the file's head tells; the machine's name, which it also tells, is not kept."""
    head = document if isinstance(document, dict) else {}
    machine = _mapping(head, "machine_info", source)
    processor = _mapping(machine, "cpu", source).get("brand_raw")
    texts = {
        "python": machine.get("python_version"),
        "os": machine.get("system"),
        "architecture": machine.get("machine"),
    }
    when = head.get("datetime")
    return {name: text for name, text in texts.items() if isinstance(text, str)} | {
        "cpu": processor if isinstance(processor, str) else None,
        "started_at": _moment(when, source) if isinstance(when, str) else None,
    }


def _records_of(
    benchmark: Benchmark, environment: Mapping[str, Any], source: str, run_id: str
) -> Iterable[Record]:
    """A record per process of gpubench's own benchmarks, one of others'."""
    if all(trial.samples_s for trial in benchmark.trials) and benchmark.trials:
        for trial in benchmark.trials:
            trial.run_id = trial.run_id or run_id
            trial.suite = trial.suite or "imported"
            yield trial
        return
    if not benchmark.samples_s:
        raise UnreadableResult(
            f"{source}: {benchmark.fullname} comes without samples",
            "save it with --benchmark-save-data or --benchmark-json, which keep them",
        )
    yield Record(
        run_id=run_id,
        suite="imported",
        workload=benchmark.fullname.partition("[")[0],
        case_id=benchmark.fullname,
        params=benchmark.params,
        samples_s=benchmark.samples_s,
        timer="host",
        cache="hot",  # each call finds what the one before left
        inner=benchmark.inner,
        notes={"timer": benchmark.timer} if benchmark.timer else {},
        **environment,
    )


def import_file(path: str, output: str) -> Path:
    """Write a pytest-benchmark file's content as a result file; returns where.

    Args:
        path: what ``--benchmark-json``, ``--benchmark-save`` or `export` wrote.
        output: a ``.parquet`` file, or a folder.

    Raises:
        UnreadableResult: see `records`.
        UsageError: there is such a file already.
        CannotWrite: the folder can't be written.
    """
    from gpubench import store

    parsed, digest = load(path)
    found = records(parsed, path, digest)
    target = Path(output)
    if target.suffix != ".parquet":
        target /= f"{Path(path).stem}.parquet"
    try:
        taken = target.exists()
    except (OSError, ValueError) as error:
        raise CannotWrite(f"{target}: {error}", "choose another -o") from error
    if taken:
        raise UsageError(f"{target} is there already", "choose another -o, or remove it first")
    store.Writer(target, found)
    return target
