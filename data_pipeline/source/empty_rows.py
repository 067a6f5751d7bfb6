"""Rows with neither a time nor a value: those at the end are left out, others are faults.

Shapes: n rows, C columns.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from data_pipeline.faults import Faults
from data_pipeline.source.time_column import Rows


class EmptyRows:
    """Waits for what follows empty rows."""

    def __init__(self, faults: Faults, column: str | None) -> None:
        self._faults, self._column = faults, column
        self._first, self._count = 0, 0
        self.blank = 0
        """Rows of nothing but separators, in another number than the header has."""

    def add(self, no_time: np.ndarray, exact: np.ndarray, row: Rows) -> None:
        """Add rows whose time is empty [n] bool, and their values [n, C]."""
        if not len(no_time):
            return
        if not no_time.any():
            self._fault(self._first, self._count)
            return
        empty = no_time & np.isnan(exact).all(axis=1)
        last = int(np.flatnonzero(~empty)[-1]) if not empty.all() else -1
        if last >= 0:
            self._fault(self._first, self._count)
            wrong = np.flatnonzero(no_time[: last + 1])
            if wrong.size:
                self._fault(row(int(wrong[0])), wrong.size)
        rest = len(empty) - 1 - last
        if rest and not self._count:
            self._first = row(last + 1)
        self._count += rest

    def _fault(self, first: int, count: int) -> None:
        if count:
            self._faults.add("no time", "there is no time", "give each row its time", column=self._column, row=first,
                             count=count)  # fmt: skip
            self._count = 0

    def notes(self) -> Iterator[str]:
        """What was left out, after the last row."""
        if total := self._count + self.blank:
            yield f"{total} empty row{'s' if total > 1 else ''} left out"
