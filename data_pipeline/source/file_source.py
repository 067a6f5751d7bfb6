"""A file as a source of rows: what the readers of all formats share.

Numbers are read as 64-bit floats and kept as 32-bit floats; data_pipeline/series/rounding.py refuses columns that lose
too much. What is wrong in a row is a fault; reading goes on, so that all faults are told in one answer.

Shapes: n rows, C columns.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_pipeline.faults import Faults
from data_pipeline.options import DataOptions
from data_pipeline.source.cells import NumberMarks
from data_pipeline.source.columns import TIMESTAMP_NAMES, TRUTH, Column, Roles, find_roles
from data_pipeline.source.content import READ_ERRORS, unreadable
from data_pipeline.source.counters import Counters
from data_pipeline.source.empty_rows import EmptyRows
from data_pipeline.source.number_marks import is_any_number
from data_pipeline.source.rows import Chunk
from data_pipeline.source.time_column import Rows, TimeColumn
from data_pipeline.source.time_form import decide, fitting_forms, given_form, names_years
from data_pipeline.source.times import ISO, Count, TimeForm

BLOCK_BYTES = 4 << 20
"""About this much of a file is in memory at a time."""


class FileSource(ABC):
    """The rows of a file, a `RowSource`. Raises DataError for a wrong header.

    With `only`, it reads these columns in this order, whatever the options say of columns.
    """

    def __init__(self, path: Path, options: DataOptions, only: Sequence[str] | None = None) -> None:
        self.path, self.options = path, options
        self.faults: Faults = Faults(str(path))
        self.notes: list[str] = []
        self.reading: dict[str, str] = {}
        self._needed = only is not None
        self.marks = NumberMarks()
        try:
            found = self._read_head()
            self.names = [column.name for column in found]
            self._roles = find_roles(path, found, self.marks, options, only, self.faults, self._is_empty)
            self._times = self._time_column(self._roles)
        except READ_ERRORS as error:
            raise unreadable(path, error) from error
        self.notes += self._roles.notes
        self.columns = tuple(column.name for column in self._roles.values)
        self.timestamp_column = None if self._roles.time is None else self._roles.time.name
        self.id_column = None if self._roles.id is None else self._roles.id.name
        self._left_out = False
        self._empty_rows = EmptyRows(self.faults, self.timestamp_column)
        self._counters = Counters(self._roles)

    @abstractmethod
    def chunks(self) -> Iterator[Chunk]:
        """Every row, in order, without those that become faults. Raises DataError where reading cannot go on."""

    @abstractmethod
    def sha256(self) -> str:
        """The sha256 of the content. Read `chunks` to its end first."""

    @abstractmethod
    def _read_head(self) -> list[Column]:
        """The columns of the file. Sets `marks`."""

    @abstractmethod
    def _scan(self, columns: Sequence[Column]) -> Iterator[list[pa.Array]]:
        """All cells of these columns as strings, block by block."""

    @property
    def zone(self) -> str | None:
        """The zone that the times name: UTC, the one offset of all (`+02:00`), an IANA name, or None.

        Times of several offsets are in UTC. Complete after the last chunk.
        """
        return None if self._times is None else self._times.zone

    @property
    def offsets(self) -> tuple[str, ...]:
        """The offsets from UTC that times have, as +02:00; empty if they name none. Complete after the last chunk."""
        return () if self._times is None else self._times.offsets

    def _is_empty(self, column: Column) -> bool:
        """Whether no row has anything in a column."""
        return not any(pc.any(_filled(cells)).as_py() for (cells,) in self._scan([column]))

    def _time_column(self, roles: Roles) -> TimeColumn | None:
        if roles.time is None:
            self.reading["timestamp_column"] = "none"
            return None
        form = None if roles.time.kind == "time" else self._time_form(roles.time)
        self.reading["timestamp_column"] = roles.time.name
        first = () if form is None else roles.time.texts
        return TimeColumn(str(self.path), roles.time.name, form, self.faults, self._arrow_type(roles.time), first)

    def _arrow_type(self, column: Column) -> pa.DataType | None:
        """The type of a column in the file; None for text."""
        return None

    def _time_form(self, column: Column) -> TimeForm:
        first = next(iter(column.texts), "")
        if self.options.time_format is not None:
            form = given_form(str(self.path), self.options.time_format)
            self.reading["time_format"] = form.name
            return form
        forms = fitting_forms(column.texts, counts=True, years=names_years(column.name)) or [ISO]
        form = decide(str(self.path), column.name, forms, first, lambda: self._scan_times(column))
        self.reading["time_format"] = form.name if form is ISO else form.written_as(first)
        if isinstance(form, Count):
            self.notes.append(f"column {column.name!r} counts time in {form.unit} since 1970")
        elif form is not ISO:
            written = form.written_as(first)
            self.notes.append(f"times read as {written}" + (f" ({form.name})" if written != form.name else ""))
        return form

    def _scan_times(self, column: Column) -> Iterator[pa.Array]:
        clock = self._roles.clock
        for date, *time in self._scan([column] if clock is None else [column, clock]):
            block = _joined(date, time[0]) if time else date
            yield block.filter(_filled(block))

    def _chunk(
        self,
        times: pa.Array | None,
        ids: pa.Array | None,
        values: Sequence[pa.Array],
        done: int,
        row: Rows,
        *,
        clock: pa.Array | None = None,
    ) -> Chunk:
        """The rows of n cells per column that follow `done` rows: `values` are float64 or text, C of them.

        `row` tells the number of a row in the file. Rows without a time become faults and are left out.
        """
        exact = self._numbers(values, row)
        with np.errstate(over="ignore"):
            rounded = exact.astype(np.float32)
        infinite = np.isinf(rounded)
        if infinite.any():
            self._add_infinite(infinite, row)
            exact, rounded = np.where(infinite, 0.0, exact), np.where(infinite, np.float32(0), rounded)
        self._counters.add(exact, done)
        texts = None if ids is None else np.array(pc.utf8_trim_whitespace(ids).to_pylist(), object)
        if times is None or self._times is None:
            us = np.arange(done, done + len(exact), dtype=np.int64)
            return Chunk(timestamps=us, values=rounded, exact=exact, ids=texts)
        us, ok, empty = self._times.read(times if clock is None else _joined(times, clock), row)
        self._empty_rows.add(empty, exact, row)
        if not ok.all():
            us, rounded, exact, texts = us[ok], rounded[ok], exact[ok], None if texts is None else texts[ok]
        self._left_out = self._left_out or not ok.all() or row(len(ok) - 1) != done + len(ok)
        rows = np.array([row(int(at)) for at in np.flatnonzero(ok)], np.int64) if self._left_out else None
        return Chunk(timestamps=us, values=rounded, exact=exact, ids=texts, rows=rows)

    def _numbers(self, values: Sequence[pa.Array], row: Rows) -> np.ndarray:
        """The numbers [n, C] float64; NaN where one is missing. A cell that is none is a fault, and 0 here."""
        if not any(pa.types.is_string(column.type) for column in values):
            table = pa.record_batch(list(values), names=[str(index) for index in range(len(values))])
            return np.asarray(table.to_tensor(null_to_nan=True, row_major=True).to_numpy())
        exact = np.empty((len(values[0]), len(values)))
        for at, column in enumerate(values):
            if pa.types.is_string(column.type):
                if self._roles.values[at].kind == "truth":
                    column = _truth_as_digits(column)
                exact[:, at], bad = self.marks.parse(column)
                exact[bad, at] = 0.0
                self._add_bad_cells(at, column, bad, row)
            else:
                exact[:, at] = column.to_numpy(zero_copy_only=False)
        return exact

    def _add_bad_cells(self, at: int, column: pa.Array, bad: np.ndarray, row: Rows) -> None:
        if bad.any():
            first, name = int(np.argmax(bad)), self.columns[at]
            text = column[first].as_py()
            mark = f" with the decimal mark {self.marks.decimal!r}" if is_any_number(text) else ""
            remedy = "leave a missing value empty" if not mark else "write all with the mark of --set data.decimal=MARK"
            self.faults.add(
                "number",
                f"{text[:60]!r} is not a number{mark}",
                remedy if self._needed else f"{remedy}, or leave the column out with --set data.ignore={name}",
                column=name, row=row(first), count=int(bad.sum()),
            )  # fmt: skip

    def _add_infinite(self, infinite: np.ndarray, row: Rows) -> None:
        for at in np.flatnonzero(infinite.any(axis=0)):
            column = infinite[:, at]
            self.faults.add(
                "finite", "the value is not a finite 32-bit float",
                "leave infinite values empty, and rescale values above 3.4e38",
                column=self.columns[at], row=row(int(np.argmax(column))), count=int(column.sum()),
            )  # fmt: skip

    def _finish(self) -> None:
        """Note what is known after the last row."""
        self.notes += [*self._empty_rows.notes(), *self._counters.notes()]
        if self._times is not None and len(self._times.offsets) > 1:
            self.notes.append(f"times have the offsets {' and '.join(self._times.offsets)} from UTC")
        name = self.timestamp_column
        others = [other for other in self.columns if other.strip().lower() in TIMESTAMP_NAMES]
        if name is not None and others and self.options.timestamp_column is None:
            self.notes.append(
                f"times taken from column {name!r}, not {others[0]!r}; --set data.timestamp_column=NAME says otherwise"
            )


def _truth_as_digits(column: pa.Array) -> pa.Array:
    words = pc.utf8_lower(pc.utf8_trim_whitespace(column))
    known = pc.index_in(words, value_set=pa.array(list(TRUTH)))
    return pc.coalesce(pa.array(list(TRUTH.values())).take(known), column)


def _joined(dates: pa.Array, times: pa.Array) -> pa.Array:
    return pc.binary_join_element_wise(dates, times, " ")


def _filled(texts: pa.Array) -> pa.Array:
    """Which texts are not blank."""
    return pc.not_equal(pc.utf8_trim_whitespace(texts), "")
