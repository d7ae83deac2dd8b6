"""Verdicts that start at "don't know", and are no better than the evidence."""

import itertools
import math
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gpubench import compare as comparison
from gpubench import stats, store, table
from gpubench.cli import main
from gpubench.compare import (
    Rule,
    at_other_times,
    compare,
    conclusions,
    elsewhere,
    judge,
    judge_pairs,
    next_step,
    show_speedup,
)
from gpubench.errors import UsageError
from gpubench.record import IDENTITY

VERDICTS = {"faster", "slower", "same", "inconclusive", "incomparable"}
OPPOSITE = {"faster": "slower", "slower": "faster"}
FAILED = {"status": "oom", "reason": "out of memory", "samples_s": None}
FIRST = datetime(2026, 1, 1, tzinfo=UTC)

#: medians of five processes with 0.3 % between them
STEADY = (1.000, 1.003, 0.997, 1.002, 0.998)
#: and with 10 %
NOISY = (1.00, 1.10, 0.92, 1.13, 0.89)


def scaled(medians, factor):
    return tuple(factor * median for median in medians)


medians = st.lists(st.floats(1e-6, 100), min_size=1, max_size=8)
effects = st.sampled_from([0.0, 0.001, 0.01, 0.05, 0.3])


@pytest.fixture
def side(tmp_path, make_record):
    """Write one side's file: a row per median of a trial, or per mapping of what is different."""
    count = itertools.count()

    def side(name, trials, **different):
        start = FIRST + timedelta(days=next(count))
        records = []
        for number, trial in enumerate(trials, start=1):
            own = trial if isinstance(trial, dict) else {"samples_s": [trial] * 6}
            basics = {"run_id": f"run of {name}", "trial": number, "started_at": start}
            records.append(make_record(**basics | different | own))
        store.Writer(tmp_path / f"{name}.parquet", records)

    return side


@pytest.fixture
def verdicts(tmp_path):
    """Compare everything that was written."""

    def verdicts(**options):
        return compare(table.load([str(tmp_path)]), **options)

    return verdicts


# the rule -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("baseline", "contender", "verdict", "reason"),
    [
        (STEADY, scaled(STEADY, 1.05), "slower", "above_floor"),
        (STEADY, scaled(STEADY, 0.95), "faster", "above_floor"),
        (STEADY, scaled(STEADY, 1.001), "same", "within_floor"),
        (STEADY, STEADY, "same", "within_floor"),
        (NOISY, scaled(NOISY, 1.05), "inconclusive", "wide_interval"),
        (NOISY, NOISY, "inconclusive", "wide_interval"),
        (NOISY, scaled(NOISY, 2.0), "slower", "above_floor"),
        ((1.0,), (5.0,), "inconclusive", "few_trials"),
        ((1.0,), scaled(STEADY, 5.0), "inconclusive", "few_trials"),
        (STEADY[:2], scaled(STEADY, 5.0), "inconclusive", "few_trials"),
        (STEADY, [5.0, 5.0, 5.0], "inconclusive", "no_spread"),
    ],
)
def test_each_verdict_is_reached_by_its_evidence(baseline, contender, verdict, reason):
    judgement = judge(baseline, contender)
    assert (judgement.verdict, judgement.reason) == (verdict, reason)
    assert reason in comparison.MEANING


def test_a_difference_below_the_floor_is_held_back_however_sure_it_is():
    """Significant is not relevant: 0.5 % apart, with a hundredth of a percent of noise."""
    baseline = [1.0, 1.0001, 0.9999, 1.0, 1.0001]
    contender = list(scaled(baseline, 1.005))
    ratio = stats.welch(baseline, contender).interval()
    assert ratio.low > 1.004
    assert judge(baseline, contender).verdict == "same"
    assert judge(baseline, contender, min_effect=0.004).verdict == "slower"
    assert judge(contender, baseline, min_effect=0.004).verdict == "faster"


def test_the_floor_is_as_high_on_the_way_down_as_on_the_way_up():
    """It is of ratios: 30 % slower is a factor of 1.3, and 30 % faster one of 1 / 1.3."""
    for factor in (1.33, 1.39):
        assert judge(STEADY, scaled(STEADY, factor), 0.3).verdict == "slower"
        assert judge(STEADY, scaled(STEADY, 1 / factor), 0.3).verdict == "faster"
    for factor in (1.25, 1 / 1.25):
        assert judge(STEADY, scaled(STEADY, factor), 0.3).verdict == "same"


def test_an_interval_that_reaches_across_the_floor_settles_nothing():
    baseline = [1.0, 1.001, 0.999, 1.0, 1.001]
    assert judge(baseline, scaled(baseline, 1.01)).verdict == "inconclusive"


@given(medians, medians, effects)
def test_swapping_the_sides_turns_faster_into_slower_and_changes_nothing_else(
    baseline, contender, min_effect
):
    there, back = judge(baseline, contender, min_effect), judge(contender, baseline, min_effect)
    edges = (1 + min_effect, 1 / (1 + min_effect))
    bounds = (there.ratio.low, there.ratio.high)
    assume(not any(math.isclose(*pair, rel_tol=1e-9) for pair in itertools.product(edges, bounds)))
    assert back.verdict == OPPOSITE.get(there.verdict, there.verdict)
    assert back.reason == there.reason


