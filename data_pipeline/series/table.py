"""The first stage of a conversion: a source is read, and its series lie on disk.

Shapes: n rows, C columns.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from data_pipeline.faults import Faults
from data_pipeline.options import DataOptions
from data_pipeline.series.arrow_file import Scratch
from data_pipeline.series.order import RowOrder
from data_pipeline.series.rounding import Rounding
from data_pipeline.series.rows import DataRows, Rows, ScratchRows
from data_pipeline.series.timeaxis import TimeAxis
from data_pipeline.source.rows import Chunk, RowSource

NO_VALUE = "set data.missing=interpolate, ffill or drop, or fill the cell"


@dataclass(kw_only=True)
class Part:
    """One series of a file, as read."""

    id: str | None
    rows: Rows
    rounding: Rounding


@dataclass(kw_only=True)
class Table:
    """All series of a file, as read."""

    parts: list[Part]
    axis: TimeAxis
    """Of the only series, or of the longest one."""
    missing_cells: int
    notes: list[str] = field(default_factory=list)
    borders: list[tuple[int, int]] = field(default_factory=list)
    """First row and first time of each file after the first, if the source has several."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Of every series."""
        return self.parts[0].rows.columns


class MissingCells:
    """Counts the cells without a value, and reports them as faults if they are refused."""

    def __init__(self, faults: Faults, columns: tuple[str, ...], *, refused: bool) -> None:
        self._faults, self._columns, self._refused = faults, columns, refused
        self.cells = 0
        self._seen = 0  # the last data row

    def add(self, chunk: Chunk) -> np.ndarray:
        """Add the rows of a chunk. Returns their places [n] in the file, from 1."""
        before = 0 if chunk.begins_file else self._seen
        rows = before + 1 + np.arange(len(chunk.values)) if chunk.rows is None else chunk.rows
        self._seen = int(rows[-1]) if len(rows) else before
        missing = np.isnan(chunk.values)
        if missing.any():
            counts = missing.sum(axis=0)
            self.cells += int(counts.sum())
            for column in np.flatnonzero(counts) if self._refused else ():
                row = int(rows[missing[:, column].argmax()])
                name, count = self._columns[column], int(counts[column])
                self._faults.add("no value", "no value", NO_VALUE, column=name, row=row, count=count)
        return rows


def read_wide(
    chunks: Iterable[Chunk],
    source: RowSource,
    label: str,
    folder: Path,
    opened: ExitStack,
    options: DataOptions,
    *,
    keep_repeats: bool = False,
) -> Table:
    """Read one series into `folder`, a chunk at a time. `opened` closes its files.

    A row equal to the one before it is left out, unless `keep_repeats` or the step is `row`.
    Cells without a value are faults of the source unless `options` say what becomes of them. Raises DataError for all
    faults, and for a wrong time axis.
    """
    scratch = Scratch(folder / "read", len(source.columns))
    opened.callback(scratch.close)
    rule = options.step
    axis = TimeAxis(label, rule=rule)
    rounding, order = Rounding(source.columns), RowOrder(source.columns, source.faults)
    missing = MissingCells(source.faults, source.columns, refused=options.missing == "refuse")
    borders: list[tuple[int, int]] = []
    places = DataRows()
    for read in chunks:
        read_rows = missing.add(read)
        chunk = read if rule == "row" or keep_repeats else order.distinct(read)
        places.add(read_rows if chunk is read or chunk.rows is None else chunk.rows)
        if chunk.begins_file and scratch.rows:
            borders.append((scratch.rows, int(chunk.timestamps[0])))
        axis.add(chunk.timestamps, begins_part=chunk.begins_file)
        scratch.append(chunk.timestamps, chunk.values)
        rounding.add(chunk.exact, chunk.values)
    source.faults.raise_if_any()
    axis.zone, axis.offsets = source.zone, source.offsets  # known of the last chunk
    part = Part(id=None, rows=ScratchRows(scratch, source.columns, places), rounding=rounding)
    notes = [order.note] if order.note else []
    return Table(parts=[part], axis=axis, missing_cells=missing.cells, notes=notes, borders=borders)
