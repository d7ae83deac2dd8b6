"""Pure numbers: intervals and ratios. Nothing here knows what was measured.

scipy is imported where it is used: the command must answer before half a second is gone on it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

#: the fewest pairs of which signed ranks bear a wild one (it is in as many averages as there are
#: pairs) and can be sure among a hundred cases (2 / 2**12)
LEAST_RANKED = 12


@dataclass(frozen=True)
class Interval:
    """An estimate with the bounds of its confidence interval."""

    estimate: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        """Largest distance from the estimate to a bound, relative to the estimate."""
        if self.estimate == 0:
            return math.inf
        return max(self.high - self.estimate, self.estimate - self.low) / abs(self.estimate)


def median(values: Sequence[float]) -> float:
    """Middle value; of an even number, the mean of the two middle ones."""
    ordered = sorted(values)
    if not ordered:
        raise ValueError("the median of nothing is undefined")
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


@cache
def median_ranks(count: int, confidence: float = 0.95) -> tuple[int, int] | None:
    """Ranks (from 0) of the order statistics that enclose the median with ``confidence``.

    Distribution-free: the number of samples below the median is binomial(count, 1/2), so
    [x(k), x(n-1-k)] covers it with probability 1 - 2·P(B <= k). None where even the extremes
    don't reach the confidence: fewer than 6 samples at 95 %.
    """
    tail = (1 - confidence) / 2
    probability, rank = 0.5**count if count < 1000 else 0.0, -1
    if count >= 1000:  # 0.5**count underflows; the normal approximation is exact enough here
        from statistics import NormalDist

        rank = math.floor(count / 2 + NormalDist().inv_cdf(tail) * math.sqrt(count) / 2) - 1
    else:
        cumulative = 0.0
        while rank + 1 < count / 2:
            cumulative += probability
            if cumulative > tail:
                break
            rank += 1
            probability *= (count - rank) / (rank + 1)
    return (rank, count - 1 - rank) if rank >= 0 else None


def median_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Median of independent values with its distribution-free interval.

    Between the order statistics that cover a little more and a little less than the confidence
    the bounds are interpolated (Hettmansperger and Sheather 1986, "Confidence intervals based on
    interpolated order statistics"), so that ten values don't give 98 % where 95 % was asked for.
    With too few values for the confidence the interval is unbounded (infinite), not invented.
    """
    count, middle = len(values), median(values)
    ranks = median_ranks(count, confidence)
    if ranks is None:
        return Interval(middle, -math.inf, math.inf)
    rank = ranks[0] + 1  # from 1, as the formula counts
    share = _interpolation(count, rank, confidence)
    ordered = sorted(values)
    low = (1 - share) * ordered[rank - 1] + share * ordered[min(rank, count - 1)]
    high = (1 - share) * ordered[count - rank] + share * ordered[max(count - rank - 1, 0)]
    return Interval(middle, min(low, middle), max(high, middle))


@cache
def _interpolation(count: int, rank: int, confidence: float) -> float:
    """How far from the ``rank``-th order statistic towards the next inner one the bound lies."""
    from scipy.special import bdtr  # the binomial's distribution function

    outer, inner = (1 - 2 * float(bdtr(k - 1, count, 0.5)) for k in (rank, rank + 1))
    excess = (outer - confidence) / (outer - inner)
    return (count - rank) * excess / (rank + (count - 2 * rank) * excess)


