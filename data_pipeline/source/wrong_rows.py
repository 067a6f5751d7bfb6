"""Rows that have another number of fields than the header: skipped while reading, and told at the end."""

from __future__ import annotations

from bisect import bisect_right
from typing import Any

from data_pipeline.faults import Faults
from data_pipeline.source.empty_rows import EmptyRows


class BlockRows:
    """Arrow's handler of the invalid rows of one block."""

    def __init__(self, filler: str) -> None:
        self._filler = filler
        self.found: list[tuple[int, int | None]] = []
        """The number of each row in the block, from 1, and its fields; None: it has nothing but separators."""

    def add(self, invalid: Any) -> str:
        """Skip an invalid row, a pyarrow.csv.InvalidRow."""
        empty = not invalid.text.strip(self._filler)
        self.found.append((invalid.number, None if empty else invalid.actual_columns))
        return "skip"


class WrongRows:
    """The invalid rows of one pass over a file. Call `end_block` after each block."""

    def __init__(self, separator: str) -> None:
        self._filler = f'{separator} \t"'
        self._rows = 0
        self._skipped: list[int] = []
        self._blank = 0
        self._first: tuple[int, int] | None = None

    def of_block(self) -> BlockRows:
        """The handler for a block. It is dropped if the block is read again."""
        return BlockRows(self._filler)

    def end_block(self, block: BlockRows, rows: int) -> None:
        """Add what was found in a block, of which `rows` rows were read."""
        for number, fields in block.found:
            row = self._rows + number
            self._skipped.append(row)
            if fields is None:
                self._blank += 1
            elif self._first is None:
                self._first = (row, fields)
        self._rows += rows + len(block.found)

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
