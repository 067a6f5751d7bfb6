"""Rows in the order of time, each time once: a row written twice is dropped, and what else is out of order is a fault.

Shapes: n rows, C columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from data_pipeline.faults import Faults
from data_pipeline.series.steps import time_text
from data_pipeline.source.rows import Chunk

ONE_ROW_PER_TIME = "keep one row per time, and write times in UTC if clocks were changed"


class RowOrder:
    """Pass all chunks of one series to `distinct`, in order; then read `note`."""

    def __init__(self, columns: Sequence[str], faults: Faults) -> None:
        self._columns, self._faults = columns, faults
        self._row = 0  # the data row of the last one that was seen
        self._last: Chunk | None = None  # one row
        self._first_us: int | None = None
        self.dropped = 0
        """Rows left out."""
        self._first_dropped = 0

    def distinct(self, chunk: Chunk) -> Chunk:
        """`chunk` without the rows that repeat the row before them. Different rows of one time, and times that go
        backwards, become faults."""
        if not len(chunk.timestamps):
            return chunk
        if chunk.begins_file:
            self._row, self._last, self._first_us = 0, None, None
        times = chunk.timestamps
        if self._last is not None:
            times = np.concatenate((self._last.timestamps, times))
        if self._first_us is None:
            self._first_us = int(times[0])
        rows = np.arange(self._row + 1, self._row + 1 + len(chunk.timestamps)) if chunk.rows is None else chunk.rows
        rows = rows if self._last is None else np.concatenate(([self._row], rows))
        steps = np.diff(times)
        known = len(times) - len(chunk.timestamps)  # 1 if the row before is at the front
        kept = np.ones(len(chunk.timestamps), bool)
        wrong = np.flatnonzero(steps <= 0)
        if len(wrong):
            exact = chunk.exact if self._last is None else np.concatenate((self._last.exact, chunk.exact))
            twice = wrong[steps[wrong] == 0]
            same = _equal(exact[twice], exact[twice + 1])
            self._drop(twice[same], kept, known, rows)
            self._different(twice[~same], times, exact, rows)
            self._backwards(wrong[steps[wrong] < 0], times, rows)
        self._row = int(rows[-1])
        self._last = _rows(chunk, np.array([-1]))
        return chunk if kept.all() else _rows(replace(chunk, rows=rows[known:]), kept)

    @property
    def note(self) -> str | None:
        """What was left out; None if nothing was."""
        if not self.dropped:
            return None
        rows = "1 row equal to the row before it" if self.dropped == 1 else (
            f"{self.dropped:,} rows equal to the row before them"
        )  # fmt: skip
        return f"{rows} in time and values left out (first: data row {self._first_dropped})"

    def _drop(self, twice: np.ndarray, kept: np.ndarray, known: int, rows: np.ndarray) -> None:
        if not len(twice):
            return
        kept[twice + 1 - known] = False
        if not self.dropped:
            self._first_dropped = int(rows[twice[0] + 1])
        self.dropped += len(twice)

    def _different(self, twice: np.ndarray, times: np.ndarray, exact: np.ndarray, rows: np.ndarray) -> None:
        if not len(twice):
            return
        at = int(twice[0])
        column = int(np.argmax(~_same_cells(exact[at], exact[at + 1])))
        self._faults.add(
            "two rows of one time",
            f"the time {time_text(times[at])} is in the row before too, with other values "
            f"({self._columns[column]!r} is {exact[at, column]:.17g}, then {exact[at + 1, column]:.17g})",
            f"{ONE_ROW_PER_TIME}, or name the column that tells series apart: data.id_column",
            row=int(rows[at + 1]),
            count=len(twice),
        )

    def _backwards(self, places: np.ndarray, times: np.ndarray, rows: np.ndarray) -> None:
        if not len(places):
            return
        at = int(places[0])
        anew = " (the first time again: several series below each other?)" if times[at + 1] == self._first_us else ""
        self._faults.add(
            "time goes backwards",
            f"time goes backwards from {time_text(times[at])} to {time_text(times[at + 1])}{anew}",
            "sort the rows by time, or name the column that tells series apart: data.id_column",
            row=int(rows[at + 1]),
            count=len(places),
        )


def _same_cells(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.asarray((one == other) | (np.isnan(one) & np.isnan(other)))


def _equal(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Whether rows [n, C] are equal in all columns."""
    return np.asarray(_same_cells(one, other).all(axis=1))


def _rows(chunk: Chunk, rows: np.ndarray) -> Chunk:
    return replace(
        chunk,
        timestamps=chunk.timestamps[rows],
        values=chunk.values[rows],
        exact=chunk.exact[rows],
        ids=None if chunk.ids is None else chunk.ids[rows],
        rows=None if chunk.rows is None else chunk.rows[rows],
    )
