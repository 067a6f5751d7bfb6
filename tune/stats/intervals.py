"""Intervals and p values: t, Welch, Holm, BCa. Pure arithmetic."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, variance

from scipy.special import stdtr, stdtrit

MIN_PAIRS = 3  # with fewer there is no interval and no verdict
BOOTSTRAP_MIN_PAIRS = 10
RESAMPLES = 9_999
ALPHA = 0.05  # chance of a false difference in time over all arms together, of a false loss, of a false "not worse"
LARGEST_EXPONENT = 700.0  # math.exp(710) overflows
Bounds = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Mean:
    """A mean, or a difference of two means, with its standard error."""

    value: float
    error: float
    freedom: float  # degrees of freedom of the t distribution
    count: int

    @property
    def p(self) -> float:
        """Two-sided p of the value being 0. Without scatter the answer is certain."""
        if self.error == 0:
            return 1.0 if self.value == 0 else 0.0
        return float(2 * stdtr(self.freedom, -abs(self.value) / self.error))

    def reach(self, tail: float) -> float:
        """Distance from the value to the bound that is exceeded with probability `tail`."""
        return t_quantile(self.freedom, 1 - tail) * self.error


@functools.lru_cache(maxsize=1024)
def t_quantile(freedom: float, probability: float) -> float:
    """The value that a t variable with `freedom` degrees of freedom stays below with this probability."""
    return float(stdtrit(freedom, probability))


@dataclass(frozen=True, kw_only=True)
class HolmStep:
    """An arm's adjusted p, and the error that its interval is allowed."""

    p_holm: float
    level: float


def mean_of(values: Sequence[float]) -> Mean | None:
    """None without a value. One value has an infinite error."""
    if not values:
        return None
    count = len(values)
    error = math.sqrt(variance(values) / count) if count > 1 else math.inf
    return Mean(value=fmean(values), error=error, freedom=max(1, count - 1), count=count)


def welch_difference(first: Sequence[float], second: Sequence[float]) -> Mean | None:
    """Mean of the first minus mean of the second; their variances may differ (Welch, Biometrika 1947)."""
    if not first or not second:
        return None
    count = min(len(first), len(second))
    value = fmean(first) - fmean(second)
    if count < 2:
        return Mean(value=value, error=math.inf, freedom=1, count=count)
    parts = [variance(values) / len(values) for values in (first, second)]
    spread = sum(part**2 / (len(values) - 1) for part, values in zip(parts, (first, second), strict=True))
    freedom = sum(parts) ** 2 / spread if spread > 0 else count - 1
    return Mean(value=value, error=math.sqrt(sum(parts)), freedom=freedom, count=count)


def tested(means: Mapping[str, Mean | None]) -> dict[str, Mean]:
    """The family that is tested together: the arms with MIN_PAIRS."""
    return {arm: mean for arm, mean in means.items() if mean is not None and mean.count >= MIN_PAIRS}


def holm(means: Mapping[str, Mean | None], *, alpha: float = ALPHA, absent: int = 0) -> dict[str, HolmStep]:
    """Holm's adjusted p and the level of each tested arm's interval (Scandinavian J. of Statistics 1979).

    The k-th smallest of m p is compared with alpha / (m - k + 1) until one is above; from there on the level stays.
    So an interval at its arm's level excludes 0 exactly where Holm calls the arm different. Each interval holds for
    its own arm with at least 1 - alpha, not for all arms together.

    alpha: chance of a false difference over all arms together.
    absent: arms that belong to the family and are not tested, as if their p were 1.
    """
    ranked = sorted((mean.p, arm) for arm, mean in tested(means).items())
    steps: dict[str, HolmStep] = {}
    p_holm, level = 0.0, alpha
    for index, (p, arm) in enumerate(ranked):
        remaining = len(ranked) - index + absent
        if p_holm < alpha:  # all arms before this one differ
            level = alpha / remaining
        p_holm = max(p_holm, min(1.0, remaining * p))
        steps[arm] = HolmStep(p_holm=p_holm, level=level)
    return steps


def ratio_interval(mean: Mean, level: float) -> Bounds:
    """The t interval of a mean of logarithms, as a ratio."""
    reach = mean.reach(level / 2)
    return _exp((mean.value - reach, mean.value + reach))


def _exp(bounds: Bounds) -> Bounds:
    """Large scatter gives bounds beyond Python's floats: these become 0 or infinite."""
    low, high = (math.inf if bound > LARGEST_EXPONENT else math.exp(bound) for bound in bounds)
    return low, high


def bootstrap_interval(logs: Sequence[float], level: float) -> Bounds | None:
    """BCa interval of the ratio (Efron, JASA 1987); None where BCa has none. The same pairs give the same interval.

    It draws pairs, not epochs.
    """
    if len(set(logs)) == 1:
        return _exp((logs[0], logs[0]))
    import numpy as np
    from scipy.stats import bootstrap

    result = bootstrap(
        (np.asarray(logs),), np.mean, confidence_level=1 - level, n_resamples=RESAMPLES, method="BCa",
        rng=np.random.default_rng(0), vectorized=True,
    )  # fmt: skip
    low, high = result.confidence_interval
    return None if math.isnan(low) or math.isnan(high) else _exp((float(low), float(high)))
