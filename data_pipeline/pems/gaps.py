"""Interpolates short gaps in rows that stream by, and counts what stays empty.

Shapes: n rows, K stations.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

NEVER = np.iinfo(np.int32).max
PIECE_ROWS = 512


@dataclass(frozen=True, kw_only=True)
class LongestGap:
    """The longest run of empty cells of one station that stays empty."""

    station: int
    """Its column."""
    first_row: int
    rows: int


class GapFiller:
    """Fills each run of at most `max_gap` empty cells between two values of a station on the line between them.

    A longer run stays empty, and so does a run at the start or the end. Pass all rows to `add`, then call `rest`.
    Memory depends on `max_gap` and the number of stations.
    """

    def __init__(self, max_gap: int, stations: int) -> None:
        self._max_gap = max_gap
        self._tail = np.empty((0, stations), np.float32)
        self._tail_done = 0  # rows of the tail that were given out
        self._row = 0  # given out so far
        self._last_value = np.full(stations, -1)  # row of each station's last value
        self._longest = np.zeros(stations, np.int64)
        self._longest_end = np.zeros(stations, np.int64)
        self.filled_cells = 0
        self.empty_by_station = np.zeros(stations, np.int64)
        self.long_gaps = 0
        """Runs of empty cells that stay empty."""

    def add(self, values: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Rows that are decided, as (values [n, K] float32, filled [n, K] bool); `values` [n, K] has NaN for empty."""
        for start in range(0, len(values), PIECE_ROWS):
            yield from self._given_out(values[start : start + PIECE_ROWS], last=False)

    def rest(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The remaining rows, like `add`."""
        yield from self._given_out(self._tail[:0], last=True)

    @property
    def empty_cells(self) -> int:
        """Cells that stay empty."""
        return int(self.empty_by_station.sum())

    def longest(self) -> LongestGap | None:
        """The longest run that stays empty, of the first station that has it; None if no cell is empty."""
        if not self._longest.any():
            return None
        station = int(np.argmax(self._longest))
        rows = int(self._longest[station])
        return LongestGap(station=station, first_row=int(self._longest_end[station]) - rows + 1, rows=rows)

    def _given_out(self, values: np.ndarray, *, last: bool) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        rows = np.concatenate((self._tail, values))
        start, stop = self._tail_done, len(rows) if last else max(self._tail_done, len(rows) - self._max_gap)
        keep = max(0, stop - self._max_gap)
        self._tail, self._tail_done = rows[keep:].copy(), stop - keep
        filled = np.zeros(rows.shape, bool)
        if self._max_gap and np.isnan(rows).any():
            self._fill(rows, filled)
        if stop > start:
            self._count(rows[start:stop], filled[start:stop])
            yield rows[start:stop], filled[start:stop]

    def _fill(self, rows: np.ndarray, filled: np.ndarray) -> None:
        there = ~np.isnan(rows)
        at = np.arange(len(rows), dtype=np.int32)[:, None]
        before = np.maximum.accumulate(np.where(there, at, -1), axis=0)
        after = np.minimum.accumulate(np.where(there, at, NEVER)[::-1], axis=0)[::-1]
        filled[:] = ~there & (before >= 0) & (after < NEVER) & (after - before - 1 <= self._max_gap)
        row, station = np.nonzero(filled)
        low, high = before[row, station], after[row, station]
        share = (row - low) / (high - low)
        rows[row, station] = rows[low, station] * (1 - share) + rows[high, station] * share

    def _count(self, values: np.ndarray, filled: np.ndarray) -> None:
        self.filled_cells += int(np.count_nonzero(filled))
        empty = np.isnan(values)
        at = np.arange(self._row, self._row + len(values))[:, None]
        if empty.any():
            self.empty_by_station += np.count_nonzero(empty, axis=0)
            last_value = np.maximum(np.maximum.accumulate(np.where(empty, -1, at), axis=0), self._last_value)
            run = at - last_value  # empty cells of the run so far
            self.long_gaps += int(np.count_nonzero(empty & (run == 1)))
            end = np.argmax(run, axis=0)
            length = run[end, np.arange(run.shape[1])]
            longer = length > self._longest
            self._longest[longer] = length[longer]
            self._longest_end[longer] = self._row + end[longer]
        values_row = np.where(empty, -1, at).max(axis=0)
        self._last_value = np.maximum(self._last_value, values_row)
        self._row += len(values)
