"""Pure numbers: intervals and ratios. Nothing here knows what was measured.

scipy is imported where it is used: the command must answer before half a second is gone on it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache


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
    """Median with its distribution-free interval.

    With too few values for the confidence the interval is unbounded (infinite), not invented.
    """
    ranks = median_ranks(len(values), confidence)
    middle = median(values)
    if ranks is None:
        return Interval(middle, -math.inf, math.inf)
    ordered = sorted(values)
    return Interval(middle, ordered[ranks[0]], ordered[ranks[1]])


def ratio_interval(
    baseline: Sequence[float], contender: Sequence[float], confidence: float = 0.95
) -> Interval:
    """Ratio of contender to baseline, from independent values of each (process medians).

    Welch's interval on the logarithms, so that swapping the sides gives the reciprocal. With one
    value on a side the spread between processes is unknown and the interval unbounded.
    """
    logs = [[math.log(value) for value in side] for side in (baseline, contender)]
    means = [math.fsum(side) / len(side) for side in logs]
    difference = means[1] - means[0]
    if min(len(side) for side in logs) < 2:
        return Interval(math.exp(difference), 0.0, math.inf)
    errors = [
        math.fsum((value - mean) ** 2 for value in side) / (len(side) - 1) / len(side)
        for side, mean in zip(logs, means, strict=True)
    ]
    total = sum(errors)
    if total == 0:
        return Interval(*(math.exp(difference),) * 3)
    degrees = total**2 / sum(
        error**2 / (len(side) - 1) for error, side in zip(errors, logs, strict=True)
    )
    from scipy.special import stdtrit  # Student's t quantile, without scipy.stats' half second

    reach = float(stdtrit(degrees, (1 + confidence) / 2)) * math.sqrt(total)
    return Interval(
        math.exp(difference), math.exp(difference - reach), math.exp(difference + reach)
    )


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
