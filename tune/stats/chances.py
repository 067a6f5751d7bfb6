"""How likely the last look of `--repeats auto` decides an arm's open question (tune/stats/looks.py). Pure arithmetic.

A chance decides only whether an arm goes on, never a verdict, so it may assume what no test here assumes: that pairs of
all arms scatter alike, and that an arm's mean so far is its true one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

from scipy.special import ndtr

from tune.stats.intervals import MIN_PAIRS, Mean, t_quantile

LAST_PAIRS = 10  # of the last look
NO_SCATTER = 1e-12


def likely_scatter(means: Iterable[Mean | None]) -> float | None:
    """The median over arms of a pair's standard deviation: with 3 pairs an arm's own says little. None: no arm."""
    scatters = [mean.error * math.sqrt(mean.count) for mean in means if mean is not None and mean.count >= MIN_PAIRS]
    return median(scatters) if scatters else None


def speed_chance(mean: Mean | None, scatter: float | None, alpha: float, family: int, margin: float) -> float:
    """The chance that the last look finds the arm faster, slower or within the margin.

    mean: of the logarithms of ratios so far; None: no pair counts, and none will.
    alpha, family: of the last look. margin: of the logarithm.
    """
    if mean is None:
        return 0.0
    future = _Future.of(mean, scatter)
    if future is None:
        return 1.0
    reach, near = future.reach(alpha / family / 2), margin - future.reach(alpha)
    differs = future.above(reach) + future.below(-reach)
    same = future.below(near) - future.below(-near) if near > 0 else 0.0
    return min(1.0, differs + same)  # a small difference may be both


def accuracy_chance(mean: Mean | None, scatter: float | None, alpha: float, family: int, margin: float) -> float:
    """The chance that the last look finds the arm's validation error not worse, or worse."""
    if mean is None:
        return 0.0
    future = _Future.of(mean, scatter)
    if future is None:
        return 1.0
    return min(1.0, future.below(margin - future.reach(alpha)) + future.above(future.reach(alpha / family)))


@dataclass(frozen=True, kw_only=True)
class _Future:
    """The mean at the last look: normal around the present one."""

    mean: float
    scatter: float  # of one pair
    error: float  # of the last look's mean, given the pairs so far

    @classmethod
    def of(cls, mean: Mean, scatter: float | None) -> _Future | None:
        """None where too few pairs say anything."""
        if mean.count < MIN_PAIRS or scatter is None:
            return None
        coming = max(0, LAST_PAIRS - mean.count)
        return cls(mean=mean.value, scatter=scatter, error=max(scatter * math.sqrt(coming) / LAST_PAIRS, NO_SCATTER))

    def reach(self, tail: float) -> float:
        return t_quantile(LAST_PAIRS - 1, 1 - tail) * self.scatter / math.sqrt(LAST_PAIRS)

    def below(self, bound: float) -> float:
        return float(ndtr((bound - self.mean) / self.error))

    def above(self, bound: float) -> float:
        return float(ndtr((self.mean - bound) / self.error))
