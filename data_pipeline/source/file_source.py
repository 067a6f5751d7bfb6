"""A file as a source of rows: what the readers of all formats share.

Numbers are read as 64-bit floats and kept as 32-bit floats; data_pipeline/series/rounding.py refuses columns that lose
too much. Each error is one line.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from data_pipeline.errors import DataError, nearest
from data_pipeline.faults import Faults
from data_pipeline.options import DataOptions
from data_pipeline.source.content import READ_ERRORS, unreadable
from data_pipeline.source.header import refuse_row_index, timestamp_index
from data_pipeline.source.rows import Chunk
from data_pipeline.source.timestamps import to_microseconds

BLOCK_BYTES = 4 << 20
"""About this much of a file is in memory at a time."""


class FileSource(ABC):
    """The rows of a file, a `RowSource`. Raises DataError for a wrong header.

    With `only`, it reads these columns in this order, and missing values as NaN.
    """

    def __init__(self, path: Path, options: DataOptions, only: Sequence[str] | None = None) -> None:
        self.path, self.options = path, options
        self.faults: Faults = Faults(str(path))
        self.notes: list[str] = []
        self._keeps_missing = only is not None
        try:
            self.names, first = self._read_head()
        except READ_ERRORS as error:
            raise unreadable(path, error) from error
        index = timestamp_index(path, self.names, first, options.timestamp_column)
        self.timestamp_column = self.names[index]
        self.zoned = self._is_zoned(index, first)
        self.columns = self._chosen(only)

    @abstractmethod
    def chunks(self) -> Iterator[Chunk]:
        """Every row, in order. Raises DataError for the first wrong row."""

    @abstractmethod
    def sha256(self) -> str:
        """The sha256 of the content. Read `chunks` to its end first."""

    @abstractmethod
    def _read_head(self) -> tuple[list[str], Sequence[str | None] | None]:
        """The names of all columns, and the values of the first row as text (None: there is no row)."""

    @abstractmethod
    def _is_zoned(self, index: int, first: Sequence[str | None] | None) -> bool:
        """Whether the times in column `index` name a zone."""

    def _chosen(self, only: Sequence[str] | None) -> tuple[str, ...]:
        if only is None:
            columns = tuple(name for name in self.names if name != self.timestamp_column)
            refuse_row_index(self.path, columns)
            return columns
        if missing := [name for name in only if name not in self.names or name == self.timestamp_column]:
            raise DataError(
                f"{self.path}: no column {', '.join(map(repr, missing[:8]))}: there are {', '.join(self.names[:12])}"
                f"{nearest(missing[0], self.names)}"
            )
        return tuple(only)

    def _chunk(self, batch: pa.RecordBatch, rows: int) -> Chunk:
        """The chunk of a batch that follows `rows` rows. Raises DataError for a wrong time or value."""
        timestamps = to_microseconds(
            batch.column(self.timestamp_column),
            zoned=self.zoned,
            source=str(self.path),
            column_name=self.timestamp_column,
            first_row=rows + 1,
        )
        numbers = [batch.column(name).cast(pa.float64(), safe=False) for name in self.columns]
        table = pa.record_batch(numbers, names=[str(index) for index in range(len(numbers))])
        exact = table.to_tensor(null_to_nan=True, row_major=True).to_numpy()
        with np.errstate(over="ignore"):
            values = exact.astype(np.float32)
        if not self._keeps_missing:
            self._check_finite(values, rows)
        return Chunk(timestamps=timestamps, values=values, exact=exact)

    def _check_finite(self, values: np.ndarray, rows: int) -> None:
        finite = ~np.isinf(values)
        if not finite.all():
            row, index = np.argwhere(~finite)[0]
            raise DataError(
                f"{self.path}: the value in column {self.columns[index]!r} at data row {rows + row + 1} is not a "
                "finite 32-bit float: empty the cell and set data.missing, or rescale values above 3.4e38"
            )
