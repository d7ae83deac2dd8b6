"""Floors learnt from a machine's own noise: as high as it makes them, and where they are kept."""

import json
import math
import tomllib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpubench import calibration, cli, plugins, store, table
from gpubench.calibration import Calibration, floor_for, floor_of, keep, kept, learn, splits
from gpubench.compare import MIN_EFFECT, compare, judge
from gpubench.errors import CannotWrite, EnvironmentRefused, UsageError

CASE = "gemm:shape=1024x1024x1024,precision=fp32"
HERE = {"host_hash": "h0st", "card_id": "a-card", "torch": "2.9", "driver": "580"}


def noisy(deviation, count=10, seed=0):
    return np.exp(np.random.default_rng(seed).normal(0, deviation, count)).tolist()


@pytest.fixture
def load(tmp_path, make_record):
    """The frame of runs with these medians, one process each."""

    def load(medians, name="runs", **different):
        records = [
            make_record(**HERE | {"trial": trial, "samples_s": [median] * 6} | different)
            for trial, median in enumerate(medians, start=1)
        ]
        store.Writer(tmp_path / f"{name}.parquet", records)
        return table.load([str(tmp_path / f"{name}.parquet")])

    return load


# the floor ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("deviation", [0.002, 0.01, 0.03, 0.1])
@pytest.mark.parametrize("count", [6, 10, 14])
def test_with_the_learnt_floor_at_most_one_split_in_a_hundred_is_called(count, deviation):
    """By the rule that it is for, on the splits that it was learnt from."""
    medians = noisy(deviation, count)
    floor = floor_of(medians)
    pairs = splits(medians, min(calibration.SIDE, count // 2))
    called = sum(judge(*pair, floor).verdict in ("faster", "slower") for pair in pairs)
    assert called <= 0.01 * len(pairs)


@pytest.mark.parametrize("count", [10, 14])
def test_the_learnt_floor_is_no_higher_than_it_has_to_be(count):
    medians = noisy(0.1, count)
    lower = 0.999 * floor_of(medians)
    assert lower > MIN_EFFECT
    pairs = splits(medians, calibration.SIDE)
    beyond = sum(calibration._beyond(*pair) > math.log1p(lower) for pair in pairs)
    assert beyond > 0.01 * len(pairs)


@given(st.lists(st.floats(0.5, 2.0), min_size=6, max_size=8, unique=True), st.floats(1.0, 4.0))
@settings(max_examples=30)
def test_the_floor_is_never_below_one_per_cent_and_grows_with_the_noise(medians, wilder):
    """Wilder is the same values, further apart on the scale of ratios."""
    floor = floor_of(medians)
    assert floor >= MIN_EFFECT
    assert floor_of([value**wilder for value in medians]) >= floor * (1 - 1e-9)


def test_a_machine_without_noise_has_the_plain_floor():
    assert floor_of([0.01] * 8) == MIN_EFFECT


@pytest.mark.parametrize(("count", "side"), [(6, 3), (10, 5), (20, 5)])
def test_no_process_is_on_both_sides_of_a_split_or_twice_on_one(count, side):
    medians = [float(number) for number in range(1, count + 1)]
    found = splits(medians, side)
    assert 0 < len(found) <= calibration.MOST_SPLITS
    for one, other in found:
        assert len(one) == len(other) == side
        assert len({*one, *other}) == 2 * side
    assert found == splits(medians, side)


# learning -----------------------------------------------------------------------------------------


def test_each_case_gets_a_floor_of_its_own(load, tmp_path):
    load(noisy(0.001), "quiet")
    load(noisy(0.05), "loud", case_id="conv2d:n=1", workload="conv2d", run_id="two")
    learnt = learn(table.load([str(tmp_path)]))
    quiet, loud = learnt.cases[f"{CASE} cold"], learnt.cases["conv2d:n=1 cold"]
    assert MIN_EFFECT == quiet < loud == floor_of(noisy(0.05))
    assert (learnt.host_hash, learnt.card_id, learnt.trials) == ("h0st", "a-card", 10)


@pytest.mark.parametrize("column", ["host_hash", "card_id", "torch", "driver"])
def test_runs_that_differ_in_more_than_noise_are_refused(column, load, tmp_path):
    load(noisy(0.01), "one")
    load(noisy(0.01), "two", run_id="two", **{column: "another"})
    with pytest.raises(UsageError, match=f"differ in {column}: .*another") as caught:
        learn(table.load([str(tmp_path)]))
    assert "only noise" in caught.value.remedy


def test_versions_of_a_workload_are_never_mixed(load, tmp_path):
    load(noisy(0.001), "one", workload_hash="abc")
    load([3 * value for value in noisy(0.001)], "two", run_id="two", workload_hash="abd")
    assert set(learn(table.load([str(tmp_path)])).cases.values()) == {MIN_EFFECT}


@pytest.mark.parametrize("count", [0, 1, 5])
def test_too_few_processes_are_refused_with_what_to_do(count, load):
    with pytest.raises(UsageError, match="no case has 6 processes") as caught:
        learn(load(noisy(0.01, count)))
    assert "gpubench calibrate" in caught.value.remedy


def test_failed_trials_do_not_count(load):
    frame = load(noisy(0.01, 7))
    frame.loc[:1, "status"] = "crashed"
    with pytest.raises(UsageError, match="no case has 6"):
        learn(frame)


# keeping ------------------------------------------------------------------------------------------

LEARNT = Calibration("h0st", "a-card", {f"{CASE} cold": 0.03}, 10, "2026-01-02T03:04:05+00:00")


def test_what_was_kept_is_found_again_for_that_device_only():
    path = keep(LEARNT)
    assert path.parent == plugins.settings()
    assert kept("h0st", "a-card") == LEARNT
    assert kept("h0st", "another-card") is None
    assert kept("another", "a-card") is None


def test_keeping_again_replaces_and_leaves_nothing_else_behind():
    keep(LEARNT)
    newer = Calibration("h0st", "a-card", {"x cold": 0.5}, 6, "2026-02-02")
    path = keep(newer)
    assert kept("h0st", "a-card") == newer
    assert list(path.parent.iterdir()) == [path]


def test_the_folder_is_the_one_of_the_users_configuration(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "elsewhere"))
    assert keep(LEARNT).is_relative_to(tmp_path / "elsewhere")
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert plugins.settings() == tmp_path / "home" / ".config" / "gpubench"


def test_a_folder_that_can_not_be_written_is_refused_with_a_remedy(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "file"))
    with pytest.raises(CannotWrite) as caught:
        keep(LEARNT)
    assert "XDG_CONFIG_HOME" in caught.value.remedy
    assert kept("h0st", "a-card") is None


