"""Result files and cards of strangers: whatever they say wins nothing and breaks nothing."""

import json
import math
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gpubench import efficiency, evidence, store, table
from gpubench.cards import catalogue
from gpubench.cli import main
from gpubench.errors import UnreadableResult
from gpubench.predict import Predictor, _asked
from gpubench.profile import load_profile
from gpubench.suite import load_suite
from gpubench.workload import format_value, get_workload, parse_case_id

BALANCED = load_profile("balanced").cases
CARD = catalogue()["geforce-rtx-3060-12gb"]
SPREADLESS = {"mean": None, "min": None, "max": None}


def row(case_id, **changes):
    """A sound result of the card at half of its peak."""
    workload, params = parse_case_id(case_id)
    work = workload.work(params)
    peak = CARD.peaks[params["precision"]]
    seconds = 2 * max((work.flops or 0) / peak, (work.bytes or 0) / CARD.bandwidth)
    return {
        "run_id": "one",
        "workload": workload.name,
        "case_id": case_id,
        "cache": "cold",
        "trial": 1,
        "attempt": 1,
        "params": {name: format_value(value) for name, value in params.items()},
        "samples_s": [seconds * (1 + at / 1000) for at in range(9)],
        "timer": "cuda_event",
        "inner": 1,
        "flops": float(work.flops or 0),
        "bytes": float(work.bytes or 0),
        "status": "ok",
        "flags": [],
        "provenance": "measured",
        "backend": "cuda",
        "card_id": CARD.card_id,
        "card": CARD.name,
        "architecture": CARD.architecture,
        "compute_capability": "8.6",
    } | changes


def written(folder, rows):
    path = folder / "results.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema=store.schema()), path)
    return str(path)


def learnt(path):
    return list(evidence.measured(table.load([path]).to_dict("records")))