@given(medians, medians, effects, st.randoms())
def test_the_order_of_the_trials_is_no_matter(baseline, contender, min_effect, random):
    plain = judge(baseline, contender, min_effect)
    bounds = (plain.ratio.low, plain.ratio.high)
    edges = (1 + min_effect, 1 / (1 + min_effect))
    assume(not any(math.isclose(*pair, rel_tol=1e-9) for pair in itertools.product(edges, bounds)))
    shuffled = judge(
        random.sample(baseline, len(baseline)), random.sample(contender, len(contender)), min_effect
    )
    assert shuffled.verdict == plain.verdict


@given(medians, medians)
def test_a_larger_floor_never_makes_a_difference_of_what_was_none(baseline, contender):
    small, large = (judge(baseline, contender, effect).verdict for effect in (0.01, 0.1))
    if large in OPPOSITE:
        assert small == large
    if small == "same":
        assert large == "same"


@given(st.lists(st.floats(1e-6, 100), min_size=1, max_size=2, unique=True), medians)
def test_fewer_than_three_processes_on_a_side_never_settle_anything(few, others):
    assume(len(set(others)) > 1 or len(others) == 1)
    for sides in ((few, others), (others, few)):
        judgement = judge(*sides)
        assert (judgement.verdict, judgement.reason) == ("inconclusive", "few_trials")
        assert judgement.chance is None


# how often it is wrong ----------------------------------------------------------------------------


def share_of(verdict, deviation, trials, effect=1.0, draws=2000):
    """How often this rule says ``verdict`` of builds that are ``effect`` apart.

    Each process has an effect of its own, log-normal with this deviation.
    """
    rng = np.random.default_rng([trials, round(1000 * deviation)])
    found = 0
    for _ in range(draws):
        baseline = np.exp(rng.normal(0, deviation, trials))
        contender = effect * np.exp(rng.normal(0, deviation, trials))
        found += judge(baseline.tolist(), contender.tolist()).verdict == verdict
    return found / draws


@pytest.mark.parametrize("trials", [2, 3, 5, 10])
@pytest.mark.parametrize("deviation", [0.01, 0.03])
def test_identical_builds_are_called_slower_in_at_most_one_of_a_hundred_comparisons(
    deviation, trials
):
    """What the rule claims; the interval without the floor would be wrong 2.5 times as often."""
    uncertain = 0.002  # what 2,000 draws leave open
    assert share_of("slower", deviation, trials) <= 0.01 + uncertain
    assert share_of("faster", deviation, trials) <= 0.01 + uncertain


def test_identical_builds_on_a_very_noisy_machine_are_called_slower_less_often_than_chance():
    """At 5 % between processes the floor of 1 % is little help; the interval still bounds it."""
    assert share_of("slower", 0.05, 5) <= 0.025


def test_a_true_difference_is_found_when_the_trials_suffice():
    assert share_of("slower", 0.01, 10, effect=1.03) > 0.9
    assert share_of("slower", 0.01, 5, effect=1.05) > 0.9
    assert share_of("faster", 0.01, 10, effect=1.03) == 0


# sides that ran in turns --------------------------------------------------------------------------

#: a machine that gets slower by a tenth from one round to the next
SLOWING = (1.0, 1.1, 1.2, 1.3, 1.4, 1.5)


def in_turn(factor):
    """Medians of two sides in that machine's hours, 0.2 % of noise within a pair."""
    noise = (0.999, 1.001, 1.0, 1.002, 0.998, 1.0)
    return list(SLOWING), [factor * hour * off for hour, off in zip(SLOWING, noise, strict=True)]


@pytest.mark.parametrize(
    ("factor", "verdict"), [(1.05, "slower"), (1 / 1.05, "faster"), (1.0, "same")]
)
def test_a_drift_that_both_sides_share_cancels_in_pairs_and_nowhere_else(factor, verdict):
    baseline, contender = in_turn(factor)
    assert judge(baseline, contender).verdict == "inconclusive"
    assert judge_pairs(baseline, contender).verdict == verdict


@pytest.mark.parametrize(
    ("ratios", "reason"),
    [
        ([], "few_trials"),
        ([1.5], "few_trials"),
        ([1.5, 1.6], "few_trials"),
        ([2.0, 2.0, 2.0, 2.0], "no_spread"),
        ([0.9, 1.5, 0.8, 1.2, 1.1, 0.7], "wide_interval"),
    ],
)
def test_pairs_settle_nothing_without_evidence(ratios, reason):
    judgement = judge_pairs([1.0] * len(ratios), ratios)
    assert (judgement.verdict, judgement.reason) == ("inconclusive", reason)


@settings(max_examples=50)
@given(st.lists(st.tuples(*[st.floats(0.5, 2.0)] * 2), min_size=1, max_size=9), effects)
def test_swapping_the_sides_of_pairs_turns_faster_into_slower(pairs, min_effect):
    baseline, contender = (list(side) for side in zip(*pairs, strict=True))
    there = judge_pairs(baseline, contender, min_effect)
    back = judge_pairs(contender, baseline, min_effect)
    edges = (1 + min_effect, 1 / (1 + min_effect))
    bounds = (there.ratio.low, there.ratio.high)
    assume(not any(math.isclose(*pair, rel_tol=1e-9) for pair in itertools.product(edges, bounds)))
    assert back.verdict == OPPOSITE.get(there.verdict, there.verdict)


