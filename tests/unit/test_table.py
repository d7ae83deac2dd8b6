"""Derived columns by hand-computed numbers; a failure is a row, and never a number."""

import itertools
import math

import pytest

from gpubench import cli, store, table
from gpubench.cards import get_card
from gpubench.record import IDENTITY

RTX_4090 = {
    "backend": "cuda",
    "card_id": "geforce-rtx-4090",
    "card": "NVIDIA GeForce RTX 4090",
    "architecture": "Ada",
}
#: six samples are the fewest that bound their median; here it is 20 ms, within 19 to 21 ms
SAMPLES = [0.021, 0.019, 0.020, 0.020, 0.019, 0.021]
FAILED = {"status": "oom", "reason": "out of memory", "samples_s": None}


@pytest.fixture
def load(tmp_path):
    """The frame of these records, through a file."""

    def load(*records, name="a.parquet"):
        store.Writer(tmp_path / name, records)
        return table.load([str(tmp_path / name)])

    return load


@pytest.fixture
def only(load, make_record):
    """The one row of a record with these differences."""

    def only(**different):
        frame = load(make_record(**{"samples_s": SAMPLES} | different))
        assert len(frame) == 1
        return frame.iloc[0]

    return only


# derived columns ----------------------------------------------------------------------------------


def test_the_median_and_its_interval_come_from_the_samples(only):
    row = only()
    assert row["median_s"] == pytest.approx(0.020)
    assert (row["low_s"], row["high_s"]) == (0.019, 0.021)


def test_rates_are_declared_work_over_the_median(only):
    row = only(flops=4e9, bytes=2e6, items=64.0)
    assert row["flops_per_s"] == pytest.approx(2e11)
    assert row["bytes_per_s"] == pytest.approx(1e8)
    assert row["items_per_s"] == pytest.approx(3200)


def test_work_that_nobody_declared_gives_no_rate(only):
    row = only(flops=None, bytes=None, items=None)
    for rate in ("flops_per_s", "bytes_per_s", "items_per_s", "throughput", "share_of_peak"):
        assert math.isnan(row[rate])


def test_fewer_than_six_samples_have_a_median_without_bounds(only):
    row = only(samples_s=[0.1, 0.2, 0.3, 0.4, 0.5])
    assert row["median_s"] == 0.3
    assert (row["low_s"], row["high_s"]) == (-math.inf, math.inf)


def test_precision_is_a_parameter_and_unknown_without_one(only):
    assert only(params={"precision": "bf16"})["precision"] == "bf16"
    assert only(params={"size": "base"})["precision"] is None
    assert only(params={})["precision"] is None


@pytest.mark.parametrize(
    ("work", "rate", "unit"),
    [
        # What a training step consumes comes first, whatever else it declares.
        ({"items": 64.0, "item": "image", "flops": 4e9, "bytes": 2e6}, 3200, "images/s"),
        ({"items": 64.0, "item": None, "flops": None, "bytes": None}, 3200, "items/s"),
        # 2,000 operations per byte: what counts is how fast it computes.
        ({"flops": 4e9, "bytes": 2e6}, 2e11, "FLOP/s"),
        ({"flops": 4e9, "bytes": None}, 2e11, "FLOP/s"),
        # At four operations per byte and below, every device waits for its memory.
        ({"flops": 8e6, "bytes": 2e6}, 1e8, "B/s"),
        ({"flops": 8.1e6, "bytes": 2e6}, 4.05e8, "FLOP/s"),
        ({"flops": None, "bytes": 2e6}, 1e8, "B/s"),
        ({"flops": 0.0, "bytes": 2e6}, 1e8, "B/s"),
    ],
)
def test_throughput_is_items_then_flops_then_bytes_by_intensity(work, rate, unit, only):
    row = only(**{"items": None, "item": None} | work)
    assert row["throughput"] == pytest.approx(rate)
    assert row["throughput_unit"] == unit


# shares of the peak -------------------------------------------------------------------------------


def test_the_share_of_peak_is_of_the_catalogues_peak_in_that_precision(only):
    peaks = get_card("geforce-rtx-4090").peaks
    for precision in ("fp32", "tf32", "bf16"):
        row = only(
            **RTX_4090,
            params={"precision": precision},
            flops=0.5 * peaks[precision] * 0.020,
            bytes=None,
        )
        assert row["share_of_peak"] == pytest.approx(0.5)
        assert "above_peak" not in row["flags"]