def sample_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Median of samples in the order they were taken, with its interval.

    Neighbours in time resemble each other, so n samples say as much as n·(1 - r)/(1 + r)
    independent ones, r being the correlation of neighbours (of a first-order process). The
    interval of independent values is widened by that, where r is more than chance.
    """
    interval = median_interval(values, confidence)
    stretch = _stretch(neighbour_correlation(values), len(values))
    return Interval(
        interval.estimate,
        interval.estimate - stretch * (interval.estimate - interval.low),
        interval.estimate + stretch * (interval.high - interval.estimate),
    )


def _stretch(correlation: float, count: int) -> float:
    """Factor on the interval's width; 1 below what 1 in 20 uncorrelated series would show.

    At most as if two of the values were independent: a stronger correlation can't be told.
    """
    if correlation * math.sqrt(count) < 1.645:
        return 1.0
    bounded = min(correlation, (count - 2) / (count + 2))
    return math.sqrt((1 + bounded) / (1 - bounded))


def neighbour_correlation(values: Sequence[float]) -> float:
    """Rank correlation of each value with the next one; 0 where there are too few or no ranks."""
    if len(values) < 6 or min(values) == max(values):
        return 0.0
    ranks = _ranks(values)
    first, second = ranks[:-1] - ranks[:-1].mean(), ranks[1:] - ranks[1:].mean()
    scale = math.sqrt(float(first @ first) * float(second @ second))
    # All but the first or the last may be equal, and then nothing varies with its neighbour.
    return float(first @ second) / scale if scale else 0.0


def _ranks(values: Sequence[float]) -> Any:
    """Ranks from 1, equal values sharing the mean of theirs, as an array."""
    import numpy as np

    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]


def drift(values: Sequence[float]) -> float:
    """Relative change from the first third to the last; 0 where order and value are unrelated.

    Related: Spearman's correlation of value and position is beyond what 1 in 1,000 series
    without a trend would show.
    """
    import numpy as np

    count = len(values)
    third = count // 3
    if third < 3:
        return 0.0
    ranks = _ranks(values)
    trend = float(np.corrcoef(ranks, np.arange(count))[0, 1])
    if abs(trend) * math.sqrt(count - 1) < 3.29:
        return 0.0
    # Of a coarse clock medians jump from tick to tick; means do not.
    return math.fsum(values[-third:]) / math.fsum(values[:third]) - 1


def burst_and_sustained(
    values: Sequence[float], inner: float, burst_s: float = 1.0, least_s: float = 4.0
) -> tuple[float, float]:
    """Median of the first second of samples, and of the later half of their time.

    ``values`` are seconds per step, with ``inner`` steps in each. Both are unknown (NaN) where
    the samples together last less than ``least_s``, in which a card hardly warms up.
    """
    elapsed, ends = 0.0, []
    for value in values:
        elapsed += value * inner
        ends.append(elapsed)
    if elapsed < least_s:
        return math.nan, math.nan
    first = [value for value, end in zip(values, ends, strict=True) if end <= burst_s]
    last = [value for value, end in zip(values, ends, strict=True) if end > elapsed / 2]
    return median(first or values[:1]), median(last)


def two_modes(values: Sequence[float]) -> tuple[float, float] | None:
    """Centres of two groups that the positive values fall into; None where they are one.

    The split of the sorted logarithms that leaves the least variance inside (Otsu 1979) counts
    when the centres lie five times the spread inside apart (halves of a normal distribution: 2.7,
    of a uniform one: 3.5), each group holds a tenth of the values and five at least, and the
    middle third of the way between the centres is all but empty, which a long tail's is not.
    """
    import numpy as np

    ordered = np.sort(np.log(np.asarray(values, dtype=float)))
    count = len(ordered)
    if count < 20 or ordered[0] == ordered[-1]:
        return None
    least = max(5, math.ceil(count / 10))
    sizes = np.arange(least, count - least + 1)
    sums, squares = np.cumsum(ordered), np.cumsum((ordered - ordered.mean()) ** 2)
    low, high = sums[sizes - 1] / sizes, (sums[-1] - sums[sizes - 1]) / (count - sizes)
    between = sizes * (count - sizes) / count * (high - low) ** 2
    best = int(np.argmax(between))
    within = math.sqrt(max(float(squares[-1] - between[best]), 0.0) / count)
    gap = (high[best] - low[best]) / 3
    inside = np.sum((ordered > low[best] + gap) & (ordered < high[best] - gap))
    if 3 * gap < 5 * within or inside > 0.1 * min(sizes[best], count - sizes[best]):
        return None
    return math.exp(low[best]), math.exp(high[best])


@dataclass(frozen=True)
class LogRatio:
    """What independent values say of a ratio: on the logarithm, so that its reciprocal is as good.

    Attributes:
        difference: estimate of the logarithm of the ratio.
        error: its standard error; infinite where the spread is unknown.
        degrees: of freedom of that error.
    """

    difference: float
    error: float
    degrees: float

    def interval(self, confidence: float = 0.95) -> Interval:
        """The ratio with Student's interval."""
        estimate = math.exp(self.difference)
        if self.error == 0:
            return Interval(estimate, estimate, estimate)
        if math.isinf(self.error):
            return Interval(estimate, 0.0, math.inf)
        from scipy.special import stdtrit  # without scipy.stats, whose import takes half a second

        reach = float(stdtrit(self.degrees, (1 + confidence) / 2)) * self.error
        return Interval(
            estimate, math.exp(self.difference - reach), math.exp(self.difference + reach)
        )

    def chance(self, min_effect: float) -> float:
        """Two-sided p-value against a true ratio within 1 / (1 + min_effect) … 1 + min_effect.

        It is below 5 % just where the 95 % interval clears the minimum effect.
        """
        beyond = abs(self.difference) - math.log1p(min_effect)
        if self.error == 0:
            return 0.0 if beyond > 0 else 1.0
        if math.isinf(self.error):
            return 1.0
        from scipy.special import stdtr

        return min(1.0, 2 * float(stdtr(self.degrees, -beyond / self.error)))