def test_rows_are_paired_by_their_trial_whatever_their_order_in_the_file(side, verdicts):
    baseline, contender = in_turn(1.05)
    rows = [
        {"trial": trial, "samples_s": [median] * 6}
        for trial, median in enumerate(contender, start=1)
    ]
    side("a", baseline)
    side("b", rows[3:] + rows[:3])
    assert [row["verdict"] for row in verdicts()] == ["inconclusive"]
    assert [row["verdict"] for row in verdicts(paired=True)] == ["slower"]


def test_a_trial_without_its_partner_is_no_pair(side, verdicts):
    baseline, contender = in_turn(1.05)
    side("a", baseline[:2])
    side("b", contender)
    (row,) = verdicts(paired=True)
    assert (row["verdict"], row["reason"]) == ("inconclusive", "few_trials")


# many cases at once -------------------------------------------------------------------------------


def with_cases(name, side, factors, medians):
    """One run whose n-th case takes ``factors[n]`` times these medians."""
    side(
        name,
        [
            {"case_id": f"case-{number}", "trial": trial, "samples_s": [factor * median] * 6}
            for number, factor in enumerate(factors)
            for trial, median in enumerate(medians, start=1)
        ],
    )


#: 5 trials a side that are 2.05 % apart clear the floor of 1 % with a chance of 1.7 %
BARELY = 1.0205
WIDER = (1.0, 1.006, 0.994, 1.004, 0.996)


def test_what_is_barely_clear_alone_is_to_be_expected_among_many_cases(side, verdicts):
    with_cases("a", side, [1.0], WIDER)
    with_cases("b", side, [BARELY], WIDER)
    (alone,) = verdicts()
    assert (alone["verdict"], alone["reason"]) == ("slower", "above_floor")
    assert 0.005 < alone["chance"] == alone["false_discovery_rate"] < 0.05


def test_among_forty_equal_cases_the_barely_clear_one_is_taken_back_and_a_strong_one_stays(
    side, verdicts
):
    equal = [1.0] * 40
    with_cases("a", side, [1.0, 1.0, *equal], WIDER)
    with_cases("b", side, [BARELY, 1.2, *equal], WIDER)
    rows = {row["case_id"]: row for row in verdicts()}
    assert rows["case-0"]["verdict"] == "inconclusive"
    assert rows["case-0"]["reason"] == "many_cases"
    assert rows["case-0"]["detail"] == comparison.MEANING["many_cases"]
    assert rows["case-0"]["chance"] < 0.05 < rows["case-0"]["false_discovery_rate"]
    assert (rows["case-1"]["verdict"], rows["case-1"]["reason"]) == ("slower", "above_floor")
    assert rows["case-1"]["false_discovery_rate"] < 0.05
    assert {rows[f"case-{number}"]["verdict"] for number in range(2, 42)} == {"same"}


def test_many_barely_clear_cases_support_each_other(side, verdicts):
    """If thirty of forty are so unlikely, they are not the one in twenty that chance makes."""
    with_cases("a", side, [1.0] * 40, WIDER)
    with_cases("b", side, [BARELY] * 30 + [1.0] * 10, WIDER)
    found = [row["verdict"] for row in verdicts()]
    assert (found.count("slower"), found.count("same")) == (30, 10)


def test_equal_builds_of_many_cases_are_rarely_called_at_all(make_record):
    """The point of it: not one false verdict in most comparisons of forty cases."""
    rng = np.random.default_rng(3)
    called = 0
    for _ in range(100):
        sides = np.exp(rng.normal(0, 0.03, (2, 40, 5)))
        chances = [judge(*map(list, pair)).chance for pair in sides.swapaxes(0, 1)]
        called += min(stats.false_discovery(chances)) <= 0.05
    assert called <= 8


# what can be compared -----------------------------------------------------------------------------


def test_sides_are_compared_case_by_case_with_their_times(side, verdicts):
    side("a", STEADY)
    side("b", scaled(STEADY, 1.25))
    (row,) = verdicts()
    assert (row["baseline"], row["side"], row["verdict"]) == ("a", "b", "slower")
    assert row["baseline_s"] == pytest.approx(1.0, rel=1e-5)
    assert row["median_s"] == pytest.approx(1.25, rel=1e-5)
    assert row["speedup"] == pytest.approx(0.8)
    assert row["speedup_low"] < 0.8 < row["speedup_high"]
    assert (row["baseline_trials"], row["trials"]) == (5, 5)


#: a side of three trials, one of them far out: its median is not its mean
OUTLYING = (1.0, 1.01, 3.0)


@pytest.mark.parametrize("other", [STEADY, OUTLYING, (0.5, 2.0), (1.5,)])
def test_the_times_beside_a_speedup_have_that_ratio(other, side, verdicts):
    side("a", OUTLYING)
    side("b", other)
    (row,) = verdicts()
    assert row["baseline_s"] / row["median_s"] == pytest.approx(row["speedup"])


def test_where_runs_are_the_units_the_times_are_theirs(side, verdicts):
    side("a", OUTLYING, card="before")
    side("b", [*OUTLYING, {"samples_s": [9.0] * 6, "run_id": "second"}], card="after")
    (row,) = verdicts(by="card")
    assert row["baseline_s"] / row["median_s"] == pytest.approx(row["speedup"])


def test_of_pairs_the_times_are_of_those_that_are_whole(side, verdicts):
    baseline, contender = in_turn(1.05)
    side("a", [*baseline, 50.0])
    side("b", contender)
    (row,) = verdicts(paired=True)
    assert row["baseline_s"] / row["median_s"] == pytest.approx(row["speedup"])


