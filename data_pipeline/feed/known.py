"""Windows whose truth is known, in time order and in the units of the source: what a backtest forecasts.

Shapes: n windows, L context rows, N rows to forecast, C columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from data_pipeline.errors import DataError
from data_pipeline.options import DEFAULTS, DataOptions
from data_pipeline.series.steps import Step
from data_pipeline.series.store import Series
from data_pipeline.series.windows import window_starts
from data_pipeline.source.readers import open_source


@dataclass(frozen=True, kw_only=True, eq=False)
class KnownWindows:
    """n windows. The arrays may be views of one another: read them only."""

    timestamps: np.ndarray
    """[n, L + N] int64, microseconds since 1970, in UTC if the source names a zone."""
    past: np.ndarray
    """[n, L, C] float32."""
    future: np.ndarray
    """[n, N, C] float32."""
    counted: np.ndarray | None = None
    """[n, N, C] bool, the values of `future` that were measured and not filled; None: all."""
    series: str | None = None
    """The id of the series, for a file of several."""


def test_windows(series: Series, *, context_length: int, horizon: int, size: int) -> Iterator[KnownWindows]:
    """The windows of the test set, at most `size` of one series at a time. Raises DataError where it holds none."""
    windows = window_starts(series.every_bounds, context_length, horizon, series.apart)["test"]
    times = series.timestamps.astype("datetime64[us]").astype(np.int64)
    starts = windows.at(np.arange(len(windows)))
    of_group = np.searchsorted([group.rows[1] for group in series.groups], starts, side="right")
    for number, group in enumerate(series.groups):
        mine = starts[of_group == number]
        for at in range(0, len(mine), size):
            rows = mine[at : at + size, None] + np.arange(context_length + horizon)
            values = series.values[rows]
            yield KnownWindows(
                timestamps=times[rows],
                past=values[:, :context_length],
                future=values[:, context_length:],
                counted=None if series.filled is None else ~series.filled[rows[:, context_length:]].astype(bool),
                series=group.id if len(series.groups) > 1 else None,
            )


@dataclass(kw_only=True)
class FileWindows:
    """The windows of a CSV or Parquet file, read as a stream. A window with a gap or a missing value is left out."""

    path: Path
    columns: Sequence[str]
    context_length: int
    horizon: int
    step: Step
    options: DataOptions = DEFAULTS
    within: tuple[int, int] | None = None
    """Only windows whose forecast rows lie at these times, the first and the last; None: all."""
    windows: int = field(default=0, init=False)
    """How many were handed out."""
    left_out: int = field(default=0, init=False)
    """How many had a gap or a missing value."""
    zone: str | None = field(default=None, init=False)

    def batches(self, size: int) -> Iterator[KnownWindows]:
        """At most `size` windows at a time. Raises DataError for a file that cannot be read, or that holds none."""
        source = open_source(self.path, self.options, self.columns)
        length = self.context_length + self.horizon
        times, values = np.empty(0, np.int64), np.empty((0, len(self.columns)), np.float32)
        for chunk in source.chunks():
            times = np.concatenate((times, chunk.timestamps))
            values = np.concatenate((values, chunk.values))
            self.zone = source.zone
            if len(times) >= length:
                yield from self._batches(times, values, size)
                times, values = times[-(length - 1) :], values[-(length - 1) :]
        source.faults.raise_if_any()
        if not self.windows:
            raise DataError(
                f"{self.path}: no window of {self.context_length} + {self.horizon} rows without a gap or a missing "
                f"value ({self.left_out} with one): give a longer series, or a shorter horizon"
            )

    def _batches(self, times: np.ndarray, values: np.ndarray, size: int) -> Iterator[KnownWindows]:
        length = self.context_length + self.horizon
        asked = np.ones(len(times) - length + 1, bool)
        if self.within is not None:
            first, last = times[self.context_length : len(times) - self.horizon + 1], times[length - 1 :]
            asked = (first >= self.within[0]) & (last <= self.within[1])
        whole = asked & self._whole(times, values)
        self.left_out += int(asked.sum() - whole.sum())
        starts = np.flatnonzero(whole)
        self.windows += len(starts)
        time_windows = sliding_window_view(times, length)
        value_windows = sliding_window_view(values, length, axis=0).transpose(0, 2, 1)
        for at in range(0, len(starts), size):
            some = starts[at : at + size]
            rows = value_windows[some]
            yield KnownWindows(
                timestamps=time_windows[some],
                past=rows[:, : self.context_length],
                future=rows[:, self.context_length :],
            )

    def _whole(self, times: np.ndarray, values: np.ndarray) -> np.ndarray:
        """[windows] bool: no value missing, and one step between all rows."""
        length = self.context_length + self.horizon
        missing = np.concatenate(([0], np.cumsum(~np.isfinite(values).all(axis=1))))
        breaks = np.concatenate(([0], np.cumsum(self._breaks(times))))
        return (missing[length:] == missing[:-length]) & (breaks[length - 1 :] == breaks[: len(times) - length + 1])

    def _breaks(self, times: np.ndarray) -> np.ndarray:
        """[rows - 1] bool: rows are missing between this row and the next, or one is at no time of the step."""
        fits = self.step.fits(times)
        return (np.diff(self.step.positions(times)) != 1) | ~fits[1:] | ~fits[:-1]
