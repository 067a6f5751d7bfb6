"""The rows of one series on disk, in order of time: what the later stages of a conversion read.

Shapes: n rows, C columns.
"""

from __future__ import annotations

import tempfile
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data_pipeline.series.arrow_file import COPY_BYTES, Scratch
from data_pipeline.series.steps import Step

ROWS_IN_MEMORY = 1 << 20


class Rows(ABC):
    """The rows of one series, in order of time. Blocks of them are read from the disk."""

    count: int
    columns: tuple[str, ...]

    @abstractmethod
    def timestamps(self, start: int, stop: int) -> np.ndarray:
        """Of rows [start, stop): [n] int64."""

    @abstractmethod
    def values(self, start: int, stop: int) -> np.ndarray:
        """Of rows [start, stop): [n, C] float32, NaN where the source has no value."""

    def file_row(self, row: int, column: int) -> int:
        """The place in the file, from 0, of the row that the cell was read from."""
        return row

    def spans(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, int]]:
        """Rows [start, stop) in blocks of bounded memory: first row and last row + 1 of each."""
        stop = self.count if stop is None else stop
        block = max(1, COPY_BYTES // (4 * len(self.columns)))
        for row in range(start, stop, block):
            yield row, min(row + block, stop)


class DataRows:
    """The places of kept rows in the file, where some were left out. Only changes are kept."""

    def __init__(self) -> None:
        self._starts: list[int] = []  # rows, from 0, at which the distance to the place in the file changes
        self._distances: list[int] = []
        self._count = 0

    def add(self, data_rows: np.ndarray) -> None:
        """Add the places [n] of the next rows, from 1."""
        distances = data_rows - 1 - np.arange(self._count, self._count + len(data_rows))
        changes = np.flatnonzero(np.diff(distances, prepend=self._distances[-1] if self._distances else 0))
        self._starts += (self._count + changes).tolist()
        self._distances += distances[changes].tolist()
        self._count += len(data_rows)

    def place(self, row: int) -> int:
        """The place in the file, from 0, of a row."""
        at = bisect_right(self._starts, row)
        return row + (self._distances[at - 1] if at else 0)


class ScratchRows(Rows):
    """All rows of a scratch, as they were read."""

    def __init__(self, scratch: Scratch, columns: tuple[str, ...], data_rows: DataRows | None = None) -> None:
        self.scratch, self.count, self.columns = scratch, scratch.rows, columns
        self._data_rows = data_rows

    def file_row(self, row: int, column: int) -> int:
        return row if self._data_rows is None else self._data_rows.place(row)

    def timestamps(self, start: int, stop: int) -> np.ndarray:
        return self.scratch.array("timestamp", start, stop)

    def values(self, start: int, stop: int) -> np.ndarray:
        return self.scratch.array("values", start, stop)


class CompleteRows(Rows):
    """The rows of a series and those that its time axis lacks, which have no value in any column."""

    def __init__(self, rows: Rows, step: Step, folder: Path) -> None:
        """Places of many rows are kept in a file in `folder`. Raises OSError."""
        self.given, self.columns = rows, rows.columns
        self._step, self._first_us = step, int(rows.timestamps(0, 1)[0])
        self._places = np.empty(rows.count if rows.count <= ROWS_IN_MEMORY else 0, np.int64)
        if rows.count > ROWS_IN_MEMORY:
            with tempfile.TemporaryFile(dir=folder) as file:
                self._places = np.memmap(file, np.int64, "w+", shape=(rows.count,))
        place, last_us = 0, self._first_us
        for start, stop in rows.spans():
            times = rows.timestamps(start, stop)
            moves = step.positions(np.concatenate(([last_us], times))) if start else step.positions(times)
            self._places[start:stop] = place + (moves[1:] if start else moves)
            place, last_us = int(self._places[stop - 1]), int(times[-1])
        self.count = place + 1

    def given_before(self, row: int) -> int:
        """How many rows before `row` the source has."""
        return int(np.searchsorted(self._places, row))

    def timestamps(self, start: int, stop: int) -> np.ndarray:
        times = self._step.at(self._first_us, np.arange(start, stop))
        first, last = self.given_before(start), self.given_before(stop)
        times[self._places[first:last] - start] = self.given.timestamps(first, last)
        return times

    def values(self, start: int, stop: int) -> np.ndarray:
        values = np.full((stop - start, len(self.columns)), np.nan, np.float32)
        first, last = self.given_before(start), self.given_before(stop)
        values[self._places[first:last] - start] = self.given.values(first, last)
        return values