def test_one_wild_round_of_many_pairs_moves_neither_the_speedup_nor_the_times(side, verdicts):
    baseline, contender = (values * 3 for values in in_turn(1.05))
    side("a", baseline)
    side("b", [100.0, *contender[1:]])
    (row,) = verdicts(paired=True)
    assert row["speedup"] == pytest.approx(1 / 1.05, rel=0.01)
    assert row["baseline_s"] / row["median_s"] == pytest.approx(row["speedup"], rel=0.05)


def test_swapping_the_baseline_mirrors_every_verdict(side, verdicts):
    cases = {"up": 1.3, "down": 0.7, "level": 1.0}
    side("a", [{"case_id": c, "samples_s": [m] * 6, "trial": t} for c in cases for t, m in each()])
    side(
        "b",
        [
            {"case_id": case, "samples_s": [factor * median] * 6, "trial": trial}
            for case, factor in cases.items()
            for trial, median in each()
        ],
    )
    there, back = (
        {row["case_id"]: row for row in verdicts(baseline=baseline)} for baseline in ("a", "b")
    )
    assert {case: row["verdict"] for case, row in there.items()} == {
        "up": "slower",
        "down": "faster",
        "level": "same",
    }
    for case, row in there.items():
        assert back[case]["verdict"] == OPPOSITE.get(row["verdict"], row["verdict"])
        assert back[case]["speedup"] == pytest.approx(1 / row["speedup"])
        assert back[case]["speedup_low"] == pytest.approx(1 / row["speedup_high"])


def each():
    return enumerate(STEADY, start=1)


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_the_rows_is_no_matter(seed, side, verdicts, tmp_path):
    side("a", [*STEADY, {"case_id": "conv", **FAILED}])
    side("b", [*scaled(STEADY, 1.1), {"case_id": "conv"}], torch="2.9")
    side("c", scaled(NOISY, 1.1))
    frame = table.load([str(tmp_path)])
    plain = compare(frame)
    shuffled = compare(frame.sample(frac=1, random_state=seed).reset_index(drop=True))

    def key(row):
        return (row["side"], row["case_id"])

    for before, after in zip(sorted(plain, key=key), sorted(shuffled, key=key), strict=True):
        assert key(after) == key(before)
        for column in ("verdict", "reason", "baseline", "trials", "cache"):
            assert after[column] == before[column]
        assert after["speedup"] == pytest.approx(before["speedup"])


@pytest.mark.parametrize(
    ("column", "ours", "theirs"),
    [
        ("workload_version", 1, 2),
        ("workload_hash", "abc", "abd"),
        ("timer", "cuda_event", "host"),
        ("cold_by", "rotation", "flush"),
        ("provenance", "measured", "virtual"),
    ],
)
def test_different_things_are_incomparable_and_the_detail_says_in_what(
    column, ours, theirs, side, verdicts
):
    side("a", STEADY, **{column: ours})
    side("b", scaled(STEADY, 2), **{column: theirs})
    (row,) = verdicts()
    assert (row["verdict"], row["reason"]) == ("incomparable", "differs")
    assert row["detail"] == f"{column} {ours} against {theirs}"
    assert row["speedup"] is None


def test_what_is_expected_to_differ_is_compared_all_the_same(side, verdicts):
    """Two versions of a workload are what `ab` sets against each other."""
    side("a", STEADY, workload_hash="abc", workload_version=1)
    side("b", scaled(STEADY, 2), workload_hash="abd", workload_version=1)
    (row,) = verdicts(may_differ={"workload_hash"})
    assert row["verdict"] == "slower"
    assert [row["verdict"] for row in verdicts(may_differ={"timer"})] == ["incomparable"]


def test_one_side_may_not_be_a_mixture_of_what_is_expected_to_differ(side, verdicts):
    side("a", STEADY, workload_hash="abc")
    side("b", [*STEADY, {"workload_hash": "abd"}], workload_hash="abc")
    assert [row["verdict"] for row in verdicts(may_differ={"workload_hash"})] == ["incomparable"]


def test_a_side_that_is_a_mixture_is_incomparable(side, verdicts):
    side("a", STEADY)
    side("b", [{"timer": "host", "samples_s": [1.0] * 6}, {"timer": "cuda_event"}])
    (row,) = verdicts()
    assert (row["verdict"], row["detail"]) == ("incomparable", "timer host against cuda_event/host")


def test_two_mixtures_of_the_same_things_are_incomparable(side, verdicts):
    mixture = [{"timer": "host", "samples_s": [1.0] * 6}, {"timer": "cuda_event"}]
    side("a", mixture)
    side("b", mixture)
    assert [row["verdict"] for row in verdicts()] == ["incomparable"]


def test_cache_states_are_never_compared_with_each_other(side, verdicts):
    side("a", STEADY, cache="cold")
    side("b", scaled(STEADY, 0.5), cache="hot")
    assert {row["verdict"] for row in verdicts()} == {"incomparable"}


@pytest.mark.parametrize("missing", ["a", "b"])
def test_a_case_that_one_side_lacks_is_said_to_be_missing(missing, side, verdicts):
    for name in ("a", "b"):
        extra = [] if name == missing else [{"case_id": "conv"}]
        side(name, [*STEADY, *extra], card=f"card of {name}")
    conv, gemm = sorted(verdicts(), key=lambda row: row["case_id"])
    assert gemm["verdict"] == "same"
    assert (conv["verdict"], conv["reason"]) == ("incomparable", "one_side_only")
    assert "has no such case" in conv["detail"]
    assert ("baseline" in conv["detail"]) == (missing == "a")
    assert conv["card"] == "card of b"  # a row is about its side, also where that has nothing
    assert conv["speedup"] is None


