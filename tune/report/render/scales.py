"""From values to places: a logarithmic scale of ratios, a linear one of errors, the ticks and the names that fit."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

RATIOS = (
    1.0,
    2.0,
    0.5,
    4.0,
    0.25,
    1.5,
    0.67,
    8.0,
    0.1,
    10.0,
    3.0,
    0.33,
    6.0,
    1.25,
    0.8,
    1.1,
    0.9,
    20.0,
    0.05,
    50.0,
    100.0,
    0.02,
    0.01,
    1.05,
    0.95,
    1.02,
    0.98,
    1.01,
    0.99,
)  # the first that fit are ticks
LEAST_RATIO = 1.04  # the scale reaches at least so far on both sides of 1, so that small differences look small
TICK_PX = 38  # least distance of two ticks


def cut(text: str, most: int) -> str:
    """The text, or its beginning and its end where it is longer than `most` letters: arms differ at both."""
    if len(text) <= most:
        return text
    end = (most - 1) // 2
    return f"{text[: most - 1 - end]}…{text[-end:]}"


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Places from `begin` to `end` for values from `low` to `high`."""

    low: float
    high: float
    begin: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, value = (self._of(each) for each in (self.low, self.high, value))
        return self.begin + (value - low) / (high - low) * (self.end - self.begin)

    def _of(self, value: float) -> float:
        return math.log(value) if self.log else value

    @property
    def ticks(self) -> list[float]:
        """Round values with room between them; 1 is there of ratios, 0 of errors."""
        kept: list[float] = []
        for value in RATIOS if self.log else _linear_ticks(self.low, self.high):
            inside = self.low <= value <= self.high
            if inside and all(abs(self(value) - self(other)) >= TICK_PX for other in kept):
                kept.append(value)
        return sorted(kept)


def ratio_scale(values: Iterable[float], begin: float, end: float, *, before: float = 0, after: float = 0) -> Scale:
    """A scale of ratios with 1 inside. `before`, `after`: room for labels at its two ends."""
    ends = [1 / LEAST_RATIO, LEAST_RATIO, *values]
    inner = Scale(low=min(ends), high=max(ends), begin=begin + before, end=end - after, log=True)
    per_px = math.log(inner.high / inner.low) / max(1.0, inner.end - inner.begin)
    low, high = inner.low * math.exp(-before * per_px), inner.high * math.exp(after * per_px)
    return Scale(low=low, high=high, begin=begin, end=end, log=True)


def error_scale(values: Iterable[float], margin: float, begin: float, end: float) -> Scale:
    """A scale of relative errors with 0 and the margin inside."""
    ends = [-1.5 * margin, 1.8 * margin, *(1.08 * value for value in values)]
    return Scale(low=min(ends), high=max(ends), begin=begin, end=end)


def _linear_ticks(low: float, high: float) -> list[float]:
    """Round values, 0 first, then outwards."""
    from matplotlib.ticker import MaxNLocator

    found = MaxNLocator(nbins=4, steps=[1, 2, 5, 10]).tick_values(low, high)
    return sorted(map(float, found), key=abs)
