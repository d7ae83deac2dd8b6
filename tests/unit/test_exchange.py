"""Exchange with pytest-benchmark: nothing is lost on the way there and back, nothing trusted."""

import csv
import io
import json
import math
import subprocess
import sys
from dataclasses import asdict
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpubench import cli, errors, exchange, store
from gpubench.record import Record, Spread
from gpubench.verbs import export

pytest.importorskip("pytest_benchmark", reason="its statistics are in the files")


def foreign(**different):
    """A benchmark as pytest-benchmark itself saves it with --benchmark-save-data."""
    return {
        "group": None,
        "name": "test_sum[3]",
        "fullname": "tests/test_sum.py::test_sum[3]",
        "params": {"n": 3},
        "param": "3",
        "extra_info": {},
        "options": {"timer": "perf_counter", "disable_gc": False},
        "stats": {"median": 0.2, "data": [0.1, 0.2, 0.3], "iterations": 5},
    } | different


def file_of(*benchmarks, **different):
    return {
        "machine_info": {
            "node": "secret",
            "system": "Linux",
            "machine": "x86_64",
            "cpu": {"brand_raw": "A CPU"},
        },
        "datetime": "2026-01-02T03:04:05+00:00",
        "version": "5.3.1",
        "benchmarks": list(benchmarks),
    } | different


@pytest.fixture
def result_file(tmp_path, make_record):
    """One run: a case in two trials, another cache state, and a failure."""
    records = [
        make_record(trial=1, flags=["unconverged"], outcome={"loss": 0.5}, dirty=False),
        make_record(trial=2, samples_s=[0.02, 0.021], sm_clock_hz=Spread(1e9, 0.9e9, 1.1e9)),
        make_record(cache="hot", samples_s=[0.03], throttle_reasons=["power"]),
        make_record(case_id="gemm:x=1", samples_s=None, status="oom", reason="no memory"),
    ]
    path = tmp_path / "run.parquet"
    store.Writer(path, records)
    return path


def test_export_and_import_give_back_every_column_of_what_was_measured(result_file, tmp_path):
    text = exchange.export([str(result_file)], "pytest-benchmark")
    (tmp_path / "run.json").write_text(text)
    back = exchange.import_file(str(tmp_path / "run.json"), str(tmp_path / "back"))
    assert back == tmp_path / "back" / "run.parquet"
    before = [row for row in store.read_records(str(result_file)) if row.status == "ok"]
    assert store.read_records(str(back)) == before
    assert store.examine(str(back))["valid"]


NUMBERS = st.floats(1e-9, 1e7)
RECORDS = st.builds(
    Record,
    case_id=st.text(min_size=1),
    workload=st.text(),
    run_id=st.text(min_size=1),
    suite=st.text(min_size=1),
    params=st.dictionaries(st.text(), st.text()),
    samples_s=st.lists(NUMBERS, min_size=1, max_size=9),
    inner=st.none() | st.integers(1, 2**40),
    flags=st.lists(st.text()),
    outcome=st.dictionaries(st.text(), st.floats(allow_nan=False, allow_infinity=False)),
    ecc=st.none() | st.booleans(),
    power_w=st.none() | st.builds(Spread, NUMBERS, NUMBERS, NUMBERS),
    started_at=st.none() | st.datetimes(timezones=st.just(UTC)),
)


@given(RECORDS)
def test_a_row_survives_json(record):
    row = json.loads(json.dumps(exchange.row_of(record)))
    assert exchange.record_of(row, "file") == record


@given(RECORDS)
def test_a_document_survives_json_with_its_samples_ids_and_flags(record):
    made = json.loads(json.dumps(exchange.document([record])))
    assert exchange.records(made, "file", "digest") == [record]


def test_the_statistics_are_those_pytest_benchmark_takes(result_file):
    from pytest_benchmark.stats import Stats

    made = exchange.document(store.read_records(str(result_file)))
    first = made["benchmarks"][0]
    samples = [0.01, 0.011, 0.0105] * 4 + [0.02, 0.021]
    expected = Stats()
    expected.data = samples
    assert first["stats"]["data"] == samples
    assert first["stats"]["median"] == expected.median
    assert set(first["stats"]) == {*Stats.fields, "data", "iterations"}
    assert first["extra_info"]["gpubench_trial_medians_s"] == [0.0105, 0.0205]


