"""Reads the last rows of a file as the input of a forecast, and writes a table of forecasts."""

from __future__ import annotations

import csv
import gzip
import io
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pa_parquet

from data_pipeline.errors import DataError
from data_pipeline.faults import Faults
from data_pipeline.options import DEFAULTS, DataOptions
from data_pipeline.series.find_step import offset_us
from data_pipeline.series.order import RowOrder
from data_pipeline.series.steps import MICROSECONDS_PER_MINUTE, FixedStep, RowStep, Step, duration_text, to_clock
from data_pipeline.source.file_source import FileSource
from data_pipeline.source.readers import open_source
from data_pipeline.source.replacing import replacing
from data_pipeline.source.rows import Chunk

OUTPUT_ENDINGS = (".csv", ".csv.gz", ".parquet")
"""Of the files that `write_table` writes, in any case."""
ROW = "row"
"""The name of the column with the numbers of rows without times."""
MOST_DECIMALS = 9
"""More digits after the point than this are a float's own, not those of a measurement."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Table:
    """n rows of C columns, one step apart in time."""

    timestamp_column: str | None
    """None: rows have no times, but numbers, which are written as the column `row`."""
    timestamps: np.ndarray
    """[n] int64, microseconds since 1970, in UTC if there is a zone; or the numbers of the rows, from 0."""
    zone: str | None
    """The source's: an IANA name, UTC or an offset such as +02:00; None if its times name none."""
    columns: tuple[str, ...]
    values: np.ndarray
    """[n, C], in the units of the source."""
    decimals: tuple[int | None, ...]
    """[C] digits after the point that the source's values have; None: as many as a float takes."""


def read_tail(path: Path, *, columns: Sequence[str], rows: int, step: Step, options: DataOptions = DEFAULTS) -> Table:
    """The last `rows` rows of these columns of a CSV (plain or .gz) or Parquet file. Other columns are not read.

    Values are float32, as in training. Raises DataError for gaps or missing values in these rows (earlier rows may have
    them), for too few rows, and for another step than `step`.
    """
    source = open_source(path, options, columns)
    kept: deque[Chunk] = deque()
    kept_rows = all_rows = 0
    numbered = isinstance(step, RowStep) or source.timestamp_column is None
    order = RowOrder(source.columns, Faults(str(path)))  # what is wrong before the last rows is no fault here
    for read in source.chunks():
        chunk = read if numbered else order.distinct(read)
        kept.append(chunk)
        kept_rows, all_rows = kept_rows + len(chunk.values), all_rows + len(chunk.values)
        while kept_rows - len(kept[0].values) >= rows:
            kept_rows -= len(kept.popleft().values)
    source.faults.raise_if_any()
    if kept_rows < rows:
        raise DataError(f"{path}: {kept_rows} data rows, the model forecasts from {rows}: give a longer series")
    timestamps = np.concatenate([chunk.timestamps for chunk in kept])[-rows:]
    table = Table(
        timestamp_column=None if numbered else source.timestamp_column,
        timestamps=np.arange(all_rows - rows, all_rows) if numbered else timestamps,
        zone=None if numbered else _clock(source, step, timestamps),
        columns=source.columns,
        values=np.concatenate([chunk.values for chunk in kept])[-rows:],
        decimals=decimals_of(np.concatenate([chunk.exact for chunk in kept])[-rows:]),
    )
    check_table(str(path), table, step)
    return table


def check_table(label: str, table: Table, step: Step) -> None:
    """Raise DataError unless all values are there, and all rows follow each other by `step`."""
    _check_steps(label, table, step)
    _check_values(label, table)


def _clock(source: FileSource, step: Step, timestamps: np.ndarray) -> str | None:
    """The zone that times are shown in: that of the model's step if the source has its offsets, else the source's."""
    zone = getattr(step, "zone", None)
    if zone is None or not source.offsets:
        return source.zone
    shifts = set(np.unique(to_clock(timestamps, zone) - timestamps).tolist())
    return zone if shifts <= {offset_us(offset) for offset in source.offsets} else source.zone


def other_columns(path: Path, table: Table, options: DataOptions = DEFAULTS) -> tuple[str, ...]:
    """The columns of `path` that `table` leaves out. Raises DataError."""
    source = open_source(path, options, table.columns)
    return tuple(name for name in source.names if name not in (source.timestamp_column, *table.columns))


def _check_steps(label: str, table: Table, step: Step) -> None:
    """Raise DataError unless the rows follow each other by `step`; a table of numbered rows does."""
    if table.timestamp_column is None:
        if step.minutes is not None:
            raise DataError(f"{label}: no column of times, and the model was trained on rows with times: add one")
        return
    times = table.timestamps
    steps = np.diff(times)
    last = f"{label}: in the last {len(times)} rows"
    if (steps <= 0).any():
        row = int(np.flatnonzero(steps <= 0)[-1])
        before, after = _time_text(table, row), _time_text(table, row + 1)
        raise DataError(f"{last} {after} follows {before}: sort the rows by time and keep one row per time")
    fits, places = step.fits(times), np.diff(step.positions(times))
    if fits.all() and (places == 1).all():
        return
    distinct, counts = np.unique(steps, return_counts=True)
    common = int(distinct[np.argmax(counts)])
    if isinstance(step, FixedStep) and common != step.step_us:
        raise DataError(
            f"{last} there is one per {duration_text(common)}, the model was trained on one per {step.text}: resample, "
            "or use a model of such data"
        )
    if not fits.all():
        wrong = _time_text(table, int(np.flatnonzero(~fits)[-1]))
        raise DataError(f"{last} {wrong} is no time of the model's step, {step.text}: resample, or use another model")
    row = int(np.flatnonzero(places != 1)[-1])
    before, after = _time_text(table, row), _time_text(table, row + 1)
    raise DataError(f"{last} there is a gap, {before} is followed by {after}: fill it, or end the file before it")


