"""Intervals that hold what they promise, held against the exact theory, SciPy and simulation."""

import itertools
import math
import statistics

import numpy as np
import pytest
import scipy.stats
from hypothesis import assume, given
from hypothesis import strategies as st

from gpubench import stats

times = st.floats(1e-9, 1e4)
many_times = st.lists(times, min_size=1, max_size=60)
sides = st.lists(times, min_size=2, max_size=12)


def exact_coverage(count, ranks):
    """Probability that the order statistics of these ranks enclose the median, by the binomial."""
    low, high = ranks
    below = scipy.stats.binom(count, 0.5)
    return below.cdf(high) - below.cdf(low)


# the median and its interval ----------------------------------------------------------------------


@given(many_times)
def test_the_median_is_that_of_the_standard_library(values):
    assert stats.median(values) == statistics.median(values)


def test_the_median_of_nothing_is_refused():
    with pytest.raises(ValueError, match="median of nothing"):
        stats.median([])


@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_the_ranks_cover_the_median_exactly_as_often_as_promised(confidence):
    """And no pair of ranks one step narrower would do."""
    for count in [*range(1, 100), *range(100, 1000, 23), 998, 999]:
        ranks = stats.median_ranks(count, confidence)
        if ranks is None:
            assert exact_coverage(count, (0, count - 1)) < confidence
            continue
        low, high = ranks
        assert exact_coverage(count, ranks) >= confidence
        if low + 1 < high - 1:
            assert exact_coverage(count, (low + 1, high - 1)) < confidence


@pytest.mark.parametrize("count", [1000, 1001, 1034, 2500, 9999, 100_000])
def test_the_approximation_for_many_samples_is_at_most_one_rank_too_wide(count):
    low, high = stats.median_ranks(count)
    assert exact_coverage(count, (low, high)) >= 0.95
    assert exact_coverage(count, (low + 2, high - 2)) < 0.95


@pytest.mark.parametrize(("confidence", "fewest"), [(0.9, 5), (0.95, 6), (0.99, 8), (0.999, 11)])
def test_below_the_fewest_samples_that_can_reach_the_confidence_nothing_is_promised(
    confidence, fewest
):
    assert stats.median_ranks(fewest, confidence) == (0, fewest - 1)
    assert stats.median_ranks(fewest - 1, confidence) is None
    interval = stats.median_interval([1.0] * (fewest - 1), confidence)
    assert (interval.low, interval.high) == (-math.inf, math.inf)
    assert interval.half_width == math.inf


@pytest.mark.parametrize("count", [7, 40])
@pytest.mark.parametrize(
    ("name", "true_median"),
    [("lognormal", 1.0), ("exponential", math.log(2)), ("pareto", 2 ** (1 / 3))],
)
def test_the_median_is_inside_its_interval_as_often_as_promised(name, true_median, count):
    """Of times as they are: skewed, with long tails. 2,000 draws tell 95 % from 93 %."""
    rng = np.random.default_rng([len(name), count])
    draw = {
        "lognormal": lambda: rng.lognormal(0.0, 0.8, count),
        "exponential": lambda: rng.exponential(1.0, count),
        "pareto": lambda: 1 + rng.pareto(3.0, count),
    }[name]
    intervals = [stats.median_interval(draw().tolist()) for _ in range(2000)]
    covered = np.mean([interval.low <= true_median <= interval.high for interval in intervals])
    exact = exact_coverage(count, stats.median_ranks(count))
    assert exact >= 0.95
    assert covered == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 2000))


@given(many_times, st.randoms())
def test_the_order_of_the_samples_is_no_matter(values, random):
    shuffled = random.sample(values, len(values))
    assert stats.median_interval(shuffled) == stats.median_interval(values)


@given(many_times)
def test_the_interval_encloses_the_median_with_samples_as_its_bounds(values):
    interval = stats.median_interval(values)
    assert interval.low <= interval.estimate <= interval.high
    if len(values) >= 6:
        assert {interval.low, interval.high} <= set(values)


@given(st.lists(times, min_size=8, max_size=60))
def test_more_confidence_never_makes_the_interval_narrower(values):
    narrow, middle, wide = (stats.median_interval(values, level) for level in (0.8, 0.95, 0.99))
    assert wide.low <= middle.low <= narrow.low
    assert narrow.high <= middle.high <= wide.high


def test_samples_are_left_in_their_order():
    values = [3.0, 1.0, 2.0, 9.0, 5.0, 4.0, 7.0]
    kept = list(values)
    stats.median_interval(values)
    assert values == kept


def test_the_half_width_is_the_farther_bound_relative_to_the_estimate():
    assert stats.Interval(10.0, 9.0, 12.0).half_width == pytest.approx(0.2)
    assert stats.Interval(-10.0, -13.0, -9.0).half_width == pytest.approx(0.3)
    assert stats.Interval(0.0, -1.0, 1.0).half_width == math.inf


# ratios of two sides ------------------------------------------------------------------------------


@given(sides, sides)
def test_swapping_the_sides_gives_the_reciprocal(baseline, contender):
    there = stats.ratio_interval(baseline, contender)
    back = stats.ratio_interval(contender, baseline)
    assert there.estimate * back.estimate == pytest.approx(1, rel=1e-9)
    assert there.low * back.high == pytest.approx(1, rel=1e-6)
    assert there.high * back.low == pytest.approx(1, rel=1e-6)


