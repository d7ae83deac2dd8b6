"""A positive number with its errors by cause: what two numbers share cancels in their ratio.

An estimate is a natural logarithm and, for each cause of error, a relative standard deviation.
Different causes are independent; one cause moves all estimates that name it together. Products,
ratios and powers of estimates are again estimates (first-order propagation, exact for logarithms),
so the interval of the ratio of two scores needs no further thought: what both rest on is gone.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

#: Half of an 80 % interval in standard deviations, of Student's t with four degrees of freedom:
#: most errors of cards left out are smaller than a normal distribution of their deviation has them,
#: and a few much larger (docs/prediction.md).
REACH80 = 1.5332062740589438 / math.sqrt(2)


@dataclass(frozen=True)
class Estimate:
    """A positive number and its errors.

    Attributes:
        log: natural logarithm of the number.
        errors: standard deviation of the logarithm by cause; the sign says which way a shared
            cause moves this number.
    """

    log: float
    errors: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, value: float, errors: Mapping[str, float] | None = None) -> "Estimate":
        """A number above zero with relative standard deviations by cause."""
        return cls(math.log(value), errors or {})

    @property
    def value(self) -> float:
        """The number itself."""
        return _exp(self.log)

    @property
    def deviation(self) -> float:
        """Standard deviation of the logarithm from all causes."""
        return math.hypot(*self.errors.values())

    @property
    def low(self) -> float:
        """Lower end of the 80 % interval."""
        return _exp(self.log - REACH80 * self.deviation)

    @property
    def high(self) -> float:
        """Upper end of the 80 % interval."""
        return _exp(self.log + REACH80 * self.deviation)

    def __mul__(self, other: "Estimate") -> "Estimate":
        """The product."""
        return product([(self, 1.0), (other, 1.0)])

    def __truediv__(self, other: "Estimate") -> "Estimate":
        """The ratio."""
        return product([(self, 1.0), (other, -1.0)])

    def __pow__(self, exponent: float) -> "Estimate":
        """The power; a root where the exponent is below 1."""
        return product([(self, exponent)])


def product(factors: Iterable[tuple[Estimate, float]]) -> Estimate:
    """The product of estimates, each raised to its exponent."""
    log, errors = 0.0, dict[str, float]()
    for estimate, exponent in factors:
        log += exponent * estimate.log
        for cause, deviation in estimate.errors.items():
            errors[cause] = errors.get(cause, 0.0) + exponent * deviation
    return Estimate(log, errors)


def geometric_mean(weighted: Iterable[tuple[Estimate, float]]) -> Estimate:
    """The weighted geometric mean; weights are not below zero, and one of them is above it."""
    pairs = list(weighted)
    total = math.fsum(weight for _, weight in pairs)
    return product((estimate, weight / total) for estimate, weight in pairs)


def _exp(log: float) -> float:
    """Beyond the largest number an interval's end is infinite, not an error."""
    try:
        return math.exp(log)
    except OverflowError:
        return math.inf
