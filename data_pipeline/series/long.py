"""Reads a long format: a row of the file is of one series at one time. Rows may lie in any order.

Only ids and times are sorted in memory. Values lie on disk in the order of the file, and are read from there in order
of id and time. Series with the same times are put side by side: each becomes columns. Others stay one after another.

Shapes: n rows, C columns of the file, S series.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from data_pipeline.errors import DataError
from data_pipeline.faults import Faults
from data_pipeline.options import DataOptions
from data_pipeline.series.fill import FILLING
from data_pipeline.series.order import ONE_ROW_PER_TIME
from data_pipeline.series.rounding import Rounding
from data_pipeline.series.rows import Rows
from data_pipeline.series.steps import time_text
from data_pipeline.series.table import MissingCells, Part, Table
from data_pipeline.series.timeaxis import TimeAxis
from data_pipeline.source.rows import Chunk, RowSource


@dataclass(kw_only=True)
class _Raw:
    """The file's rows in its order: values on disk, the rest in memory."""

    values: np.ndarray
    """[n, C] float64, mapped."""
    timestamps: np.ndarray
    """[n] int64."""
    codes: np.ndarray
    """[n] int32, the place of the row's series in `ids`."""
    ids: list[str]
    """In the order in which a person counts: 2 before 10."""
    data_rows: np.ndarray
    """[n] int64, their places in the file, from 1."""


class ExactRows(Rows):
    """Rows that also have their values as read."""

    def exact(self, start: int, stop: int) -> np.ndarray:
        """Of rows [start, stop): [n, C] float64, NaN where the source has no value."""
        raise NotImplementedError

    def values(self, start: int, stop: int) -> np.ndarray:
        with np.errstate(over="ignore"):
            return self.exact(start, stop).astype(np.float32)


class SeriesRows(ExactRows):
    """The rows of one series of a long format."""

    def __init__(self, raw: _Raw, file_rows: np.ndarray, columns: tuple[str, ...]) -> None:
        self._raw, self._file_rows, self.columns, self.count = raw, file_rows, columns, len(file_rows)

    def timestamps(self, start: int, stop: int) -> np.ndarray:
        return np.asarray(self._raw.timestamps[self._file_rows[start:stop]])

    def exact(self, start: int, stop: int) -> np.ndarray:
        return np.asarray(self._raw.values[self._file_rows[start:stop]])

    def file_row(self, row: int, column: int) -> int:
        return int(self._raw.data_rows[self._file_rows[row]]) - 1


