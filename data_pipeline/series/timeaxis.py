"""Checks a time axis chunk by chunk: times increase by one step, and few rows are missing."""

from __future__ import annotations

from collections import Counter

import numpy as np

from data_pipeline.errors import DataError

MICROSECONDS_PER_MINUTE = 60_000_000
MAX_MISSING_FRACTION = 0.01
"""With more missing rows, "24 rows ago" no longer means "yesterday"."""
MAX_DISTINCT_STEPS = 10_000


class TimeAxis:
    """Pass all timestamps to `add`, in order; then read `step_us`, `gaps` and `missing_rows`."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._last: int | None = None
        self._rows = 0
        self._steps: Counter[int] = Counter()

    def add(self, timestamps_us: np.ndarray) -> None:
        """Add timestamps [n] int64 in microseconds. Raises DataError for the first one that does not increase."""
        if timestamps_us.size == 0:
            return
        joined = timestamps_us if self._last is None else np.concatenate(([self._last], timestamps_us))
        steps = np.diff(joined)
        if (steps <= 0).any():
            first = int(np.argmax(steps <= 0))
            row = self._rows + first + (2 if self._last is None else 1)
            when = joined[first + 1].astype("datetime64[us]").astype("datetime64[s]")
            if steps[first] == 0:
                raise DataError(
                    f"{self._source}: the timestamp {when} is there twice (data row {row}): "
                    "keep one row per time, and write times in UTC if clocks were changed"
                )
            raise DataError(f"{self._source}: time goes backwards to {when} at data row {row}: sort the rows by time")
        for step, count in zip(*np.unique(steps, return_counts=True), strict=True):
            self._steps[int(step)] += int(count)
        if len(self._steps) > MAX_DISTINCT_STEPS:
            raise self._irregular()
        self._last = int(timestamps_us[-1])
        self._rows += timestamps_us.size

    @property
    def step_us(self) -> int:
        """The commonest step in microseconds. Raises DataError for fewer than two rows."""
        if not self._steps:
            raise DataError(f"{self._source}: {self._rows} data rows show no step between rows: give a longer series")
        return max(self._steps, key=lambda step: (self._steps[step], -step))

    @property
    def gaps(self) -> int:
        """The number of places at which rows are missing."""
        return sum(self._steps.values()) - self._steps[self.step_us]

    @property
    def missing_rows(self) -> int:
        """The number of rows that are missing in all gaps."""
        common = self.step_us
        return sum((step // common - 1) * count for step, count in self._steps.items())

    def check(self) -> None:
        """Raise DataError if steps are no multiples of the commonest one, or if over 1 % of the rows are missing."""
        common, gaps = self.step_us, self.gaps
        if any(step % common for step in self._steps) or gaps > sum(self._steps.values()) / 2:
            raise self._irregular()
        missing = self.missing_rows
        if missing > MAX_MISSING_FRACTION * self._rows:
            raise DataError(
                f"{self._source}: {missing} rows are missing in {gaps} gaps at one row per "
                f"{common / MICROSECONDS_PER_MINUTE:g} min, {self._rows} are there: at most "
                f"{MAX_MISSING_FRACTION:.0%} may be missing; fill the gaps, or give the longest part without gaps"
            )

    def _irregular(self) -> DataError:
        common = ", ".join(
            f"{step / MICROSECONDS_PER_MINUTE:g} min ({count} times)" for step, count in self._steps.most_common(3)
        )
        return DataError(
            f"{self._source}: irregular time steps, {common}...: resample to one step (missing rows are allowed, "
            f"up to {MAX_MISSING_FRACTION:.0%})"
        )