def welch(baseline: Sequence[float], contender: Sequence[float]) -> LogRatio:
    """Ratio of contender to baseline, from independent values of each (process medians).

    Welch's approximation, for sides that may spread differently. With one value on a side the
    spread between processes is unknown.
    """
    logs = [[math.log(value) for value in side] for side in (baseline, contender)]
    means = [math.fsum(side) / len(side) for side in logs]
    difference = means[1] - means[0]
    if min(len(side) for side in logs) < 2:
        return LogRatio(difference, math.inf, 1.0)
    errors = [
        math.fsum((value - mean) ** 2 for value in side) / (len(side) - 1) / len(side)
        for side, mean in zip(logs, means, strict=True)
    ]
    total = sum(errors)
    if total == 0:
        return LogRatio(difference, 0.0, 1.0)
    degrees = total**2 / sum(
        error**2 / (len(side) - 1) for error, side in zip(errors, logs, strict=True)
    )
    return LogRatio(difference, math.sqrt(total), degrees)


@dataclass(frozen=True)
class PairedLogRatio:
    """What pairs measured next to each other say of a ratio: the logarithm of each pair's.

    What both of a pair suffer, such as a slow hour of the machine, cancels. From twelve pairs on,
    the interval and the odds are those of Wilcoxon's signed ranks, which one wild pair can't spoil
    (Hollander, Wolfe and Chicken 2014, section 3.1 to 3.3); of fewer, ranks are sure of too little,
    and Student's are taken.
    """

    logs: tuple[float, ...]

    def interval(self, confidence: float = 0.95) -> Interval:
        """The ratio by Hodges and Lehmann's estimate, with its distribution-free interval."""
        if len(self.logs) < LEAST_RANKED:
            return self._student().interval(confidence)
        averages = self._averages()
        rank = _signed_rank_quantile(len(self.logs), (1 - confidence) / 2)
        if rank is None:
            return Interval(math.exp(median(averages)), 0.0, math.inf)
        bounds = (averages[rank], median(averages), averages[-1 - rank])
        low, middle, high = map(math.exp, bounds)
        return Interval(middle, low, high)

    def chance(self, min_effect: float) -> float:
        """Two-sided p-value against a true ratio within 1 / (1 + min_effect) … 1 + min_effect."""
        if len(self.logs) < LEAST_RANKED:
            return self._student().chance(min_effect)
        averages = self._averages()
        sign = 1 if median(averages) >= 0 else -1
        # Wilcoxon's statistic is the number of averages of two values beyond the floor.
        short = sum(sign * average <= math.log1p(min_effect) for average in averages)
        counts = _signed_rank_counts(len(self.logs))
        return min(1.0, 2 * sum(counts[: short + 1]) / float(2 ** len(self.logs)))

    def _averages(self) -> list[float]:
        return _walsh_averages(self.logs)

    def _student(self) -> LogRatio:
        count = len(self.logs)
        mean = math.fsum(self.logs) / count
        if count < 2:
            return LogRatio(mean, math.inf, 1.0)
        variance = math.fsum((value - mean) ** 2 for value in self.logs) / (count - 1)
        return LogRatio(mean, math.sqrt(variance / count), count - 1.0)


