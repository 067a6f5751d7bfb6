"""Reads the times of a column, chunk by chunk: in one form, all with a zone or none.

Shapes: n rows.
"""

from __future__ import annotations

import zoneinfo
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_pipeline.errors import DataError
from data_pipeline.faults import Faults
from data_pipeline.source.time_form import HELP
from data_pipeline.source.times import ISO, MOST_US, NO_OFFSET, UNITS, Parsed, TimeForm

Rows = Callable[[int], int]
"""The number of the data row in the file, from 1, of a row of this chunk, from 0."""


class TimeColumn:
    """The times of one column of text, dates or timestamps. What is none becomes a fault and is not `ok`."""

    def __init__(
        self,
        source: str,
        name: str,
        form: TimeForm | None,
        faults: Faults,
        kind: pa.DataType | None,
        first: Sequence[str] = (),
    ) -> None:
        """`form` is that of text, which begins with `first`; None for a column of the Arrow type `kind`.

        Raises DataError for an unknown zone.
        """
        self.name = name
        self._source, self._form, self._faults = source, form or ISO, faults
        self._offsets: set[int] = set()
        self._zoned: bool | None = None
        self._zone: str | None = None
        if kind is not None and pa.types.is_timestamp(kind) and kind.tz is not None:
            self._zone = _known_zone(source, name, kind)
        if first:
            parsed = self._form.parse(pa.array(first, pa.string()))
            self._note_zone(parsed, parsed.ok)

    @property
    def zone(self) -> str | None:
        """UTC, the one offset of all rows (`+02:00`), the name in an Arrow type, or None.

        UTC stands for several offsets too: see `offsets`. Of text, it is that of the rows so far.
        """
        if self._zone is not None or not self._zoned:
            return self._zone
        return self.offsets[0] if len(self._offsets) == 1 else "UTC"

    @property
    def offsets(self) -> tuple[str, ...]:
        """The offsets from UTC that rows have named, in the order of their size."""
        return tuple(_offset_text(offset) for offset in sorted(self._offsets))

    def read(self, column: pa.Array, row: Rows) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Microseconds [n] int64, in UTC if they have a zone; bool [n]: they are times; bool [n]: the cell is empty."""
        if pa.types.is_string(column.type):
            return self._read_text(column, row)
        empty = column.is_null().to_numpy(zero_copy_only=False)
        us, ok = _from_arrow(column)
        self._add_faults("range", ~ok & ~empty, row, lambda at: f"the value cannot be read as {column.type} "
                         "(another unit or another encoding?)", HELP)  # fmt: skip
        return us, ok & ~empty, empty

    def _read_text(self, column: pa.Array, row: Rows) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if column.null_count:
            column = pc.fill_null(column, "")
        parsed = self._form.parse(column)
        if parsed.ok.all():
            empty = np.zeros(len(column), bool)
        else:
            empty = pc.equal(pc.utf8_trim_whitespace(column), "").to_numpy(zero_copy_only=False)
        zoned = parsed.offsets != NO_OFFSET
        self._add_faults("time", ~parsed.ok & ~empty, row, lambda at: f"{column[at].as_py()[:60]!r} is no time"
                         f"{self._in_form()}", HELP)  # fmt: skip
        ok = parsed.ok & ~empty
        return parsed.us, ok & self._same_zone(parsed, ok, zoned, row), empty

    def _in_form(self) -> str:
        return "" if self._form is ISO else f" ({self._form.name})"

    def _same_zone(self, parsed: Parsed, ok: np.ndarray, zoned: np.ndarray, row: Rows) -> np.ndarray:
        self._note_zone(parsed, ok)
        same = zoned == bool(self._zoned)
        has = "has no zone, and" if self._zoned else "has a zone, and"
        others = "the rows before have one" if self._zoned else "the rows before have none"
        self._add_faults("zone", ok & ~same, row, lambda _: f"the time {has} {others}", "write all in UTC")
        return np.asarray(same)

    def _note_zone(self, parsed: Parsed, ok: np.ndarray) -> None:
        if ok.any():
            offsets = parsed.offsets[ok]
            if self._zoned is None:
                self._zoned = bool(offsets[0] != NO_OFFSET)
            if self._zoned:
                self._offsets |= set(np.unique(offsets[offsets != NO_OFFSET]).tolist())

    def _add_faults(self, kind: str, wrong: np.ndarray, row: Rows, text: Callable[[int], str], remedy: str) -> None:
        if wrong.any():
            first = int(np.argmax(wrong))
            self._faults.add(kind, text(first), remedy, column=self.name, row=row(first), count=int(wrong.sum()))


def _from_arrow(column: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Microseconds [n] of dates and timestamps, and whether they are of years 1 to 9999 and no finer."""
    kind = column.type
    if pa.types.is_date(kind):
        column = column.cast(pa.timestamp("ms"))
        kind = column.type
    counts = pc.fill_null(column.view(pa.int64()), 0).to_numpy(zero_copy_only=False)
    if kind.unit == "ns":
        return counts // 1000, counts % 1000 == 0
    factor = int(UNITS[kind.unit])
    ok = np.abs(counts) < MOST_US // factor
    return np.where(ok, counts, 0) * factor, ok


def _known_zone(source: str, name: str, kind: pa.DataType) -> str:
    zone = str(kind.tz)
    try:
        if not zone.startswith(("+", "-")):
            zoneinfo.ZoneInfo(zone)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise DataError(
            f"{source}: column {name!r} holds {kind}, an unknown zone: write it in UTC or in a zone of the IANA list"
        ) from error
    return zone


def _offset_text(minutes: int) -> str:
    if minutes == 0:
        return "UTC"
    hours, rest = divmod(abs(minutes), 60)
    return f"{'-' if minutes < 0 else '+'}{hours:02d}:{rest:02d}"
