"""What a series loses when its 64-bit values become 32-bit floats, and the error if it loses too much.

A 32-bit float has 24 binary digits. Of 1e8 + 5 sin(t) it keeps multiples of 8, so the signal is gone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from data_pipeline.errors import DataError
from data_pipeline.series.rows import Rows

MOST_LOST = 1e-3
"""Of a column's standard deviation over the training rows, which is the unit that models see."""
FAR = 1e3
"""A value this many times further from 0 than the next one is called an outlier."""
BLOCK_ROWS = 8192


class Rounding:
    """Pass all rows to `add`, in order; then `check` them against the training rows' standard deviation."""

    def __init__(self, columns: Sequence[str]) -> None:
        self._columns = columns
        self._lost = np.zeros(len(columns))  # the largest |exact - rounded| of each column
        self._worst = np.zeros(len(columns), np.int64)  # the row that loses it
        self._same = np.zeros(len(columns), np.int64)  # how many rows from the start equal the first, before rounding
        self._first = np.full(len(columns), np.nan)
        self._rows = 0

    def add(self, exact: np.ndarray, rounded: np.ndarray) -> None:
        """Add rows [n, C]: float64 as read, and float32 as kept. NaN is a missing value, which loses nothing."""
        if not len(exact):
            return
        loss = np.abs(exact - rounded)
        most = loss.max(axis=0)
        if np.isnan(most).any():
            most = np.nan_to_num(loss, copy=False).max(axis=0)
        for column in np.flatnonzero(most > self._lost):
            self._worst[column] = self._rows + int(loss[:, column].argmax())
        np.maximum(self._lost, most, out=self._lost)
        self._note_constant(exact)
        self._rows += len(exact)

    def _note_constant(self, exact: np.ndarray) -> None:
        for column in np.flatnonzero(np.isnan(self._first)):
            there = ~np.isnan(exact[:, column])
            self._first[column] = exact[there.argmax(), column]
        still = np.flatnonzero(self._same == self._rows)
        if still.size:
            differs = (exact[:, still] != self._first[still]) & ~np.isnan(exact[:, still])
            self._same[still] += np.where(differs.any(axis=0), differs.argmax(axis=0), len(exact))

    def check(self, rows: Rows, label: str, std: np.ndarray, train_rows: int) -> None:
        """Raise DataError for a column that loses over MOST_LOST of `std` [C], the deviation of rows [0, train_rows).

        A column that is constant there is not scaled, so it may lose MOST_LOST. One that is constant to its end loses
        nothing that a model could see. The error names the row of `rows`, which are those that were added.
        """
        unit = np.where(self._same < train_rows, std, 1.0)
        unit[self._same == self._rows] = np.inf
        wrong = np.flatnonzero(self._lost > MOST_LOST * unit)
        if wrong.size:
            column, worst = int(wrong[0]), int(self._worst[wrong[0]])
            value = rows.values(worst, worst + 1)[0, column]
            row = rows.file_row(worst, column)
            remedy = (
                "an outlier? correct it, or empty the cell and set data.missing=interpolate"
                if _is_far(rows, column, worst)
                else "subtract a constant from the column, or give its differences"
            )
            raise DataError(
                f"{label}: column {self._columns[column]!r} loses up to {self._lost[column]:.2g} as 32-bit floats, "
                f"most in data row {row + 1} ({value:.7g}): at most {MOST_LOST:g} of its deviation over the training "
                f"rows ({std[column]:.2g}) may be lost; {remedy}"
            )


def _is_far(rows: Rows, column: int, worst: int) -> bool:
    """Whether the value in row `worst` is far from all others of its column."""
    largest = 0.0
    for start in range(0, rows.count, BLOCK_ROWS):
        sizes = np.abs(rows.values(start, min(start + BLOCK_ROWS, rows.count))[:, column])
        if start <= worst < start + len(sizes):
            size, sizes[worst - start] = float(sizes[worst - start]), 0
        largest = max(largest, float(np.nan_to_num(sizes).max()))
    return size > FAR * largest