@pytest.mark.parametrize("failing", ["a", "b"])
@pytest.mark.parametrize("status", ["failed", "wrong", "oom", "timeout", "crashed", "unsupported"])
def test_a_side_without_any_ok_trial_is_incomparable_with_its_reason(
    status, failing, side, verdicts
):
    bad = {"status": status, "reason": "because", "samples_s": None}
    for name in ("a", "b"):
        side(name, [bad, bad] if name == failing else STEADY)
    (row,) = verdicts()
    assert (row["verdict"], row["reason"]) == ("incomparable", "not_measured")
    assert row["detail"] == f"{status}: because"


def test_a_row_with_impossible_times_is_a_failure_not_the_fastest(side, verdicts):
    side("a", STEADY)
    side("b", [0.0, 0.0])
    (row,) = verdicts()
    assert row["verdict"] == "incomparable"
    assert "no positive times" in row["detail"]


# failures -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("failing", ["a", "b"])
def test_a_side_that_lost_trials_is_not_called_the_faster_one(failing, side, verdicts):
    """Its slow trials may be those that are missing: a time-out is a slow trial."""
    for name in ("a", "b"):
        fast = [*scaled(STEADY, 0.8), {"status": "timeout", "reason": "60 s", "samples_s": None}]
        side(name, fast if name == failing else STEADY)
    (row,) = verdicts()
    assert (row["verdict"], row["reason"]) == ("inconclusive", "failed_trials")


@settings(max_examples=40)
@given(
    st.lists(st.floats(0.5, 2.0), min_size=3, max_size=6),
    st.lists(st.floats(0.5, 2.0), min_size=3, max_size=6),
    st.integers(1, 3),
)
def test_failures_never_make_a_side_look_better_than_without_them(base, other, failures):
    def rows(values, failed=0):
        ok = [{"status": "ok", "reason": None, "median_s": value} for value in values]
        bad = [{"status": "crashed", "reason": "x", "median_s": math.nan}] * failed
        identity = dict.fromkeys(IDENTITY, "same")
        identity |= {"run_id": "one", "flags": [], "sm_clock_hz": None, "card_id": "one"}
        return pd.DataFrame([row | identity for row in ok + bad])

    def verdict(failed):
        sides = rows(base), rows(other, failed)
        good = [side[side["status"] == "ok"] for side in sides]
        return comparison._judge_sides(*sides, good, Rule(lambda _: 0.01))[0].verdict

    rank = {"slower": 0, "inconclusive": 1, "same": 1, "faster": 2}
    assert rank[verdict(failures)] <= rank[verdict(0)]


def test_the_slower_side_stays_slower_when_it_also_fails(side, verdicts):
    side("a", STEADY)
    side("b", [*scaled(STEADY, 1.5), FAILED])
    (row,) = verdicts()
    assert (row["verdict"], row["trials"]) == ("slower", 5)


def test_what_the_card_lacks_is_no_failure(side, verdicts):
    side("a", STEADY)
    side("b", [*scaled(STEADY, 0.8), FAILED | {"status": "unsupported"}])
    (row,) = verdicts()
    assert row["verdict"] == "faster"


# rows that say themselves what is wrong -----------------------------------------------------------

BOOST = {"mean": 1.5e9, "min": 1.5e9, "max": 1.5e9}
LOWER = {"mean": 1.5e9 / 1.05, "min": 1.4e9, "max": 1.5e9}


@pytest.mark.parametrize("factor", [1.05, 1 / 1.05])
def test_times_that_differ_as_the_clocks_of_a_card_do_are_no_change(factor, side, verdicts):
    clocks = (BOOST, LOWER) if factor > 1 else (LOWER, BOOST)
    side("a", STEADY, sm_clock_hz=clocks[0])
    side("b", scaled(STEADY, factor), sm_clock_hz=clocks[1])
    (row,) = verdicts()
    assert (row["verdict"], row["reason"]) == ("inconclusive", "clocks_differ")
    assert row["detail"] == comparison.MEANING["clocks_differ"]


def test_cycles_that_are_merely_unclear_take_no_verdict_back(side, verdicts):
    """Clocks read with noise say less than the times; only what they contradict is held back."""
    unsteady = [{"mean": hz, "min": hz, "max": hz} for hz in (1.2e9, 1.5e9, 1.8e9, 1.4e9, 1.45e9)]
    side("a", STEADY, sm_clock_hz=BOOST)
    side(
        "b",
        [
            {"samples_s": [1.2 * m] * 10, "sm_clock_hz": c}
            for m, c in zip(STEADY, unsteady, strict=True)
        ],
    )
    assert [row["verdict"] for row in verdicts()] == ["slower"]


def test_what_waits_for_memory_is_not_held_against_the_clock_of_the_chip(side, verdicts):
    """A copy that takes 5 % longer is slower, however much the chip's clock fell with it."""
    copy = {"workload": "memory", "case_id": "memory:operation=copy", "flops": 0.0, "bytes": 1e9}
    copy |= {"items": None, "item": None}
    side("a", STEADY, sm_clock_hz=BOOST, **copy)
    side("b", scaled(STEADY, 1.05), sm_clock_hz=LOWER, **copy)
    assert [row["verdict"] for row in verdicts()] == ["slower"]