def test_a_convolution_that_may_save_operations_is_above_its_peak_only_beyond_what_it_may_save(
    only,
):
    """Winograd's algorithm needs a fourth of the multiplications that are declared."""
    work = {"params": {"precision": "fp32"}, "bytes": None}
    peak = get_card("geforce-rtx-4090").peaks["fp32"] * 0.020
    winograd = {"algorithm": "may be Winograd"}
    assert "above_peak" in only(**RTX_4090, **work, flops=2 * peak)["flags"]
    assert "above_peak" not in only(**RTX_4090, **work, flops=2 * peak, notes=winograd)["flags"]
    assert "above_peak" in only(**RTX_4090, **work, flops=5 * peak, notes=winograd)["flags"]


def test_without_a_precision_the_share_is_of_fp32(only):
    flops = 0.25 * get_card("geforce-rtx-4090").peaks["fp32"] * 0.020
    assert only(**RTX_4090, params={}, flops=flops, bytes=None)["share_of_peak"] == pytest.approx(
        0.25
    )


def test_the_share_is_of_compute_or_of_bandwidth_whichever_is_more(only):
    card = get_card("geforce-rtx-4090")
    flops, moved = 0.3 * card.peaks["fp32"] * 0.020, 0.8 * card.bandwidth * 0.020
    row = only(**RTX_4090, params={"precision": "fp32"}, flops=flops, bytes=moved)
    assert row["share_of_peak"] == pytest.approx(0.8)
    row = only(**RTX_4090, params={"precision": "fp32"}, flops=2.9 * flops, bytes=moved)
    assert row["share_of_peak"] == pytest.approx(0.87)
    row = only(**RTX_4090, params={"precision": "fp32"}, flops=None, bytes=moved)
    assert row["share_of_peak"] == pytest.approx(0.8)


@pytest.mark.parametrize(("share", "flagged"), [(1.14, False), (1.16, True), (40.0, True)])
def test_a_rate_that_no_clock_explains_is_flagged_above_peak(share, flagged, only):
    flops = share * get_card("geforce-rtx-4090").peaks["fp32"] * 0.020
    row = only(**RTX_4090, params={"precision": "fp32"}, flops=flops, bytes=None, flags=["short"])
    assert row["flags"] == (["short", "above_peak"] if flagged else ["short"])


def test_a_device_outside_the_catalogue_has_no_share_of_peak(only):
    row = only(card_id="cpu-test")
    assert math.isnan(row["share_of_peak"])
    assert row["flags"] == []
    assert math.isnan(only(card_id=None)["share_of_peak"])


# rows that are no measurement ---------------------------------------------------------------------


@pytest.mark.parametrize("status", ["failed", "wrong", "oom", "timeout", "crashed", "unsupported"])
def test_a_case_without_samples_has_unknown_numbers_not_zeros(status, only):
    row = only(status=status, reason="because", samples_s=None)
    for column in ("median_s", "low_s", "high_s", "flops_per_s", "throughput"):
        assert math.isnan(row[column])
    assert row["status"] == status
    assert row["reason"] == "because"


@pytest.mark.parametrize(
    "samples",
    [None, [], [0.0], [0.01, 0.0], [-0.01], [math.nan], [math.inf], [0.01, None]],
)
def test_an_ok_row_without_positive_times_becomes_a_failed_one_never_a_number(
    samples, load, make_record
):
    """As a stranger's file may hold it; the logarithm of nothing must not end the command."""
    frame = load(make_record(samples_s=samples))
    row = table.summary(frame).iloc[0]
    assert row["status"] == "failed"
    assert "samples" in row["reason"] or "times" in row["reason"]
    assert math.isnan(row["median_s"])
    assert row["trials"] == 0


def test_a_row_that_does_not_say_how_it_ended_has_failed(load, make_record):
    frame = load(make_record(status=None), make_record(status="splendid", trial=2))
    assert list(frame["status"]) == ["failed", "failed"]
    assert frame["median_s"].isna().all()


def test_failed_rows_survive_the_summary_with_their_reason(load, make_record):
    found = table.summary(load(make_record(), make_record(case_id="conv", **FAILED)))
    row = found.xs("conv", level="case_id").iloc[0]
    assert (row["status"], row["reason"]) == ("oom", "out of memory")
    assert row["trials"] == 0
    for column in ("median_s", "half_width", "throughput", "share_of_peak"):
        assert math.isnan(row[column])
    assert found.xs(make_record().case_id, level="case_id").iloc[0]["status"] == "ok"


def test_one_failed_trial_shows_beside_the_numbers_of_the_others(load, make_record):
    (row,) = table.as_rows(
        table.summary(
            load(
                make_record(trial=1, samples_s=[0.1] * 6),
                make_record(trial=2, **FAILED),
                make_record(trial=3, samples_s=[0.3] * 6),
            )
        )
    )
    assert (row["status"], row["reason"], row["trials"]) == ("oom", "out of memory", 2)
    assert row["median_s"] == pytest.approx(0.2)


