"""Intervals that hold what they promise, held against the exact theory, SciPy and simulation."""

import itertools
import math
import statistics

import numpy as np
import pytest
import scipy.stats
from hypothesis import assume, example, given
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
    assert covered == pytest.approx(0.95, abs=0.02)


@given(many_times, st.randoms())
def test_the_order_of_the_samples_is_no_matter(values, random):
    shuffled = random.sample(values, len(values))
    assert stats.median_interval(shuffled) == stats.median_interval(values)


@given(many_times)
def test_the_bounds_lie_between_neighbours_of_which_the_outer_ones_promise_too_much(values):
    interval = stats.median_interval(values)
    assert interval.low <= interval.estimate <= interval.high
    if ranks := stats.median_ranks(len(values)):
        ordered, slack = sorted(values), 1 + 1e-9
        assert ordered[ranks[0]] / slack <= interval.low <= ordered[ranks[0] + 1] * slack
        assert ordered[ranks[1] - 1] / slack <= interval.high <= ordered[ranks[1]] * slack


@given(st.lists(times, min_size=8, max_size=60))
def test_more_confidence_never_makes_the_interval_narrower(values):
    narrow, middle, wide = (stats.median_interval(values, level) for level in (0.8, 0.95, 0.99))
    slack = 1 + 1e-9  # interpolation between equal values rounds
    assert wide.low <= middle.low * slack <= narrow.low * slack**2
    assert narrow.high <= middle.high * slack <= wide.high * slack**2


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
    there = stats.welch(baseline, contender).interval()
    back = stats.welch(contender, baseline).interval()
    assert there.estimate * back.estimate == pytest.approx(1, rel=1e-9)
    assert there.low * back.high == pytest.approx(1, rel=1e-6)
    assert there.high * back.low == pytest.approx(1, rel=1e-6)


@given(sides, sides, st.sampled_from([1e-6, 1e-3, 60.0, 1e3]))
def test_the_unit_of_the_times_is_no_matter(baseline, contender, scale):
    plain = stats.welch(baseline, contender).interval()
    scaled = stats.welch(
        [scale * value for value in baseline], [scale * value for value in contender]
    ).interval()
    assert scaled.estimate == pytest.approx(plain.estimate, rel=1e-9)
    # Rounding of the logarithms is all the spread that equal values have.
    assert math.log(scaled.high) == pytest.approx(math.log(plain.high), rel=1e-6, abs=1e-9)
    assert math.log(scaled.low) == pytest.approx(math.log(plain.low), rel=1e-6, abs=1e-9)


@given(sides, sides, st.randoms())
def test_the_order_of_the_processes_is_no_matter(baseline, contender, random):
    plain = stats.welch(baseline, contender).interval()
    shuffled = stats.welch(
        random.sample(baseline, len(baseline)), random.sample(contender, len(contender))
    ).interval()
    assert shuffled.estimate == pytest.approx(plain.estimate, rel=1e-12)
    assert math.log(shuffled.high) == pytest.approx(math.log(plain.high), rel=1e-6, abs=1e-9)


@given(sides, sides)
def test_the_interval_encloses_the_ratio_of_geometric_means(baseline, contender):
    ratio = stats.welch(baseline, contender).interval()
    expected = stats.geometric_mean(contender) / stats.geometric_mean(baseline)
    assert ratio.estimate == pytest.approx(expected, rel=1e-9)
    assert ratio.low <= ratio.estimate <= ratio.high


@pytest.mark.parametrize(("baseline", "contender"), [([2.0], [3.0]), ([2.0], [3.0, 3.0, 3.0])])
def test_one_process_on_a_side_leaves_the_ratio_unbounded(baseline, contender):
    ratio = stats.welch(baseline, contender).interval()
    assert ratio.estimate == pytest.approx(1.5)
    assert (ratio.low, ratio.high) == (0.0, math.inf)
    swapped = stats.welch(contender, baseline).interval()
    assert (swapped.low, swapped.high) == (0.0, math.inf)


