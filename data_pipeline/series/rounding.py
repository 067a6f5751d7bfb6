"""What a series loses when its 64-bit values become 32-bit floats, and the error if it loses too much.

A 32-bit float has 24 binary digits. Of 1e8 + 5 sin(t) it keeps multiples of 8, so the signal is gone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from data_pipeline.errors import DataError

MOST_LOST = 1e-3
"""Of a column's standard deviation over the training rows, which is the unit that models see."""


class Rounding:
    """Pass all chunks to `add`, in order; then `check` them against the training rows' standard deviation."""

    def __init__(self, columns: Sequence[str]) -> None:
        self._columns = columns
        self._lost = np.zeros(len(columns))  # the largest |exact - rounded| of each column
        self._same = np.zeros(len(columns), np.int64)  # how many rows from the start equal the first, before rounding
        self._first: np.ndarray | None = None
        self._rows = 0

    def add(self, exact: np.ndarray, rounded: np.ndarray) -> None:
        """Add rows [n, C]: float64 as read, and float32 as kept."""
        if not len(exact):
            return
        if self._first is None:
            self._first = exact[0].copy()
        np.maximum(self._lost, np.abs(exact - rounded).max(axis=0), out=self._lost)
        still = np.flatnonzero(self._same == self._rows)
        if still.size:
            differs = exact[:, still] != self._first[still]
            self._same[still] += np.where(differs.any(axis=0), differs.argmax(axis=0), len(exact))
        self._rows += len(exact)

    def check(self, label: str, std: np.ndarray, train_rows: int) -> None:
        """Raise DataError for a column that loses over MOST_LOST of `std` [C], the deviation of rows [0, train_rows).

        A column that is constant there is not scaled, so it may lose MOST_LOST. One that is constant to its end loses
        nothing that a model could see.
        """
        unit = np.where(self._same < train_rows, std, 1.0)
        unit[self._same == self._rows] = np.inf
        wrong = np.flatnonzero(self._lost > MOST_LOST * unit)
        if wrong.size:
            column = wrong[0]
            raise DataError(
                f"{label}: column {self._columns[column]!r} loses up to {self._lost[column]:.2g} as 32-bit floats, "
                f"whose deviation over the training rows is {std[column]:.2g}: at most {MOST_LOST:g} of that may be "
                "lost; subtract a constant from the column, or give its differences"
            )