def test_what_was_withheld_makes_no_other_verdict_easier(side, verdicts):
    """A tiny p-value that is no find would lower the bar of Benjamini and Hochberg for others."""
    side("a", STEADY, sm_clock_hz=BOOST)
    side("b", scaled(STEADY, 1.05), sm_clock_hz=LOWER)
    (row,) = verdicts()
    assert (row["reason"], row["chance"], row["false_discovery_rate"]) == (
        "clocks_differ",
        1.0,
        1.0,
    )


def test_in_turns_too_the_clocks_explain_what_is_theirs(side, verdicts):
    baseline, contender = in_turn(1.05)
    side("a", baseline, sm_clock_hz=BOOST)
    side("b", contender, sm_clock_hz=LOWER)
    assert [row["reason"] for row in verdicts(paired=True)] == ["clocks_differ"]


@pytest.mark.parametrize(
    ("case", "factor", "ours", "theirs", "different"),
    [
        ("the same clock", 1.05, BOOST, BOOST, {}),
        ("more than the clocks explain", 1.25, BOOST, LOWER, {}),
        ("clocks that differ the other way", 1.05, LOWER, BOOST, {}),
        ("a clock that could not be read", 1.05, BOOST, None, {}),
        ("another card", 1.05, BOOST, LOWER, {"card_id": "another"}),
    ],
)
def test_a_difference_that_clocks_do_not_explain_stays_one(
    case, factor, ours, theirs, different, side, verdicts
):
    side("a", STEADY, sm_clock_hz=ours)
    side("b", scaled(STEADY, factor), sm_clock_hz=theirs, **different)
    assert [row["verdict"] for row in verdicts()] == ["slower"], case


@pytest.mark.parametrize("impossible", ["a", "b"])
@pytest.mark.parametrize("factor", [1.0, 1.5, 0.5])
def test_a_side_above_its_cards_peak_settles_nothing(factor, impossible, side, verdicts):
    for name, own in (("a", STEADY), ("b", scaled(STEADY, factor))):
        side(name, own, flags=["above_peak"] if name == impossible else ["drift"])
    (row,) = verdicts()
    assert (row["verdict"], row["reason"]) == ("inconclusive", "above_peak")


# sides and their labels ---------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["card", "torch", "driver"])
def test_sides_can_be_told_apart_by_what_the_rows_say(by, side, verdicts):
    side("a", STEADY, **{by: "old"})
    side("b", scaled(STEADY, 1.5), **{by: "new"})
    side("c", scaled(STEADY, 1.5), **{by: "new", "case_id": "conv"})
    rows = verdicts(by=by)
    assert {(row["baseline"], row["side"]) for row in rows} == {("old", "new")}
    assert {row["case_id"]: row["verdict"] for row in rows}["conv"] == "incomparable"


def test_several_cards_are_compared_by_card_and_else_by_run(side, verdicts):
    side("a", STEADY)
    side("b", STEADY)
    assert [row["side"] for row in verdicts()] == ["b"]
    side("c", STEADY, card="Another")
    assert [row["side"] for row in verdicts()] == ["Another"]


def test_what_is_unknown_is_a_side_that_says_so(side, verdicts):
    side("a", STEADY, torch=None)
    side("b", STEADY, torch="2.9")
    (row,) = verdicts(by="torch")
    assert (row["baseline"], row["side"]) == ("torch unknown", "2.9")


def test_runs_in_files_of_one_name_are_two_sides(tmp_path, make_record):
    for folder in ("one", "two"):
        records = [
            make_record(run_id=f"run-{folder}", trial=trial, samples_s=[median] * 6)
            for trial, median in each()
        ]
        store.Writer(tmp_path / folder / "same.parquet", records)
    (row,) = compare(table.load([str(tmp_path)]))
    assert {row["baseline"], row["side"]} == {"same#run-one", "same#run-two"}


def test_parts_of_one_run_in_several_files_are_one_side(side, verdicts):
    side("part-1", STEADY, run_id="nightly-7")
    side("part-2", scaled(STEADY, 2), run_id="nightly-7", case_id="conv")
    side("part-3", [{"trial": 9, "samples_s": [1.0] * 6}], run_id="nightly-7")
    side("before", STEADY)
    side("before-too", scaled(STEADY, 1), case_id="conv", run_id="run of before")
    rows = {row["case_id"]: row for row in verdicts()}
    assert {(row["baseline"], row["side"]) for row in rows.values()} == {
        ("run nightly-7", "run run of before")
    }
    assert rows["conv"]["verdict"] == "faster"
    (gemm,) = (row for case, row in rows.items() if case != "conv")
    assert (gemm["verdict"], gemm["baseline_trials"], gemm["trials"]) == ("same", 6, 5)


#: three runs of three trials: 0.1 % between the trials of a run, 3 % between runs
RUNS = {"one": 1.0, "two": 1.03, "three": 0.97}
TRIALS = (1.0, 1.001, 0.999)


def several_runs(name, side, factor):
    side(
        name,
        [
            {"run_id": f"{name}-{run}", "trial": trial, "samples_s": [factor * mood * median] * 6}
            for run, mood in RUNS.items()
            for trial, median in enumerate(TRIALS, start=1)
        ],
        torch=name,
    )