def test_sides_without_any_spread_give_a_ratio_without_any():
    ratio = stats.welch([1.0, 1.0], [1.0, 1.0, 1.0]).interval()
    assert (ratio.estimate, ratio.low, ratio.high) == (1.0, 1.0, 1.0)
    ratio = stats.welch([0.1] * 3, [0.3] * 3).interval()
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
    ratio = stats.welch(baseline, contender).interval(confidence)
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
        ratio = stats.welch(baseline, contender).interval()
        covered += ratio.low <= 1.07 <= ratio.high
    assert covered / 3000 == pytest.approx(0.95, abs=0.015)


def test_a_larger_spread_between_processes_makes_the_interval_wider():
    widths = [
        stats.welch([1.0, 1.0 + spread, 1.0 - spread], [2.0, 2.0 + spread, 2.0])
        .interval()
        .half_width
        for spread in (0.001, 0.01, 0.1)
    ]
    assert all(narrow < wide for narrow, wide in itertools.pairwise(widths))


# pairs, chances, many looks -----------------------------------------------------------------------


ratios_of_pairs = st.floats(0.5, 2.0).map(lambda ratio: round(ratio, 4))
#: so few that ranks can't be sure of anything
few_pairs = st.lists(ratios_of_pairs, min_size=2, max_size=11)
many_pairs = st.lists(ratios_of_pairs, min_size=12, max_size=14)


def of_pairs(ratios):
    return stats.paired([1.0] * len(ratios), ratios)


@given(few_pairs)
def test_of_few_pairs_the_interval_is_students_of_the_logarithms_of_their_ratios(ratios):
    logs = np.log(ratios)
    assume(np.std(logs) > 1e-9)
    expected = scipy.stats.ttest_1samp(logs, 0.0)
    bounds = expected.confidence_interval(0.95)
    found = of_pairs(ratios)
    ratio = found.interval()
    assert math.log(ratio.estimate) == pytest.approx(np.mean(logs), abs=1e-9)
    assert math.log(ratio.low) == pytest.approx(bounds.low, rel=1e-6, abs=1e-9)
    assert math.log(ratio.high) == pytest.approx(bounds.high, rel=1e-6, abs=1e-9)
    assert found.chance(0.0) == pytest.approx(expected.pvalue, rel=1e-6, abs=1e-9)


@given(many_pairs)
def test_of_more_pairs_the_chance_is_that_of_wilcoxons_signed_ranks(ratios):
    logs = np.log(ratios)
    sizes = np.abs(logs)
    assume(len(set(np.round(sizes, 9))) == len(sizes))
    assume(sizes.min() > 1e-9)  # SciPy is exact where there are neither ties nor zeros
    expected = scipy.stats.wilcoxon(logs, method="exact").pvalue
    assert of_pairs(ratios).chance(0.0) == pytest.approx(expected, rel=1e-9)


@given(many_pairs)
def test_of_more_pairs_the_estimate_is_the_median_of_the_averages_of_any_two(ratios):
    logs = np.log(ratios)
    averages = [(logs[i] + logs[j]) / 2 for i in range(len(logs)) for j in range(i, len(logs))]
    ratio = of_pairs(ratios).interval()
    assert math.log(ratio.estimate) == pytest.approx(np.median(averages), abs=1e-9)
    assert ratio.low <= ratio.estimate <= ratio.high


@given(st.one_of(few_pairs, many_pairs), st.floats(0, 0.5))
def test_the_chance_of_pairs_is_below_5_per_cent_just_where_the_interval_clears_the_floor(
    ratios, floor
):
    found = of_pairs(ratios)
    ratio = found.interval()
    bounds, edges = (ratio.low, ratio.high), (1 + floor, 1 / (1 + floor))
    assume(not any(math.isclose(*pair, rel_tol=1e-9) for pair in itertools.product(edges, bounds)))
    clears = ratio.low > 1 + floor or ratio.high < 1 / (1 + floor)
    assert (found.chance(floor) < 0.05) == clears


@pytest.mark.parametrize("count", [3, 5, 6, 10, 20])
def test_the_true_ratio_of_pairs_is_covered_as_often_as_promised(count):
    """Whatever hour each pair was measured in. Ranks come in steps, and promise a little more."""
    rng = np.random.default_rng(count)
    covered = 0
    for _ in range(2000):
        hour = rng.lognormal(0.0, 0.3, count)
        baseline, contender = hour * rng.lognormal(0.0, 0.02, (2, count))
        ratio = stats.paired(baseline.tolist(), (1.07 * contender).tolist()).interval()
        covered += ratio.low <= 1.07 <= ratio.high
    assert 0.935 <= covered / 2000 <= 0.98