# attempts and files -------------------------------------------------------------------------------


def test_of_a_case_that_was_tried_again_the_last_attempt_counts(load, make_record):
    frame = load(
        make_record(attempt=2, samples_s=[0.2] * 6),
        make_record(attempt=1, **FAILED),
        make_record(trial=2, attempt=1, samples_s=[0.4] * 6),
    )
    assert list(frame["attempt"]) == [2, 1]
    assert list(frame["median_s"]) == [0.2, 0.4]
    assert table.summary(frame).iloc[0]["status"] == "ok"


def test_other_runs_trials_and_cache_states_are_no_attempts(load, make_record):
    frame = load(
        make_record(),
        make_record(run_id="run-2"),
        make_record(trial=2),
        make_record(cache="hot"),
    )
    assert len(frame) == 4


def test_a_file_that_is_given_twice_counts_once(tmp_path, make_record):
    store.Writer(tmp_path / "a.parquet", [make_record()])
    store.Writer(tmp_path / "copy.parquet", [make_record()])
    frame = table.load([str(tmp_path), str(tmp_path / "a.parquet")])
    assert len(frame) == 1


def test_rows_know_their_file_and_keep_its_order(tmp_path, make_record):
    for name in ("b", "a"):
        records = [make_record(run_id=name, trial=trial) for trial in (2, 1)]
        store.Writer(tmp_path / f"{name}.parquet", records)
    frame = table.load([str(tmp_path / "b.parquet"), str(tmp_path / "a.parquet")])
    assert list(frame["file"]) == ["b.parquet"] * 2 + ["a.parquet"] * 2
    assert list(frame["trial"]) == [2, 1, 2, 1]


def test_a_run_that_ended_before_its_first_row_is_an_empty_table(load, make_record):
    frame = load()
    assert len(frame) == 0
    found = table.summary(frame)
    assert len(found) == 0
    assert found.index.names == table.INDEX
    assert table.with_text(table.as_rows(found)) == []
    assert list(found.columns) == list(table.summary(load(make_record())).columns)


# the summary --------------------------------------------------------------------------------------


def test_the_summary_is_keyed_by_architecture_card_workload_and_case(load, make_record):
    found = table.summary(
        load(
            make_record(**RTX_4090, workload="memory", case_id="memory:copy"),
            make_record(**RTX_4090),
            make_record(run_id="on the processor"),
        )
    )
    assert found.index.names == ["architecture", "card", "workload", "case_id"]
    gemm = make_record().case_id
    assert list(found.index) == [
        ("Ada", "NVIDIA GeForce RTX 4090", "gemm", gemm),
        ("Ada", "NVIDIA GeForce RTX 4090", "memory", "memory:copy"),
        ("x86_64", "Test processor", "gemm", gemm),
    ]


def test_cold_and_hot_are_two_rows(load, make_record):
    found = table.summary(load(make_record(cache="cold"), make_record(cache="hot")))
    assert sorted(found["cache"]) == ["cold", "hot"]


def test_a_row_that_does_not_say_where_it_ran_is_not_left_out(load, make_record):
    found = table.summary(
        load(make_record(architecture=None, card=None, cache=None), make_record(run_id="other"))
    )
    assert len(found) == 2
    assert found["median_s"].notna().all()


def test_with_one_trial_the_interval_is_that_of_its_samples(load, make_record):
    row = table.summary(load(make_record(samples_s=SAMPLES))).iloc[0]
    assert row["spread"] == "samples"
    assert row["half_width"] == pytest.approx(0.05)


def test_with_more_trials_the_interval_is_that_between_processes(load, make_record):
    """Samples without any spread inside each process must not hide the one between them."""
    medians = (0.100, 0.102, 0.098)
    records = [
        make_record(trial=trial, samples_s=[median] * 20)
        for trial, median in enumerate(medians, start=1)
    ]
    row = table.summary(load(*records)).iloc[0]
    assert row["spread"] == "trials"
    assert row["median_s"] == pytest.approx(0.100)
    # Student's t for two degrees of freedom is 4.303; the logarithms' deviation is 2.0 %.
    deviation = 0.020002
    assert row["half_width"] == pytest.approx(4.3027 * deviation / math.sqrt(3), rel=1e-3)