@given(sides, sides, st.sampled_from([1e-6, 1e-3, 60.0, 1e3]))
def test_the_unit_of_the_times_is_no_matter(baseline, contender, scale):
    plain = stats.ratio_interval(baseline, contender)
    scaled = stats.ratio_interval(
        [scale * value for value in baseline], [scale * value for value in contender]
    )
    assert scaled.estimate == pytest.approx(plain.estimate, rel=1e-9)
    # Rounding of the logarithms is all the spread that equal values have.
    assert math.log(scaled.high) == pytest.approx(math.log(plain.high), rel=1e-6, abs=1e-9)
    assert math.log(scaled.low) == pytest.approx(math.log(plain.low), rel=1e-6, abs=1e-9)


@given(sides, sides, st.randoms())
def test_the_order_of_the_processes_is_no_matter(baseline, contender, random):
    plain = stats.ratio_interval(baseline, contender)
    shuffled = stats.ratio_interval(
        random.sample(baseline, len(baseline)), random.sample(contender, len(contender))
    )
    assert shuffled.estimate == pytest.approx(plain.estimate, rel=1e-12)
    assert math.log(shuffled.high) == pytest.approx(math.log(plain.high), rel=1e-6, abs=1e-9)


@given(sides, sides)
def test_the_interval_encloses_the_ratio_of_geometric_means(baseline, contender):
    ratio = stats.ratio_interval(baseline, contender)
    expected = stats.geometric_mean(contender) / stats.geometric_mean(baseline)
    assert ratio.estimate == pytest.approx(expected, rel=1e-9)
    assert ratio.low <= ratio.estimate <= ratio.high


@pytest.mark.parametrize(("baseline", "contender"), [([2.0], [3.0]), ([2.0], [3.0, 3.0, 3.0])])
def test_one_process_on_a_side_leaves_the_ratio_unbounded(baseline, contender):
    ratio = stats.ratio_interval(baseline, contender)
    assert ratio.estimate == pytest.approx(1.5)
    assert (ratio.low, ratio.high) == (0.0, math.inf)
    swapped = stats.ratio_interval(contender, baseline)
    assert (swapped.low, swapped.high) == (0.0, math.inf)


def test_sides_without_any_spread_give_a_ratio_without_any():
    ratio = stats.ratio_interval([1.0, 1.0], [1.0, 1.0, 1.0])
    assert (ratio.estimate, ratio.low, ratio.high) == (1.0, 1.0, 1.0)
    ratio = stats.ratio_interval([0.1] * 3, [0.3] * 3)
    assert ratio.estimate == pytest.approx(3)
    assert ratio.high == pytest.approx(ratio.low)


@given(
    st.lists(st.floats(0.5, 2.0), min_size=3, max_size=12, unique=True),
    st.lists(st.floats(0.5, 2.0), min_size=3, max_size=12, unique=True),
    st.sampled_from([0.8, 0.95, 0.99]),
)
def test_the_interval_is_welchs_on_the_logarithms(baseline, contender, confidence):
    logs = [np.log(side) for side in (baseline, contender)]
    assume(min(np.std(side) for side in logs) > 1e-9)  # below, SciPy warns of lost precision
    expected = scipy.stats.ttest_ind(logs[1], logs[0], equal_var=False).confidence_interval(
        confidence
    )
    ratio = stats.ratio_interval(baseline, contender, confidence)
    assert math.log(ratio.low) == pytest.approx(expected.low, rel=1e-6, abs=1e-9)
    assert math.log(ratio.high) == pytest.approx(expected.high, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize(
    ("counts", "deviations"),
    [((5, 5), (0.03, 0.03)), ((10, 10), (0.01, 0.05)), ((4, 9), (0.05, 0.02))],
)
def test_the_true_ratio_is_inside_the_interval_as_often_as_promised(counts, deviations):
    """Unequal spreads and numbers are what Welch's approximation is for."""
    rng = np.random.default_rng(sum(counts))
    covered = 0
    for _ in range(3000):
        baseline, contender = (
            rng.lognormal(math.log(true), deviation, count).tolist()
            for true, deviation, count in zip((1.0, 1.07), deviations, counts, strict=True)
        )
        ratio = stats.ratio_interval(baseline, contender)
        covered += ratio.low <= 1.07 <= ratio.high
    assert covered / 3000 == pytest.approx(0.95, abs=0.015)


def test_a_larger_spread_between_processes_makes_the_interval_wider():
    widths = [
        stats.ratio_interval([1.0, 1.0 + spread, 1.0 - spread], [2.0, 2.0 + spread, 2.0]).half_width
        for spread in (0.001, 0.01, 0.1)
    ]
    assert all(narrow < wide for narrow, wide in itertools.pairwise(widths))


# means --------------------------------------------------------------------------------------------


@given(many_times)
def test_the_geometric_mean_lies_between_the_extremes_and_is_scipys(values):
    mean = stats.geometric_mean(values)
    assert min(values) * (1 - 1e-9) <= mean <= max(values) * (1 + 1e-9)
    assert mean == pytest.approx(float(scipy.stats.gmean(values)), rel=1e-9)


@given(
    st.lists(st.floats(-20, 20).map(lambda value: round(value, 6)), min_size=2, max_size=30),
    st.sampled_from([0.8, 0.95, 0.99]),
)
def test_the_half_width_of_a_mean_is_students(values, confidence):
    error = float(scipy.stats.sem(values))
    expected = error * float(scipy.stats.t.ppf((1 + confidence) / 2, len(values) - 1))
    assert stats.mean_half_width(values, confidence) == pytest.approx(expected, rel=1e-6, abs=1e-9)