def test_a_user_without_a_home_is_told_where_to_keep_it(monkeypatch):
    def nobody():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setattr(Path, "home", nobody)
    with pytest.raises(EnvironmentRefused, match="home") as caught:
        keep(LEARNT)
    assert "XDG_CONFIG_HOME" in caught.value.remedy


names = st.one_of(st.text(max_size=200), st.sampled_from(["../../up", "/etc/x", "..", "a\0b", ""]))


@given(names, names)
def test_nothing_of_a_strangers_names_leaves_the_folder(host_hash, card_id):
    path = calibration._path(host_hash, card_id)
    assert path.parent == plugins.settings()
    assert path.name.startswith("calibration-")
    assert not set(path.name) & set('/\\\0"\n')
    assert len(path.name) < 150
    assert kept(host_hash, card_id) is None  # nor does it raise


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
contents = st.one_of(
    anything,
    st.fixed_dictionaries(
        {"calibration_format": st.sampled_from([1, 2, "1", None])},
        optional={
            "host_hash": anything,
            "card_id": anything,
            "cases": anything | st.dictionaries(st.text(max_size=8), anything),
            "trials": anything,
            "learnt_at": anything,
            "surprise": anything,
        },
    ),
)


@settings(max_examples=200)
@given(contents)
def test_a_strange_file_gives_nothing_or_floors_that_can_be_used(content):
    path = calibration._path("h0st", "a-card")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    found = kept("h0st", "a-card")
    assert found is None or all(MIN_EFFECT <= floor < math.inf for floor in found.cases.values())
    if found:
        row = {"host_hash": "h0st", "card_id": "a-card", "case_id": "x", "cache": "cold"}
        assert MIN_EFFECT <= found.floor(row | {"workload": "gemm"}) < math.inf


@pytest.mark.parametrize("damaged", [b"", b"{", b"\xff\xfe\x00", b"[" * 100_000, b"[]", b"1e999"])
def test_a_damaged_file_gives_nothing(damaged):
    path = keep(LEARNT)
    path.write_bytes(damaged)
    assert kept("h0st", "a-card") is None


def test_a_file_of_another_format_gives_nothing():
    path = keep(LEARNT)
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"calibration_format": 2}))
    assert kept("h0st", "a-card") is None


# using --------------------------------------------------------------------------------------------

KNOWN = Calibration(
    "h0st", "a-card", {f"{CASE} cold": 0.03, "gemm:other cold": 0.05, "bert: hot": 0.2}, 10, "2026"
)


@pytest.mark.parametrize(
    ("different", "floor"),
    [
        ({}, 0.03),
        ({"cache": "hot"}, 0.04),  # not calibrated: the median of its workload's
        ({"case_id": "gemm:new"}, 0.04),
        ({"case_id": "conv2d:x", "workload": "conv2d"}, 0.05),  # nor a relative: of them all
        ({"host_hash": "another"}, MIN_EFFECT),
        ({"card_id": "another"}, MIN_EFFECT),
    ],
)
def test_a_row_gets_the_floor_of_its_case_or_of_its_nearest_relatives(different, floor):
    row = {"case_id": CASE, "cache": "cold", "workload": "gemm"} | HERE | different
    assert KNOWN.floor(row) == pytest.approx(floor)


def test_a_calibration_without_cases_changes_nothing():
    row = {"case_id": CASE, "cache": "cold", "workload": "gemm"} | HERE
    assert Calibration("h0st", "a-card").floor(row) == MIN_EFFECT