def test_throughput_and_share_follow_the_median_over_trials(load, make_record):
    card = get_card("geforce-rtx-4090")
    work = {"flops": 0.5 * card.peaks["fp32"] * 0.1, "bytes": None, "params": {}}
    records = [
        make_record(**RTX_4090, **work, trial=trial, samples_s=[median] * 6)
        for trial, median in enumerate((0.1, 0.2, 0.4), start=1)
    ]
    row = table.summary(load(*records)).iloc[0]
    assert row["share_of_peak"] == pytest.approx(0.25)
    assert row["throughput"] == pytest.approx(0.25 * card.peaks["fp32"])


def test_flags_of_all_ok_trials_are_shown_once(load, make_record):
    found = table.summary(
        load(
            make_record(trial=1, flags=["short", "unsettled"]),
            make_record(trial=2, flags=["short"]),
            make_record(trial=3, flags=["lost"], **FAILED),
        )
    )
    assert found.iloc[0]["flags"] == ["short", "unsettled"]


@pytest.mark.parametrize("order", list(itertools.permutations(range(4)))[::5])
def test_the_order_of_rows_is_no_matter_to_the_numbers(order, load, make_record):
    frame = load(
        *(
            make_record(trial=trial, samples_s=[median] * 6)
            for trial, median in enumerate((0.1, 0.2, 0.25, 0.4))
        )
    )
    plain, shuffled = (table.summary(rows).iloc[0] for rows in (frame, frame.iloc[list(order)]))
    for column in ("median_s", "half_width", "throughput", "trials"):
        assert shuffled[column] == pytest.approx(plain[column])


# for people ---------------------------------------------------------------------------------------


def test_unknown_numbers_leave_the_table_as_none(load, make_record):
    (row,) = table.as_rows(table.summary(load(make_record(**FAILED))))
    assert row["median_s"] is None
    assert row["share_of_peak"] is None
    assert row["case_id"] == make_record().case_id


def test_people_see_the_status_or_the_flags_and_virtual_cards_are_named(load, make_record):
    rows = table.with_text(
        table.as_rows(
            table.summary(
                load(
                    make_record(case_id="a"),
                    make_record(case_id="b", flags=["short", "unsettled"]),
                    make_record(case_id="c", **FAILED),
                    make_record(case_id="d", provenance="virtual"),
                )
            )
        )
    )
    assert [row["result"] for row in rows] == ["ok", "short unsettled", "oom", "ok"]
    assert ["(virtual)" in row["card"] for row in rows] == [False, False, False, True]
    assert rows[0]["throughput_text"].endswith("FLOP/s")
    assert rows[2]["throughput_text"] == "–"


def test_trials_of_different_software_or_code_are_different_rows(load, make_record):
    records = [
        make_record(trial=1, torch="2.12.0"),
        make_record(trial=2, torch="2.13.0"),
        make_record(trial=3, torch="2.13.0"),
        make_record(trial=4, torch="2.13.0", workload_hash="other"),
    ]
    found = table.summary(load(*records))
    assert sorted(found["trials"]) == [1, 1, 2]


@pytest.mark.parametrize("column", IDENTITY)
def test_what_compare_calls_incomparable_is_never_pooled(column, load, make_record):
    """Two ways of timing, or of a cold cache, are two lines of `show`."""
    other = 2 if column == "workload_version" else "other"
    found = table.summary(load(make_record(trial=1), make_record(trial=2, **{column: other})))
    assert list(found["trials"]) == [1, 1]
    assert set(IDENTITY) <= set(table.SAME)


@pytest.mark.parametrize("form", ["table", "markdown"])
@pytest.mark.parametrize("flags", [[], ["--expected"]])
@pytest.mark.parametrize("column", ["workload_hash", "workload_version", "timer", "cold_by"])
def test_two_results_under_one_case_id_are_shown_under_two_names(
    column, flags, form, tmp_path, make_record, capsys
):
    other = 2 if column == "workload_version" else "other"
    small = {"case_id": "gemm:shape=8", "params": {"shape": "8"}}
    for name, different in (("a", {}), ("b", {column: other})):
        cases = [make_record(run_id=name, **different), make_record(run_id=name, **small)]
        store.Writer(tmp_path / f"{name}.parquet", cases)
    assert cli.main(["show", str(tmp_path), "--format", form, *flags]) == 0
    printed = capsys.readouterr().out.splitlines()
    cells = [line.replace("|", " ").split(" cold ")[0] for line in printed if " cold " in line]
    assert len(cells) == 3  # what doesn't differ is still one row
    assert len(set(cells)) == 3
    assert sum("other" in cell or "version 2" in cell for cell in cells) == 1


