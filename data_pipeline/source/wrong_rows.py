"""Rows that have another number of fields than the header: skipped while reading, and told at the end."""

from __future__ import annotations

from bisect import bisect_right
from typing import Any

from data_pipeline.faults import Faults
from data_pipeline.source.empty_rows import EmptyRows


class WrongRows:
    """Arrow's handler of invalid rows for one pass over a file."""

    def __init__(self, separator: str, skip_lines: int) -> None:
        self._filler = f'{separator} \t"'
        self._skip_lines = skip_lines
        self._skipped: list[int] = []
        self._blank = 0
        self._first: tuple[int, int] | None = None

    def add(self, invalid: Any) -> str:
        """Skip an invalid row, a pyarrow.csv.InvalidRow."""
        row = invalid.number - self._skip_lines
        self._skipped.append(row)
        if not invalid.text.strip(self._filler):
            self._blank += 1
        elif self._first is None:
            self._first = (row, invalid.actual_columns)
        return "skip"

    def row(self, read: int) -> int:
        """The number of the data row in the file, from 1, of a row that `read` rows were read before."""
        row = read + 1
        while (more := bisect_right(self._skipped, row)) + read + 1 != row:
            row = more + read + 1
        return row

    def tell(self, faults: Faults, empty: EmptyRows, width: int) -> None:
        """Add what was skipped to the faults of the file, and rows of separators only to its empty rows."""
        empty.blank += self._blank
        if self._first is not None:
            row, fields = self._first
            faults.add(
                "fields", f"there {'is 1 field' if fields == 1 else f'are {fields} fields'}, the header has {width}",
                "give every row the same number of fields", row=row, count=len(self._skipped) - self._blank,
            )  # fmt: skip