def test_the_runs_of_a_side_are_its_units_where_there_are_three(side, verdicts):
    """Nine trials would make 4.5 % clear; the three hours they ran in do not."""
    several_runs("a", side, 1.0)
    several_runs("b", side, 1.045)
    sides = [
        [factor * mood * median for mood in RUNS.values() for median in TRIALS]
        for factor in (1.0, 1.045)
    ]
    assert judge(*sides).verdict == "slower"
    (row,) = verdicts(by="torch")
    assert (row["verdict"], row["reason"]) == ("inconclusive", "wide_interval")
    assert (row["baseline_trials"], row["trials"]) == (9, 9)


@pytest.mark.parametrize("alone", ["a", "b"])
def test_runs_on_one_side_only_make_runs_the_unit_of_both(alone, side, verdicts):
    """Five processes of one hour against three hours: the one hour is one value."""
    for name in "ab":
        if name == alone:
            side(name, scaled(STEADY, 1.4), torch=name)
        else:
            several_runs(name, side, 1.0)
    (row,) = verdicts(by="torch")
    assert (row["verdict"], row["reason"]) == ("inconclusive", "few_trials")


def test_runs_that_agree_settle_what_their_trials_would(side, verdicts):
    several_runs("a", side, 1.0)
    several_runs("b", side, 1.4)
    assert [row["verdict"] for row in verdicts(by="torch")] == ["slower"]


def test_sides_measured_one_after_the_other_are_told_from_sides_in_turns(
    side, tmp_path, make_record
):
    side("a", STEADY)
    side("b", STEADY)
    assert at_other_times(table.load([str(tmp_path)]), None)
    again = [
        make_record(run_id="c", trial=number, started_at=FIRST + timedelta(hours=number - 2))
        for number in range(1, 4)
    ]
    store.Writer(tmp_path / "c.parquet", again)
    assert not at_other_times(table.load([str(tmp_path / "[ac].parquet")]), None)


@pytest.mark.parametrize("column", ["host_hash", "card_id"])
def test_of_two_machines_or_cards_the_time_is_no_matter(column, side, tmp_path):
    side("a", STEADY, **{column: "one"})
    side("b", STEADY, **{column: "another"})
    assert not at_other_times(table.load([str(tmp_path)]), None)


@pytest.mark.parametrize(
    ("one", "other", "words"),
    [
        (
            {"host_hash": "ab12ef"},
            {"host_hash": "cd34ef"},
            ["another machine than the baseline's (#ab12): b (#cd34)"],
        ),
        (
            {"host_hash": "same", "device_uuid_hash": "ab12ef"},
            {"host_hash": "same", "device_uuid_hash": "cd34ef"},
            ["another card than the baseline's (#ab12): b (#cd34)"],
        ),
        ({"host_hash": "ab12ef"}, {"host_hash": "ab12ef"}, []),
        ({"host_hash": "ab12ef"}, {"host_hash": None}, []),
        # of other cards it goes without saying
        (
            {"card_id": "a", "card": "A", "device_uuid_hash": "ab12ef"},
            {"card_id": "b", "card": "B", "device_uuid_hash": "cd34ef"},
            [],
        ),
    ],
)
def test_that_a_side_is_of_another_machine_or_card_is_said(one, other, words, side, tmp_path):
    side("a", STEADY, **one)
    side("b", STEADY, **other)
    frame = table.load([str(tmp_path)])
    assert elsewhere(frame, compare(frame, by="run"), "run") == words


def test_the_command_says_why_a_side_is_the_baseline_and_what_differs(side, tmp_path, capsys):
    side("a", STEADY, workload_version=1)
    side("b", STEADY, workload_version=2)
    assert main(["compare", str(tmp_path)]) == 0
    err = capsys.readouterr().err
    assert "baseline: a (the oldest side)\n" in err
    assert "differs in 1 case: workload_version 1 against 2\n" in err
    assert main(["compare", str(tmp_path), "--baseline", "b"]) == 0
    assert "baseline: b\n" in capsys.readouterr().err


def test_the_oldest_side_is_the_baseline(side, verdicts):
    side("z", STEADY)
    side("y", STEADY)
    side("x", STEADY)
    assert {row["baseline"] for row in verdicts()} == {"z"}
    assert [row["side"] for row in verdicts()] == ["x", "y"]


def test_a_side_is_as_old_as_its_first_row(side, verdicts):
    """A run that was resumed yesterday is still the one that was begun last year."""
    side("resumed", [*STEADY, {"started_at": FIRST + timedelta(days=300), "trial": 9}])
    side("other", STEADY)
    assert {row["baseline"] for row in verdicts()} == {"resumed"}


def test_a_case_of_unknown_cache_state_is_not_left_out(side, verdicts):
    side("a", STEADY, cache=None)
    side("b", STEADY, cache=None)
    assert [row["verdict"] for row in verdicts()] == ["same"]


@pytest.mark.parametrize(
    ("wanted", "chosen"),
    [
        ("main", "main"),  # the label itself, though another begins with it
        ("main-2", "main-2"),
        ("MAIN-2", "main-2"),
        ("ot", "other"),
        ("other.parquet", "other"),
        ("some/folder/other.parquet", "other"),
    ],
)
def test_a_baseline_is_named_by_its_label_its_beginning_or_its_file(wanted, chosen, side, verdicts):
    for name in ("main", "main-2", "other"):
        side(name, STEADY)
    assert {row["baseline"] for row in verdicts(baseline=wanted)} == {chosen}