def test_a_trial_without_a_result_was_timed_in_no_way_and_counts_among_the_others(
    load, make_record
):
    cold = {"timer": "cuda_event", "cold_by": "rotation"}
    untimed = {"timer": None, "cold_by": None}
    found = table.summary(
        load(
            make_record(trial=1, **FAILED, **untimed),
            make_record(trial=2, **cold),
            make_record(trial=3, **cold),
        )
    )
    assert [list(found[name]) for name in ("status", "trials", "timer")] == [
        ["oom"],
        [2],
        ["cuda_event"],
    ]


def test_what_one_suite_left_out_and_another_measured_is_ok(load, make_record):
    left_out = {"status": "unsupported", "reason": "left out: too slow", "samples_s": None}
    found = table.summary(load(make_record(run_id="full"), make_record(run_id="quick", **left_out)))
    assert list(found["status"]) == ["ok"]
    assert list(found["reason"]) == [None]
    assert list(found["trials"]) == [1]


# of which card or machine ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other", "words"),
    [
        (
            {"device_uuid_hash": "ab12ef"},
            {"device_uuid_hash": "cd34ef"},
            "2 cards, #ab12 and #cd34",
        ),
        ({"host_hash": "ab12ef"}, {"host_hash": "cd34ef"}, "2 machines, #ab12 and #cd34"),
        ({"host_hash": "ab12ef"}, {"host_hash": "ab12ef"}, ""),
        ({"host_hash": "ab12ef"}, {"host_hash": None}, ""),
        ({}, {}, ""),
        (
            {"device_uuid_hash": "ab12ef", "host_hash": "1"},
            {"device_uuid_hash": "ab12ef", "host_hash": "2"},
            "",  # a card that changed its machine
        ),
        ({"host_hash": "ab12ef"}, {"host_hash": "cd34ef", "torch": "1.0"}, ""),  # a row of its own
        ({"host_hash": "ab12ef"}, {"host_hash": "cd34ef", **FAILED}, ""),
    ],
)
def test_that_trials_of_several_are_pooled_is_said(load, make_record, one, other, words):
    frame = load(make_record(**one), make_record(run_id="run-2", **other))
    lines = table.pooled(frame)
    expected = [f"Test processor: trials of {words}, are pooled"] if words else []
    assert lines == expected


@pytest.mark.parametrize(
    ("different", "said"),
    [
        ({"run_id": "run-2"}, True),
        ({"trial": 2}, False),  # one run in two files: its parts
        ({"run_id": "run-2", "case_id": "gemm:n=1"}, False),  # nothing is pooled
        ({"run_id": "run-2", "torch": "1.0"}, False),
        ({"run_id": "run-2", **FAILED}, False),
    ],
)
def test_that_runs_are_pooled_is_said_with_what_tells_them_apart(
    different, said, tmp_path, make_record, capsys
):
    for name, differing in (("a", {}), ("b", different)):
        store.Writer(tmp_path / f"{name}.parquet", [make_record(**differing)])
    assert cli.main(["show", str(tmp_path)]) == 0
    line = "trials of 2 runs are pooled; `gpubench compare` tells them apart\n"
    assert (line in capsys.readouterr().err) == said


# what is said below a table -----------------------------------------------------------------------


@pytest.mark.parametrize(("trials", "said"), [((1,), True), ((1, 2), False)])
def test_an_interval_of_one_trial_is_said_to_know_that_process_only(
    tmp_path, make_record, capsys, trials, said
):
    records = [make_record(trial=trial, samples_s=SAMPLES) for trial in trials]
    store.Writer(tmp_path / "a.parquet", records)
    assert cli.main(["show", str(tmp_path / "a.parquet")]) == 0
    assert (table.ONE_TRIAL in capsys.readouterr().err) == said
    assert cli.main(["show", str(tmp_path / "a.parquet"), "--format", "json"]) == 0
    assert capsys.readouterr().err == ""


def test_reasons_that_many_cases_share_are_said_once_and_each_failure_by_itself(load, make_record):
    lacking = {"status": "unsupported", "reason": "bf16: no kernel", "samples_s": None}
    frame = load(
        *(make_record(case_id=f"gemm:n={n}", **lacking) for n in range(41)),
        make_record(case_id="conv2d:n=1", **lacking | {"reason": "too large"}),
        *(make_record(case_id=f"bert:n={n}", **FAILED) for n in range(2)),
        make_record(),
    )
    assert sorted(table.reasons(table.as_rows(table.summary(frame)))) == [
        "41 cases: bf16: no kernel",
        "bert:n=0: out of memory",
        "bert:n=1: out of memory",
        "conv2d:n=1: too large",
    ]