@pytest.mark.parametrize("count", [12, 20])
def test_one_wild_pair_spoils_no_interval_of_ranks(count):
    steady = [1.05 + 0.001 * number for number in range(count - 1)]
    found = of_pairs([*steady, 100.0])
    assert found._student().interval().low < 1
    assert 1.04 < found.interval().low < found.interval().high < 1.1


@given(st.lists(st.tuples(times, times, st.floats(0.1, 10.0)), min_size=2, max_size=12))
def test_what_both_of_a_pair_suffer_cancels(triples):
    baseline, contender, mood = (list(column) for column in zip(*triples, strict=True))
    plain = stats.paired(baseline, contender)
    moody = stats.paired(
        [value * factor for value, factor in zip(baseline, mood, strict=True)],
        [value * factor for value, factor in zip(contender, mood, strict=True)],
    )
    assert moody.logs == pytest.approx(plain.logs, rel=1e-9, abs=1e-9)


@given(st.one_of(few_pairs, many_pairs), st.randoms())
def test_swapping_the_sides_of_all_pairs_gives_the_reciprocal_in_any_order(ratios, random):
    shuffled = random.sample(ratios, len(ratios))
    there = of_pairs(ratios).interval()
    back = stats.paired(shuffled, [1.0] * len(ratios)).interval()
    assert there.estimate * back.estimate == pytest.approx(1, rel=1e-9)
    assert math.log(there.low) == pytest.approx(-math.log(back.high), rel=1e-6, abs=1e-9)


def test_pairs_that_are_not_whole_are_refused():
    with pytest.raises(ValueError, match="zip"):
        stats.paired([1.0, 2.0], [1.0])


def test_one_pair_leaves_the_ratio_unbounded():
    ratio = stats.paired([2.0], [3.0]).interval()
    assert (ratio.estimate, ratio.low, ratio.high) == (pytest.approx(1.5), 0.0, math.inf)


log_ratios = st.builds(
    stats.LogRatio,
    difference=st.floats(-3, 3),
    error=st.one_of(st.just(0.0), st.just(math.inf), st.floats(1e-6, 2)),
    degrees=st.floats(1, 40),
)


@given(log_ratios, st.floats(0, 0.5))
def test_the_chance_is_below_5_per_cent_just_where_the_interval_clears_the_floor(found, floor):
    ratio = found.interval()
    bounds, edges = (ratio.low, ratio.high), (1 + floor, 1 / (1 + floor))
    assume(not any(math.isclose(*pair, rel_tol=1e-9) for pair in itertools.product(edges, bounds)))
    clears = ratio.low > 1 + floor or ratio.high < 1 / (1 + floor)
    assert (found.chance(floor) < 0.05) == clears


@given(log_ratios, st.floats(0, 0.5), st.floats(0, 0.5))
def test_the_chance_is_one_of_two_sides_and_grows_with_the_floor(found, one, other):
    small, large = (found.chance(floor) for floor in sorted((one, other)))
    assert 0 <= small <= large <= 1
    mirrored = stats.LogRatio(-found.difference, found.error, found.degrees)
    assert mirrored.chance(one) == found.chance(one)


@given(
    st.lists(st.floats(0.5, 2.0), min_size=3, max_size=9, unique=True),
    st.lists(st.floats(0.5, 2.0), min_size=3, max_size=9, unique=True),
)
def test_without_a_floor_the_chance_is_that_of_welchs_test(baseline, contender):
    logs = [np.log(side) for side in (baseline, contender)]
    assume(min(np.std(side) for side in logs) > 1e-6)
    expected = scipy.stats.ttest_ind(*logs, equal_var=False).pvalue
    assert stats.welch(baseline, contender).chance(0.0) == pytest.approx(expected, rel=1e-6)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=50))
def test_false_discoveries_are_scipys_of_benjamini_and_hochberg(chances):
    expected = scipy.stats.false_discovery_control(chances, method="bh")
    assert stats.false_discovery(chances) == pytest.approx(expected.tolist(), rel=1e-12)