class SideBySide(ExactRows):
    """All series of a long format as columns, at every time that one of them has."""

    def __init__(self, raw: _Raw, every: list[np.ndarray], columns: tuple[str, ...]) -> None:
        """`every` holds the file rows of each series, in order of time."""
        self._raw = raw
        self._times = np.unique(np.concatenate([raw.timestamps[rows] for rows in every]))
        self._file_rows = np.full((len(every), len(self._times)), -1)
        for series, rows in enumerate(every):
            self._file_rows[series, np.searchsorted(self._times, raw.timestamps[rows])] = rows
        self.holes = int((self._file_rows < 0).sum()) * len(columns)
        """Cells at times that their series lacks."""
        names = [raw.ids[raw.codes[rows[0]]] for rows in every]
        self.columns = tuple(column_name(name, column, columns) for name in names for column in columns)
        self.count = len(self._times)

    def timestamps(self, start: int, stop: int) -> np.ndarray:
        return self._times[start:stop]

    def exact(self, start: int, stop: int) -> np.ndarray:
        rows = self._file_rows[:, start:stop].T
        values = self._raw.values[np.maximum(rows, 0)]
        values[rows < 0] = np.nan
        return np.asarray(values.reshape(stop - start, -1))

    def file_row(self, row: int, column: int) -> int:
        return int(self._raw.data_rows[self._file_rows[column // self._raw.values.shape[1], row]]) - 1


def column_name(series: str, column: str, columns: tuple[str, ...]) -> str:
    """What a column of a series is called beside those of other series."""
    return series if len(columns) == 1 else f"{series}.{column}"


def read_long(
    chunks: Iterable[Chunk], source: RowSource, label: str, folder: Path, opened: ExitStack, options: DataOptions
) -> Table:
    """Read all series of a long format into `folder`. `opened` closes its files.

    Cells without a value are faults of the source unless `options` say what becomes of them, and so are rows of one
    series and time that differ. Raises DataError for all faults, and for a wrong time axis.
    """
    file = opened.enter_context(tempfile.TemporaryFile(dir=folder))  # noqa: SIM115
    missing = MissingCells(source.faults, source.columns, refused=options.missing == "refuse")
    raw = _read(chunks, source, file, missing)
    every, note = _sorted(raw, source, distinct=options.step != "row")
    source.faults.raise_if_any()
    longest = max(every, key=len)
    axis = TimeAxis(label, rule=options.step, zone=source.zone, offsets=source.offsets)
    axis.add(raw.timestamps[longest])
    if len(every) == 1 or _have_the_same_times(raw, every, axis, options):
        side_by_side = SideBySide(raw, every, source.columns)
        missing.cells += side_by_side.holes
        rows: list[ExactRows] = [side_by_side]
        names: list[str | None] = [None]
        axis = TimeAxis(label, rule=options.step, zone=source.zone, offsets=source.offsets)
        axis.add(rows[0].timestamps(0, rows[0].count))
        form = f"{len(every)} series with the same times, side by side as columns"
    else:
        rows = [SeriesRows(raw, series, source.columns) for series in every]
        names = [raw.ids[raw.codes[series[0]]] for series in every]
        lengths = sorted(len(series) for series in every)
        form = f"{len(every)} series of {lengths[0]:,} to {lengths[-1]:,} rows, each scaled on its own training rows"
    parts = [Part(id=name, rows=of, rounding=_rounding(of)) for name, of in zip(names, rows, strict=True)]
    notes = [f"long format: {form}", *([note] if note else [])]
    return Table(parts=parts, axis=axis, missing_cells=missing.cells, notes=notes)


def _read(chunks: Iterable[Chunk], source: RowSource, file: IO[bytes], missing: MissingCells) -> _Raw:
    import pandas as pd

    codes, times, data_rows, known, seen = [], [], [], dict[str, int](), 0
    for chunk in chunks:
        assert chunk.ids is not None
        missing.add(chunk)
        file.write(np.ascontiguousarray(chunk.exact, np.float64).data)
        times.append(chunk.timestamps)
        data_rows.append(seen + 1 + np.arange(len(chunk.values)) if chunk.rows is None else chunk.rows)
        seen = int(data_rows[-1][-1]) if len(data_rows[-1]) else seen
        places, names = pd.factorize(chunk.ids)
        codes.append(np.array([known.setdefault(str(name), len(known)) for name in names], np.int32)[places])
    if not seen:
        source.faults.raise_if_any()
        raise DataError(f"{source.faults.source}: a header and no data rows: give the complete file")
    file.flush()
    timestamps = np.concatenate(times)
    ids = sorted(known, key=_counting)
    rank = np.empty(len(ids), np.int32)
    rank[[known[name] for name in ids]] = np.arange(len(ids))
    values = np.memmap(file, np.float64, "r", shape=(len(timestamps), len(source.columns)))
    return _Raw(
        values=values,
        timestamps=timestamps,
        codes=rank[np.concatenate(codes)],
        ids=ids,
        data_rows=np.concatenate(data_rows),
    )


def _counting(name: str) -> tuple[int, int, str]:
    """Sorts whole numbers by their value, before other names."""
    return (0, int(name), name) if name.isdecimal() else (1, 0, name)


def _sorted(raw: _Raw, source: RowSource, *, distinct: bool) -> tuple[list[np.ndarray], str | None]:
    """The file rows of each series in order of time, and a note of rows that were left out.

    With `distinct`, a row equal to another of its series and time is left out, and a different one is a fault.
    """
    order = np.lexsort((raw.timestamps, raw.codes))
    codes, times = raw.codes[order], raw.timestamps[order]
    note = None
    again = np.flatnonzero((np.diff(codes) == 0) & (np.diff(times) == 0)) + 1 if distinct else np.zeros(0, np.int64)
    if again.size:
        one, other = raw.values[order[again - 1]], raw.values[order[again]]
        same = ((one == other) | (np.isnan(one) & np.isnan(other))).all(axis=1)
        _different(raw, source.faults, source.columns, order, again[~same])
        note = f"{int(same.sum()):,} rows equal to another of their series and time left out"
        order = np.delete(order, again[same])
        codes = raw.codes[order]
    return np.split(order, np.flatnonzero(np.diff(codes)) + 1), note


def _different(raw: _Raw, faults: Faults, columns: tuple[str, ...], order: np.ndarray, again: np.ndarray) -> None:
    if not again.size:
        return
    first = again[np.argmin(order[again])]
    before, row = int(order[first - 1]), int(order[first])
    values, others = raw.values[before], raw.values[row]
    column = int(np.argmax(values != others))
    faults.add(
        "two rows of one time",
        f"the time {time_text(raw.timestamps[row])} of series {raw.ids[raw.codes[row]]!r} is in data row "
        f"{raw.data_rows[before]} too, with another value ({columns[column]!r} is {values[column]:.17g}, then "
        f"{others[column]:.17g})",
        ONE_ROW_PER_TIME,
        row=int(raw.data_rows[row]),
        count=len(again),
    )


def _have_the_same_times(raw: _Raw, every: list[np.ndarray], axis: TimeAxis, options: DataOptions) -> bool:
    """Whether series can stand side by side: their times are equal, or will be once missing rows are filled."""
    if options.step == "row":
        return len({len(rows) for rows in every}) == 1 and all(
            np.array_equal(raw.timestamps[rows], raw.timestamps[every[0]]) for rows in every
        )
    if options.missing in FILLING:
        ends = {(int(raw.timestamps[rows[0]]), int(raw.timestamps[rows[-1]])) for rows in every}
        return len(ends) == 1 and all(axis.step.fits(raw.timestamps[rows]).all() for rows in every)
    return all(np.array_equal(raw.timestamps[rows], raw.timestamps[every[0]]) for rows in every)


def _rounding(rows: ExactRows) -> Rounding:
    rounding = Rounding(rows.columns)
    for start, stop in rows.spans():
        exact = rows.exact(start, stop)
        with np.errstate(over="ignore"):
            rounding.add(exact, exact.astype(np.float32))
    return rounding