def paired(baseline: Sequence[float], contender: Sequence[float]) -> PairedLogRatio:
    """Ratio of contender to baseline, the n-th of one measured next to the n-th of the other."""
    pairs = zip(baseline, contender, strict=True)
    return PairedLogRatio(tuple(math.log(after / before) for before, after in pairs))


def paired_centre(values: Sequence[float]) -> float:
    """Centre of one side of pairs, of the kind that `paired` has for their ratio.

    The ratio of two geometric means is that of the pairs. From twelve pairs on Hodges and Lehmann's
    estimate is as little spoilt by one wild round as their ratio, and close to it.
    """
    if len(values) < LEAST_RANKED:
        return geometric_mean(values)
    return math.exp(median(_walsh_averages([math.log(value) for value in values])))


def _walsh_averages(values: Sequence[float]) -> list[float]:
    """Averages of any two of the values, each with itself too, in order."""
    return sorted((a + b) / 2 for i, a in enumerate(values) for b in values[i:])


@cache
def _signed_rank_counts(count: int) -> list[int]:
    """In how many of the 2**count sign patterns the positive ranks add up to each total."""
    ways = [1]
    for rank in range(1, count + 1):
        longer = ways + [0] * rank
        for total, number in enumerate(ways):
            longer[total + rank] += number
        ways = longer
    return ways


@cache
def _signed_rank_quantile(count: int, tail: float) -> int | None:
    """Largest sum of ranks that, with all below it, has at most ``tail`` of the probability."""
    below, rank = 0, -1
    for total, ways in enumerate(_signed_rank_counts(count)):
        below += ways
        if below > tail * 2**count:
            break
        rank = total
    return rank if rank >= 0 else None


def false_discovery(chances: Sequence[float]) -> list[float]:
    """The share of false alarms among all that are as unlikely as each, at most.

    Benjamini and Hochberg's procedure (1995, "Controlling the false discovery rate"), as adjusted
    p-values: what stays below 5 % holds even though that many were looked at.
    """
    order = sorted(range(len(chances)), key=lambda index: -chances[index])
    adjusted, smallest = [1.0] * len(chances), 1.0
    for place, index in enumerate(order):
        smallest = min(smallest, chances[index] * len(chances) / (len(chances) - place))
        adjusted[index] = smallest
    return adjusted


def geometric_mean(values: Sequence[float]) -> float:
    """Geometric mean of positive values."""
    return math.exp(math.fsum(math.log(value) for value in values) / len(values))


def mean_half_width(values: Sequence[float], confidence: float = 0.95) -> float:
    """Half-width of Student's interval of the mean of independent values."""
    from scipy.special import stdtrit

    count = len(values)
    mean = math.fsum(values) / count
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    return float(stdtrit(count - 1, (1 + confidence) / 2)) * math.sqrt(variance / count)