def test_of_no_looks_there_are_no_false_discoveries():
    assert stats.false_discovery([]) == []


# samples in the order they were taken -------------------------------------------------------------


def first_order(rng, correlation, count):
    """A series whose neighbours are correlated, of median 1 and deviation 1 %."""
    noise = rng.normal(size=count)
    values = [noise[0]]
    for step in noise[1:]:
        values.append(correlation * values[-1] + math.sqrt(1 - correlation**2) * step)
    return (1 + 0.01 * np.array(values)).tolist()


@pytest.mark.parametrize("correlation", [-0.5, 0.0, 0.3, 0.6, 0.9])
def test_the_correlation_of_neighbours_is_found(correlation):
    """Of ranks, which for a normal series lies a little below that of the values."""
    rng = np.random.default_rng(1)
    found = [stats.neighbour_correlation(first_order(rng, correlation, 1000)) for _ in range(20)]
    assert np.mean(found) == pytest.approx(correlation, abs=0.04)


@given(st.lists(times, max_size=40))
def test_the_correlation_of_neighbours_is_one_of_ranks_between_minus_one_and_one(values):
    found = stats.neighbour_correlation(values)
    assert -1 - 1e-9 <= found <= 1 + 1e-9
    assert stats.neighbour_correlation([2 * value for value in values]) == found
    if len(values) < 6 or len(set(values)) == 1:
        assert found == 0.0


def covered(correlation, interval, runs=1000):
    rng = np.random.default_rng(round(10 * correlation))
    found = [interval(first_order(rng, correlation, 200)) for _ in range(runs)]
    return np.mean([one.low <= 1.0 <= one.high for one in found])


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.8])
def test_the_interval_of_samples_covers_the_median_though_neighbours_are_alike(correlation):
    """Where that of independent values promises 95 % and keeps 74 % at a correlation of 0.5."""
    assert covered(correlation, stats.sample_interval) == pytest.approx(0.95, abs=0.025)
    if correlation:
        assert covered(correlation, stats.median_interval) < 0.85


def test_of_independent_samples_the_interval_is_the_plain_one_in_19_of_20_series():
    rng = np.random.default_rng(4)
    series = [rng.exponential(1.0, 60).tolist() for _ in range(1000)]
    same = [
        stats.sample_interval(one).half_width
        == pytest.approx(stats.median_interval(one).half_width, rel=1e-9)
        for one in series
    ]
    assert np.mean(same) == pytest.approx(0.95, abs=0.02)


@example([2.0, 1.0, 1.0, 1.0, 1.0, 1.0])  # nothing varies but the first
@given(st.lists(times, min_size=1, max_size=60))
def test_the_interval_of_samples_is_never_narrower_than_that_of_independent_ones(values):
    plain, wide = stats.median_interval(values), stats.sample_interval(values)
    assert wide.estimate == plain.estimate
    if math.isinf(plain.high):
        assert math.isinf(wide.high)
        assert math.isinf(wide.low)
        return
    slack = 1e-9 * max(values)
    assert wide.low <= plain.low + slack
    assert wide.high >= plain.high - slack


# drift, bursts, modes -----------------------------------------------------------------------------


@given(st.floats(0.02, 0.5), st.booleans(), st.integers(60, 300), st.integers(0, 1000))
def test_a_drift_is_found_with_its_sign_and_size(change, rises, count, seed):
    """From the first third's middle to the last's it is two thirds of the whole change."""
    line = np.linspace(1.0, 1 + change, count)
    line = line if rises else line[::-1]
    third = count // 3
    expected = np.median(line[-third:]) / np.median(line[:third])
    noise = np.random.default_rng(seed).normal(0, 0.001, count)
    found = stats.drift((line * (1 + noise)).tolist())
    assert 1 + found == pytest.approx(expected, rel=0.01)
    assert (found > 0) == rises


def test_without_a_trend_there_is_no_drift_however_noisy_the_samples_are():
    rng = np.random.default_rng(2)
    found = [stats.drift(rng.lognormal(0, 0.3, 90).tolist()) for _ in range(2000)]
    assert sum(one != 0.0 for one in found) <= 8  # two are to be expected