def test_a_sound_file_teaches_and_scores(tmp_path, capsys):
    """Or else the tests below would hold of files that nobody reads."""
    path = written(tmp_path, [row(case) for case in BALANCED])
    assert len(learnt(path)) == len(BALANCED)
    assert main(["recommend", path, "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    (own,) = [one for one in rows if one["card_id"] == CARD.card_id]
    assert own["performance"] > 0


@pytest.mark.parametrize(
    "lie",
    [
        lambda one: {"flops": one["flops"] / 10, "bytes": one["bytes"] / 10},
        lambda _: {"flops": None, "bytes": None},
        lambda _: {"flops": math.nan, "bytes": 1.0},
        lambda one: {"params": one["params"] | {"precision": "int8"}},
        lambda _: {"workload": "mnist"},
    ],
    ids=["work", "no work", "half the work", "parameters", "workload"],
)
def test_what_is_not_its_cases_own_counts_for_nothing(tmp_path, lie):
    path = written(tmp_path, [one | lie(one) for one in map(row, BALANCED)])
    assert learnt(path) == []
    rows = table.load([path]).to_dict("records")
    assert all(evidence.refused([one]).startswith("wrong: its work") for one in rows)


@pytest.mark.parametrize("most", [math.nan, math.inf, 1e30])
def test_a_clock_that_no_card_has_hides_no_rate_above_the_peak(tmp_path, most):
    clock = {"mean": 1.5e9, "min": 1.5e9, "max": most}
    rows = [row(case, samples_s=[1e-9] * 9, sm_clock_hz=clock) for case in BALANCED]
    assert all("above_peak" in flags for flags in table.load([written(tmp_path, rows)])["flags"])


@pytest.mark.parametrize("joules", [1e-30, 1e30])
def test_energy_that_no_card_draws_is_no_efficiency(tmp_path, capsys, joules):
    path = written(tmp_path, [row(case, energy_j=joules) for case in BALANCED])
    assert main(["recommend", path, "--format", "json"]) == 0
    lied = json.loads(capsys.readouterr().out)["rows"]
    path = written(tmp_path, [row(case) for case in BALANCED])
    assert main(["recommend", path, "--format", "json"]) == 0
    honest = json.loads(capsys.readouterr().out)["rows"]
    efficiencies = [[one["efficiency"] for one in rows] for rows in (lied, honest)]
    assert efficiencies[0] == pytest.approx(efficiencies[1])


@pytest.mark.parametrize(
    "change", [{"flops": -1e12}, {"bytes": -1e12}, {"flops": -1.0, "bytes": None}], ids=str
)
def test_negative_work_teaches_nothing(tmp_path, capsys, change):
    path = written(tmp_path, [row(next(iter(BALANCED)), **change)])
    assert learnt(path) == []
    assert main(["recommend", path]) == 0
    assert "nan" not in capsys.readouterr().out


VERBS = (
    *(["show"], ["show", "--expected"], ["compare"], ["recommend"], ["history"]),
    ["predict", "4090", "--results"],
)
ODD = (
    *({"samples_s": [1e308] * 3}, {"samples_s": [5e-324] * 9}, {"inner": None}, {"inner": 2**62}),
    *({"sm_clock_hz": SPREADLESS}, {"temperature_c": SPREADLESS}, {"case_id": None}),
    *({"flags": ["a", None]}, {"workload": "bert", "params": {}}, {"cuda": "²"}),
    {"started_at": 300_000_000_000_000_000},
)


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
@pytest.mark.parametrize("change", ODD, ids=lambda change: str(change)[:40])
def test_no_cell_of_a_file_ends_in_a_traceback(tmp_path, verb, change):
    first, second, *_ = BALANCED
    rows = [row(first), row(second), row(second, run_id="two"), row(first, run_id="two")]
    whole = pa.Table.from_pylist(rows, schema=store.schema())
    for name, value in change.items():  # types that Python's datetime can't hold
        at = whole.column_names.index(name)
        cells = whole.column(name).to_pylist()
        cells[1] = value
        kind = whole.schema.field(name).type
        cells = (
            pa.array(cells, pa.int64()).cast(kind)
            if name == "started_at"
            else pa.array(cells, kind)
        )
        whole = whole.set_column(at, whole.schema.field(name), cells)
    path = tmp_path / "odd.parquet"
    pq.write_table(whole, path)
    assert main([*verb, str(path)]) in (0, 2)


def test_a_small_file_of_endless_samples_is_refused(tmp_path):
    whole = pa.Table.from_pylist([row(next(iter(BALANCED)))], schema=store.schema())
    count = store.MOST_VALUES + 1
    samples = pa.ListArray.from_arrays(pa.array([0, count], pa.int32()), np.full(count, 1e-3))
    place = whole.column_names.index("samples_s")
    path = tmp_path / "endless.parquet"
    pq.write_table(whole.set_column(place, "samples_s", samples), path)
    assert path.stat().st_size < 1e6
    with pytest.raises(UnreadableResult, match="values in one column"):
        store.read(str(path))


@pytest.mark.parametrize("capability", ["5.2", "8.7", "10.3", "11.0", "12.1"])
@pytest.mark.parametrize("words", [["recommend"], ["predict", "own"], ["doctor", "--card", "own"]])
def test_a_card_of_ones_own_may_be_of_a_new_generation(tmp_path, monkeypatch, capability, words):
    (tmp_path / "cards").mkdir()
    (tmp_path / "cards" / "own.toml").write_text(
        f'name = "NVIDIA Own"\narchitecture = "X"\ncompute_capability = "{capability}"\n'
        "sm_count = 48\ncuda_cores = 6144\nboost_clock_mhz = 2400\nfp64_tflops = 1\n"
        "fp16_tensor_tflops_dense_fp32acc = 100\nmemory_gib = 96\n"
        "memory_bandwidth_gbs = 900\ntdp_w = 250\n"
    )
    monkeypatch.setenv("GPUBENCH_PATH", str(tmp_path))
    forget()
    try:
        assert main(words) in (0, 2)
    finally:
        monkeypatch.undo()
        forget()


def forget():
    """Read the catalogue, and what is computed from it, anew."""
    for known in (catalogue, efficiency._usual_clock, efficiency._usual_flops_per_watt):
        known.cache_clear()


@pytest.mark.parametrize("factor", [20, 1e28])
@pytest.mark.parametrize("copies", [1, 30])
def test_one_file_of_impossible_times_moves_no_other_card(factor, copies):
    """However many rows agree with one another."""
    shipped = Predictor.shipped()
    cases = [case for case in load_suite("quick").cases if case.workload in ("gemm", "conv2d")]
    cases = [case for case in cases if case.precision in ("fp32", "fp16")]
    asked = [_question("geforce-rtx-5090", case) for case in cases]
    wild = [
        replace(
            one,
            series=f"{one.series} {copy}",
            seconds=factor * math.exp(shipped.efficiencies.log_seconds(one)[0]),
        )
        for copy in range(copies)
        for one in asked
    ]
    told = shipped.with_observations(wild)
    other = _question("geforce-rtx-3090", cases[0])
    before, after = (one.efficiencies.log_seconds(other)[0] for one in (shipped, told))
    assert abs(after - before) < math.log(1.1)


def test_what_is_too_far_off_is_said_to_be_left_out():
    shipped = Predictor.shipped()
    one = _question("geforce-rtx-5090", load_suite("quick").cases[0])
    usual = math.exp(shipped.efficiencies.log_seconds(one)[0])
    told = shipped.with_observations([replace(one, seconds=usual), replace(one, seconds=1e9)])
    assert "(1 more too far from all expectation)" in told.basis


def test_a_long_file_is_learnt_from_in_seconds():
    """Each case is an effect of its own, and time grows with the cube of their number."""
    shipped = Predictor.shipped()
    one = _question("geforce-rtx-5090", load_suite("quick").cases[0])
    usual = math.exp(shipped.efficiencies.log_seconds(one)[0])
    many = [replace(one, series=f"case {at}", seconds=usual) for at in range(3000)]
    told = shipped.with_observations(many)
    added = len(told.efficiencies.index) - len(shipped.efficiencies.index)
    assert added < 400


def _question(card_id, case):
    params = dict(case.params)
    declared = get_workload(case.workload).work(params)
    work, operation, launches = evidence.step_of(case.workload, params, declared)
    precision = case.precision or "fp32"
    return _asked(catalogue()[card_id], work, precision, operation, launches, case.id)