def row_of(frame):
    return frame.iloc[0].to_dict()


def test_what_the_user_gives_precedes_what_was_learnt_which_precedes_the_plain_floor(load):
    frame = load(noisy(0.01))
    floor, said = floor_for(frame, None)
    assert floor(row_of(frame)) == MIN_EFFECT
    assert said == "minimum effect: 1%; `gpubench calibrate` learns this machine's own"
    keep(LEARNT)
    floor, said = floor_for(frame, None)
    assert floor(row_of(frame)) == 0.03
    assert said == (
        "minimum effect: 3.0% to 3.0% by case, learnt from 10 processes of this machine "
        "on 2026-01-02"
    )
    for given_one in (0.005, 0.0):
        floor, said = floor_for(frame, given_one)
        assert floor(row_of(frame)) == given_one
        assert "as given" in said


def test_results_of_several_devices_take_the_plain_floor_and_no_advice(load, tmp_path):
    keep(LEARNT)
    load(noisy(0.01), "one")
    load(noisy(0.01), "two", run_id="two", card_id="another")
    frame = table.load([str(tmp_path)])
    floor, said = floor_for(frame, None)
    assert {floor(row) for row in frame.to_dict("records")} == {MIN_EFFECT}
    assert said == "minimum effect: 1%"


def test_a_difference_within_a_machines_noise_is_held_back_by_its_floor(load, tmp_path):
    """Two halves of the runs of one build, which the plain floor calls different."""
    medians = noisy(0.03)
    load(medians, "all", run_id="all")
    keep(learn(table.load([str(tmp_path / "all.parquet")])))
    halves = sorted(splits(medians, 5), key=lambda split: calibration._beyond(*split))
    wild = halves[-4]  # among 252 splits two may be called, which are one and its mirror image
    for name, half in zip("ab", wild, strict=True):
        load(half, name, run_id=name)
    frame = table.load([str(tmp_path / "a.parquet"), str(tmp_path / "b.parquet")])
    (row,) = compare(frame, "run")
    assert row["verdict"] in ("slower", "faster")
    floor, _ = floor_for(frame, None)
    (row,) = compare(frame, "run", None, floor)
    assert row["verdict"] == "inconclusive"
    assert row["min_effect"] > MIN_EFFECT


# the verb -----------------------------------------------------------------------------------------


@pytest.fixture
def suite(tmp_path):
    """A suite of one small case."""
    path = tmp_path / "small.toml"
    path.write_text(
        'summary = "one"\n[[case]]\nworkload = "gemm"\nshape = ["512x512x512"]\n'
        'precision = ["fp32"]\n'
    )
    assert tomllib.loads(path.read_text())
    return str(path)


def test_the_verb_measures_learns_keeps_and_compare_uses_it(suite, tmp_path, capsys):
    device = "virtual:geforce-rtx-4090,noise=0.02"
    words = ["--device", device, "--suite", suite, "--trials", "6"]
    out = tmp_path / "out.parquet"
    assert cli.main(["calibrate", *words, "-o", str(out), "--format", "json"]) == 0
    printed = capsys.readouterr()
    (row,) = json.loads(printed.out)["rows"]
    assert row["min_effect"] >= MIN_EFFECT
    frame = table.load([str(out)])
    assert len(frame) == 6
    (path,) = plugins.settings().glob("calibration-*.json")
    assert f"kept in {path}" in printed.err
    # Whatever this noise made of it, a floor that nobody could guess has to come out again.
    content = json.loads(path.read_text())
    content["cases"] = dict.fromkeys(content["cases"], 0.37)
    path.write_text(json.dumps(content))
    other = tmp_path / "other.parquet"
    slow = f"{device},slowdown=1.3"
    assert cli.main(["run", "--device", slow, *words[2:], "-o", str(other)]) == 0
    capsys.readouterr()
    assert cli.main(["compare", str(out), str(other), "--format", "json"]) == 0
    printed = capsys.readouterr()
    (row,) = json.loads(printed.out)["rows"]
    assert (row["min_effect"], row["verdict"]) == (0.37, "same")
    assert "learnt from 6 processes" in printed.err
    assert cli.main(["compare", str(out), str(other), "--min-effect", "2%"]) == 0
    assert "slower" in capsys.readouterr().out


def test_the_verb_learns_from_given_runs_without_measuring(load, tmp_path, capsys):
    load(noisy(0.05))
    assert cli.main(["calibrate", str(tmp_path / "runs.parquet"), "--format", "csv"]) == 0
    assert CASE in capsys.readouterr().out
    assert kept("h0st", "a-card").cases[f"{CASE} cold"] == floor_of(noisy(0.05))


def test_too_few_trials_are_refused_before_anything_is_measured(suite, tmp_path, capsys):
    words = ["--device", "virtual:tesla-t4", "--suite", suite, "--trials", "5"]
    assert cli.main(["calibrate", *words, "-o", str(tmp_path / "out")]) == 2
    assert "--trials 5 is too few" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