def _check_values(label: str, table: Table) -> None:
    finite = np.isfinite(table.values)
    if finite.all():
        return
    row, column = np.argwhere(~finite)[-1]
    raise DataError(
        f"{label}: no finite value in column {table.columns[column]!r} at {_time_text(table, int(row))}, within the "
        f"last {len(table.values)} rows, from which the model forecasts: fill it, or end the file before it"
    )


def decimals_of(exact: np.ndarray) -> tuple[int | None, ...]:
    """For each column of `exact` [n, C] float64: the fewest digits after the point that hold all its finite values.

    None above MOST_DECIMALS, as for values that were floats before they were text.
    """
    left = np.where(np.isfinite(exact), exact, 0.0)
    found: list[int | None] = [None] * exact.shape[1]
    for digits in range(MOST_DECIMALS, -1, -1):
        for column in np.flatnonzero((np.round(left, digits) == left).all(axis=0)):
            found[column] = digits
    return tuple(found)


def row_texts(table: Table) -> list[str]:
    """What names each row: its time, or its number."""
    if table.timestamp_column is None:
        return [str(number) for number in table.timestamps.tolist()]
    return times_as_text(table.timestamps, table.zone)


def _time_text(table: Table, row: int) -> str:
    return row_texts(replace(table, timestamps=table.timestamps[row : row + 1]))[0]


def times_as_text(timestamps: np.ndarray, zone: str | None) -> list[str]:
    """ISO 8601 with a space, as in the ETT files; with fractions of a second if there are any, with the zone's offset.

    timestamps: [n] int64, microseconds since 1970, in UTC if there is a zone. UTC is written as Z.
    """
    unit: Literal["s", "us"] = "s" if not (timestamps % 1_000_000).any() else "us"
    texts = [text.replace("T", " ") for text in np.datetime_as_string(local_times(timestamps, zone), unit).tolist()]
    if zone is None or zone == "UTC":
        return [text + ("Z" if zone else "") for text in texts]
    return [text + _offset_text(int(offset)) for text, offset in zip(texts, _offsets_us(timestamps, zone), strict=True)]


def local_times(timestamps: np.ndarray, zone: str | None) -> np.ndarray:
    """[n] datetime64[us] as clocks of the zone show them; timestamps as in `times_as_text`."""
    return (timestamps + _offsets_us(timestamps, zone)).astype("datetime64[us]")


def _offsets_us(timestamps: np.ndarray, zone: str | None) -> np.ndarray:
    """[n] int64: local time less UTC in microseconds."""
    if zone is None or zone == "UTC":
        return np.zeros_like(timestamps)
    utc = pa.array(timestamps, pa.int64()).cast(pa.timestamp("us", "UTC"))
    local = pc.local_timestamp(utc.cast(pa.timestamp("us", zone)))
    return local.view(pa.int64()).to_numpy(zero_copy_only=False) - timestamps


def _offset_text(offset_us: int) -> str:
    minutes = abs(offset_us) // MICROSECONDS_PER_MINUTE
    return f"{'-' if offset_us < 0 else '+'}{minutes // 60:02d}:{minutes % 60:02d}"


def write_table(path: Path, *tables: Table, id_column: str | None = None, ids: Sequence[str] = ()) -> None:
    """Write CSV (plain or .gz) or Parquet, by the ending of `path`: all of it, or nothing. Raises OSError.

    CSV has the tables' decimals; where these are None, and in Parquet, floats read back bit by bit.

    tables: one, or one below the other in long format, whose first column, `id_column`, has the id of each table.
    """
    before = [None] if id_column is None else list(ids)
    with replacing(path) as temporary:
        if path.name.lower().endswith(".parquet"):
            parts = [_arrow_table(table, id_column, name) for table, name in zip(tables, before, strict=True)]
            pa_parquet.write_table(pa.concat_tables(parts), temporary)
            return
        with gzip.open(temporary, "wb") if path.name.lower().endswith(".gz") else temporary.open("wb") as binary:
            text = io.TextIOWrapper(binary, encoding="utf-8", newline="")
            writer = csv.writer(text, lineterminator="\n")
            first = [] if id_column is None else [id_column]
            writer.writerow([*first, tables[0].timestamp_column or ROW, *tables[0].columns])
            for table, name in zip(tables, before, strict=True):
                writer.writerows(_csv_rows(table, name))
            text.flush()
            text.detach()


def _arrow_table(table: Table, id_column: str | None, name: str | None) -> pa.Table:
    times = pa.array(table.timestamps, pa.int64())
    arrays = [times if table.timestamp_column is None else times.cast(pa.timestamp("us", table.zone))]
    arrays += [pa.array(np.ascontiguousarray(column)) for column in table.values.T]
    names = [table.timestamp_column or ROW, *table.columns]
    if id_column is not None:
        arrays, names = [pa.array([name] * len(times), pa.string()), *arrays], [id_column, *names]
    return pa.table(arrays, names=names)


def _csv_rows(table: Table, name: str | None) -> Iterator[tuple[object, ...]]:
    columns = [_numbers(column.tolist(), digits) for column, digits in zip(table.values.T, table.decimals, strict=True)]
    first = [] if name is None else [[name] * len(table.values)]
    return zip(*first, row_texts(table), *columns, strict=True)


def _numbers(values: list[float], digits: int | None) -> list[float] | list[str]:
    """The values with this many digits after the point, without a negative zero."""
    return values if digits is None else [f"{round(value, digits) + 0.0:.{digits}f}" for value in values]