def test_pytest_benchmark_prints_its_table_from_an_exported_file(result_file, tmp_path):
    path = tmp_path / "run.json"
    path.write_text(exchange.export([str(result_file)], "pytest-benchmark"))
    command = [sys.executable, "-m", "pytest_benchmark", "compare", str(path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "gemm (cold)" in done.stdout
    assert "gemm (hot)" in done.stdout


def test_several_runs_and_none_do_not_fit_into_one_file(make_record):
    with pytest.raises(errors.UsageError, match="2 runs"):
        exchange.document([make_record(), make_record(run_id="another")])
    with pytest.raises(errors.UsageError, match="no sample"):
        exchange.document([make_record(samples_s=None, status="oom", reason="none")])


def test_csv_has_a_line_per_sample_and_one_for_a_failure(result_file):
    lines = list(csv.DictReader(io.StringIO(exchange.export([str(result_file)], "csv"))))
    assert len(lines) == 12 + 2 + 1 + 1
    assert [line["seconds"] for line in lines[12:14]] == ["0.02", "0.021"]
    assert (lines[-1]["status"], lines[-1]["seconds"]) == ("oom", "")


def test_a_foreign_benchmark_becomes_a_row_without_the_machines_name():
    (record,) = exchange.records(file_of(foreign()), "file", "digest")
    assert record.samples_s == [0.1, 0.2, 0.3]
    assert record.case_id == "tests/test_sum.py::test_sum[3]"
    assert record.workload == "tests/test_sum.py::test_sum"
    assert record.params == {"n": "3"}
    assert (record.suite, record.provenance, record.inner) == ("imported", "measured", 5)
    assert (record.cpu, record.card, record.os) == ("A CPU", None, "Linux")
    assert record.architecture == "x86_64"
    assert record.started_at == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert "secret" not in str(asdict(record))


def test_the_same_file_gives_the_same_run_and_another_file_another(tmp_path):
    runs = []
    for name, document in {
        "a": file_of(foreign()),
        "b": file_of(foreign()),
        "c": file_of(foreign(fullname="test_other")),
    }.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(document))
        made = exchange.import_file(str(tmp_path / f"{name}.json"), str(tmp_path / "out"))
        runs.append(store.read_records(str(made))[0].run_id)
    assert runs[0] == runs[1] != runs[2]


def test_rows_of_the_plugin_get_their_run_and_suite_on_import():
    row = {"case_id": "t", "samples_s": [0.5], "timer": "cuda_event", "flags": ["drift"]}
    benchmark = foreign(extra_info={"gpubench_trials": [row, row | {"trial": 2}]})
    first, second = exchange.records(file_of(benchmark), "file", "digest")
    assert (first.run_id, first.suite, first.flags) == ("digest", "imported", ["drift"])
    assert (first.trial, second.trial, second.timer) == (1, 2, "cuda_event")


def test_a_file_without_samples_is_refused_with_what_to_save_it_with():
    benchmark = foreign(stats={"median": 0.2})
    with pytest.raises(errors.UnreadableResult) as refused:
        exchange.records(file_of(benchmark), "file", "digest")
    assert "--benchmark-save-data" in refused.value.remedy


TRIAL = {"case_id": "t", "samples_s": [0.5]}


@pytest.mark.parametrize(
    "document",
    [
        [],
        {},
        {"benchmarks": {}},
        file_of([]),
        file_of(foreign(fullname=3)),
        file_of(foreign(stats=[])),
        file_of(foreign(params="n")),
        file_of(foreign(), machine_info="here"),
        file_of(foreign(), datetime="yesterday"),
        file_of(foreign(), datetime="0001-01-01T00:00:00+14:00"),
        file_of(foreign(), foreign()),
        *(
            file_of(foreign(stats={"data": data}))
            for data in ("0.1", [0.0], [-1.0], [math.nan], [math.inf], [True], ["0.1"], [10**400])
        ),
        file_of(foreign(stats={"data": [0.1], "iterations": 2**64})),
        *(
            file_of(foreign(extra_info={"gpubench_trials": trials}))
            for trials in (
                {},
                [[]],
                [TRIAL, TRIAL],
                [TRIAL | {"status": "splendid"}],
                [TRIAL | {"inner": 1.5}],
                [TRIAL | {"ecc": 1}],
                [TRIAL | {"params": {"n": 3}}],
                [TRIAL | {"power_w": {"mean": 1.0}}],
                [TRIAL | {"schema_version": 10**6}],
            )
        ),
    ],
)
def test_what_is_not_the_format_is_refused(document):
    with pytest.raises(errors.UnreadableResult):
        exchange.records(document, "file", "digest")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(
    JSON
    | st.builds(
        lambda head, extra, stats, more: file_of(
            foreign(extra_info=extra, stats=stats, **more), **head
        ),
        st.fixed_dictionaries({}, optional={"machine_info": JSON, "datetime": JSON}),
        JSON | st.fixed_dictionaries({"gpubench_trials": st.lists(JSON)}),
        JSON | st.fixed_dictionaries({"data": JSON}),
        st.fixed_dictionaries({}, optional={"params": JSON, "options": JSON, "fullname": JSON}),
    )
    | st.builds(
        lambda row: file_of(foreign(extra_info={"gpubench_trials": [TRIAL | row]})),
        st.dictionaries(st.sampled_from(sorted(Record.__dataclass_fields__)), JSON, max_size=3),
    )
)
def test_arbitrary_json_is_records_or_a_refusal(document):
    try:
        found = exchange.records(document, "file", "digest")
    except errors.UnreadableResult:
        return
    # What is accepted, a result file holds.
    assert store._table(found).num_rows == len(found)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"9" * 10_000])
def test_what_is_not_json_ends_the_command_in_two_lines(content, tmp_path, capsys):
    path = tmp_path / "file.json"
    path.write_bytes(content)
    assert cli.main(["import", str(path), "-o", str(tmp_path / "out")]) == errors.EXIT_USAGE
    said = capsys.readouterr().err
    assert said.count("\n") == 2
    assert "not JSON" in said or "not what pytest-benchmark writes" in said


def test_the_command_goes_both_ways_and_overwrites_nothing(result_file, tmp_path, capsys):
    made, back = str(tmp_path / "run.json"), str(tmp_path / "back.parquet")
    to = ["export", str(result_file), "--to", "pytest-benchmark"]
    assert cli.main([*to, "-o", made]) == errors.EXIT_DONE
    capsys.readouterr()
    assert cli.main(to) == errors.EXIT_DONE
    assert json.loads(capsys.readouterr().out)["benchmarks"]
    assert cli.main(["import", made, "-o", back]) == errors.EXIT_DONE
    assert capsys.readouterr().out.strip() == back
    assert cli.main(["import", made, "-o", back]) == errors.EXIT_USAGE
    assert "there already" in capsys.readouterr().err
    assert cli.main([*to, "-o", str(tmp_path)]) == errors.EXIT_USAGE
    assert cli.main(["import", str(tmp_path / "none.json")]) == errors.EXIT_USAGE


def test_the_command_offers_every_format_there_is():
    assert export.FORMATS == exchange.FORMATS