@pytest.mark.parametrize(
    ("wanted", "problem"), [("m", "matches several"), ("nightly", "is not there")]
)
def test_a_baseline_that_is_ambiguous_or_missing_is_refused_with_the_labels(
    wanted, problem, side, verdicts
):
    for name in ("main", "main-2", "other"):
        side(name, STEADY)
    with pytest.raises(UsageError, match=f"'{wanted}': such a run {problem}") as caught:
        verdicts(baseline=wanted)
    assert "main; main-2; other" in caught.value.remedy


def test_one_side_alone_is_refused_with_what_to_do(side, verdicts):
    side("a", STEADY)
    with pytest.raises(UsageError, match="one run only, a") as caught:
        verdicts()
    assert "more files" in caught.value.remedy
    with pytest.raises(UsageError, match="--by 'colour'"):
        verdicts(by="colour")


def test_no_rows_at_all_are_refused_too(side, verdicts):
    side("a", [])
    with pytest.raises(UsageError, match="nothing to compare"):
        verdicts()


# minimum effects of their own ---------------------------------------------------------------------


def test_each_case_is_judged_by_its_own_minimum_effect_and_rows_say_which(side, verdicts):
    with_cases("a", side, [1.0, 1.0], STEADY)
    with_cases("b", side, [1.05, 1.05], STEADY)
    floors = {"case-0": 0.01, "case-1": 0.2}
    rows = {row["case_id"]: row for row in verdicts(min_effect=lambda row: floors[row["case_id"]])}
    assert {case: row["verdict"] for case, row in rows.items()} == {
        "case-0": "slower",
        "case-1": "same",
    }
    assert {case: row["min_effect"] for case, row in rows.items()} == floors


def test_rows_have_the_odds_behind_their_verdict_and_none_without_one(side, verdicts):
    side("a", [*STEADY, {"case_id": "lost", **FAILED}])
    side("b", [*scaled(STEADY, 1.05), {"case_id": "lost"}])
    judged, lost = sorted(verdicts(min_effect=0.02), key=lambda row: row["case_id"])
    assert judged["min_effect"] == lost["min_effect"] == 0.02
    assert 0 < judged["chance"] < 0.05
    assert judged["false_discovery_rate"] == judged["chance"]
    assert lost["chance"] is lost["false_discovery_rate"] is None


# what people read ---------------------------------------------------------------------------------


def test_a_single_trial_is_inconclusive_and_says_what_to_type(side, verdicts):
    side("a", [1.0], suite="full")
    side("b", [9.0], suite="full")
    rows = verdicts()
    assert [(row["verdict"], row["reason"]) for row in rows] == [("inconclusive", "few_trials")]
    assert "how far processes spread" in rows[0]["detail"]
    assert "`gpubench run --suite full --trials 5`" in next_step(rows)
    assert show_speedup(rows[0]) == "0.111 [?]"


@pytest.mark.parametrize(
    ("cards", "device"),
    [
        ({"a": "tesla-t4", "b": "tesla-t4"}, " --device virtual:tesla-t4 --trials"),
        ({"a": "tesla-t4", "b": "geforce-rtx-3090"}, " --device virtual:CARD --trials"),
    ],
)
def test_simulated_sides_are_measured_again_on_a_simulated_card(cards, device, side, verdicts):
    for name, card_id in cards.items():
        side(name, [1.0], provenance="virtual", card_id=card_id)
    assert device in next_step(verdicts(by="run"))


def test_who_has_enough_trials_and_no_answer_is_told_to_take_twice_as_many(side, verdicts):
    side("a", NOISY)
    side("b", NOISY)
    rows = verdicts()
    assert [row["reason"] for row in rows] == ["wide_interval"]
    assert "--trials 10`" in next_step(rows)


def test_when_all_is_settled_there_is_no_next_step(side, verdicts):
    side("a", STEADY)
    side("b", scaled(STEADY, 1.5))
    rows = verdicts()
    assert next_step(rows) is None
    assert conclusions(rows) == ["baseline: a", "1 slower"]


def test_conclusions_count_every_row_once(side, verdicts):
    side("a", [*STEADY, {"case_id": "conv"}, {"case_id": "lost", **FAILED}])
    side("b", [*STEADY, {"case_id": "conv"}, {"case_id": "lost"}])
    rows = verdicts()
    assert {row["verdict"] for row in rows} <= VERDICTS
    baseline, counts, step = conclusions(rows)
    assert baseline == "baseline: a"
    assert counts == "1 same, 1 inconclusive, 1 incomparable"
    assert "--trials" in step
    assert conclusions([])[0] == "no case is on two sides"


def test_what_is_not_shown_is_counted_in_cases_however_many_sides_there_are(side, verdicts):
    lost = [{"case_id": "lost", **FAILED}, {"case_id": "lost", "cache": "hot", **FAILED}]
    side("a", [*STEADY, {"case_id": "alone"}, {"case_id": "alone", "cache": "hot"}, *lost])
    for name in "bcd":
        side(name, [*STEADY, *lost])
    said = conclusions(verdicts())
    assert "not shown: 2 cases that one side lacks" in said
    assert "not shown: 2 cases without a result on either side" in said


def test_a_speedup_is_shown_with_its_bounds_or_as_unknown(side, verdicts):
    side("a", STEADY)
    side("b", scaled(STEADY, 0.5))
    (row,) = verdicts()
    speedup, low, high = (
        float(part.strip("[],")) for part in show_speedup(row).replace("[", "").split()
    )
    assert low < speedup == 2.0 < high
    assert show_speedup(row | {"speedup": None}) == "–"