@given(st.lists(times, max_size=8))
def test_of_fewer_than_nine_samples_no_drift_is_told(values):
    assert stats.drift(values) == 0.0


def test_burst_and_sustained_are_of_the_first_second_and_of_the_later_half():
    values = [0.1] * 10 + [0.125] * 40  # 1 s, then 5 s
    assert stats.burst_and_sustained(values, 1) == (0.1, 0.125)
    assert stats.burst_and_sustained(values[::-1], 1) == (0.125, pytest.approx(0.125))


def test_the_steps_in_a_sample_count_for_its_time():
    values = [0.01] * 10 + [0.0125] * 40
    assert stats.burst_and_sustained(values, 10) == (0.01, 0.0125)
    assert all(map(math.isnan, stats.burst_and_sustained(values, 1)))


@given(st.lists(st.floats(1e-3, 3.0), max_size=60), st.floats(0.5, 10.0))
def test_burst_and_sustained_are_samples_times_and_unknown_below_the_least_time(values, least_s):
    burst, sustained = stats.burst_and_sustained(values, 1, least_s=least_s)
    total = 0.0
    for value in values:
        total += value
    if total < least_s:
        assert math.isnan(burst)
        assert math.isnan(sustained)
    else:
        assert min(values) <= burst <= max(values)
        assert min(values) <= sustained <= max(values)


def test_a_sample_longer_than_the_burst_is_the_burst():
    assert stats.burst_and_sustained([2.5, 3.0, 3.5], 1) == (2.5, 3.25)


UNIMODAL = {
    "normal": lambda rng, count: 1 + rng.normal(0, 0.02, count),
    "uniform": lambda rng, count: rng.uniform(1.0, 2.0, count),
    "exponential": lambda rng, count: 1 + rng.exponential(0.1, count),
    "bare exponential": lambda rng, count: rng.exponential(1.0, count),
    "lognormal": lambda rng, count: rng.lognormal(0, 0.5, count),
    "t3": lambda rng, count: np.exp(0.01 * rng.standard_t(3, count)),
}


@pytest.mark.parametrize("count", [20, 50, 300])
@pytest.mark.parametrize("name", UNIMODAL)
def test_one_mode_is_not_taken_for_two(name, count):
    rng = np.random.default_rng([count, len(name)])
    found = [stats.two_modes(UNIMODAL[name](rng, count).tolist()) for _ in range(500)]
    assert sum(one is not None for one in found) <= 10


@given(
    st.floats(0.25, 0.75),
    st.floats(1.15, 3.0),
    st.floats(0.0, 0.015),
    st.integers(40, 300),
    st.integers(0, 1000),
)
def test_two_modes_are_found_with_their_centres(share, factor, noise, count, seed):
    rng = np.random.default_rng(seed)
    slow = rng.permutation(count) < round(share * count)
    values = np.where(slow, factor, 1.0) * np.exp(rng.normal(0, noise, count))
    assert stats.two_modes(values.tolist()) == pytest.approx((1.0, factor), rel=0.02)


@given(st.lists(times, max_size=60), st.randoms())
def test_modes_are_in_order_within_the_values_and_do_not_depend_on_their_order(values, random):
    found = stats.two_modes(values)
    assert stats.two_modes(random.sample(values, len(values))) == found
    if found is not None:
        low, high = found
        assert min(values) * (1 - 1e-9) <= low < high <= max(values) * (1 + 1e-9)
    if len(values) < 20:
        assert found is None


@given(times, st.integers(1, 100))
def test_equal_samples_are_one_mode_without_drift(value, count):
    assert stats.two_modes([value] * count) is None
    assert stats.drift([value] * count) == 0.0


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


def test_a_coarse_clock_makes_neither_neighbours_alike_nor_a_drift():
    """Equal values share their rank; by position they would seem to rise."""
    rng = np.random.default_rng(3)
    series = [list(rng.choice([1.00, 1.03], 200)) for _ in range(400)]
    assert np.mean([stats.neighbour_correlation(values) for values in series]) == pytest.approx(
        0.0, abs=0.02
    )
    assert np.mean([abs(stats.drift(values)) > 0.02 for values in series]) < 0.01
