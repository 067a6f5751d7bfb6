"""Intervals and p values: t, Welch, Holm, BCa. Pure arithmetic."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, variance

from scipy.special import stdtr, stdtrit

ENOUGH = 3  # pairs; fewer are no verdict
BOOTSTRAP_FROM = 10  # pairs
RESAMPLES = 9_999
ALPHA = 0.05  # chance of a false difference in time over all arms together, of a false loss, of a false "not worse"
Bounds = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class _Mean:
    """A mean, or a difference of two, with its standard error."""

    value: float
    error: float
    freedom: float
    count: int

    @property
    def p(self) -> float:
        """Two-sided, of the value being 0; without any scatter certain."""
        if self.error == 0:
            return 1.0 if self.value == 0 else 0.0
        return float(2 * stdtr(self.freedom, -abs(self.value) / self.error))

    def reach(self, tail: float) -> float:
        """From the value to a bound that is passed with a chance of `tail`."""
        return float(stdtrit(self.freedom, 1 - tail)) * self.error


@dataclass(frozen=True, kw_only=True)
class _Step:
    p_holm: float
    level: float


def _mean(values: Sequence[float]) -> _Mean | None:
    """None without a value; with one the error is infinite."""
    if not values:
        return None
    count = len(values)
    error = math.sqrt(variance(values) / count) if count > 1 else math.inf
    return _Mean(value=fmean(values), error=error, freedom=max(1, count - 1), count=count)


def _welch(first: Sequence[float], second: Sequence[float]) -> _Mean | None:
    """Mean of the first minus that of the second; each has a variance of its own (Welch, Biometrika 1947)."""
    if not first or not second:
        return None
    count = min(len(first), len(second))
    value = fmean(first) - fmean(second)
    if count < 2:
        return _Mean(value=value, error=math.inf, freedom=1, count=count)
    parts = [variance(values) / len(values) for values in (first, second)]
    spread = sum(part**2 / (len(values) - 1) for part, values in zip(parts, (first, second), strict=True))
    freedom = sum(parts) ** 2 / spread if spread > 0 else count - 1
    return _Mean(value=value, error=math.sqrt(sum(parts)), freedom=freedom, count=count)


def _holm(means: Mapping[str, _Mean | None]) -> dict[str, _Step]:
    """Holm's adjusted p and the level of each interval, of the arms with ENOUGH (Scandinavian J. of Statistics 1979).

    The k-th smallest of m p is held against ALPHA / (m - k + 1) until one is above; from there the level stays. An
    interval at its arm's level so leaves out 0 exactly where Holm calls the arm different. It holds for its arm with
    at least 95 %, not for all of them together.
    """
    ranked = sorted((mean.p, arm) for arm, mean in means.items() if mean is not None and mean.count >= ENOUGH)
    found: dict[str, _Step] = {}
    p_holm, level = 0.0, ALPHA
    for index, (p, arm) in enumerate(ranked):
        left = len(ranked) - index
        if p_holm < ALPHA:  # all before are found different
            level = ALPHA / left
        p_holm = max(p_holm, min(1.0, left * p))
        found[arm] = _Step(p_holm=p_holm, level=level)
    return found


def _interval(mean: _Mean, level: float) -> Bounds:
    reach = mean.reach(level / 2)
    return _exp((mean.value - reach, mean.value + reach))


def _exp(bounds: Bounds) -> Bounds:
    """Where the scatter is so large that a bound is no number of Python's any more, it is 0 or infinite."""
    low, high = (math.inf if bound > _LARGEST else math.exp(bound) for bound in bounds)
    return low, high


_LARGEST = 700.0  # math.exp(710) overflows


def _family(means: Mapping[str, _Mean | None]) -> int:
    return sum(mean is not None and mean.count >= ENOUGH for mean in means.values())


def _bootstrap(logs: Sequence[float], level: float) -> Bounds | None:
    """BCa interval of the ratio (Efron, JASA 1987), the same for the same pairs; None where BCa has none.

    It draws pairs, not epochs.
    """
    if len(set(logs)) == 1:
        return _exp((logs[0], logs[0]))
    import numpy as np
    from scipy.stats import bootstrap

    found = bootstrap(
        (np.asarray(logs),), np.mean, confidence_level=1 - level, n_resamples=RESAMPLES, method="BCa",
        rng=np.random.default_rng(0), vectorized=True,
    )  # fmt: skip
    low, high = found.confidence_interval
    return None if math.isnan(low) or math.isnan(high) else _exp((float(low), float(high)))
