"""Reads the last rows of a file as the input of a forecast, and writes a table of forecasts."""

from __future__ import annotations

import csv
import gzip
import io
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pa_parquet

from data_pipeline.errors import DataError
from data_pipeline.options import DEFAULTS, DataOptions
from data_pipeline.series.steps import MICROSECONDS_PER_MINUTE
from data_pipeline.source.readers import open_source
from data_pipeline.source.replacing import replacing
from data_pipeline.source.rows import Chunk

OUTPUT_ENDINGS = (".csv", ".csv.gz", ".parquet")
"""Of the files that `write_table` writes, in any case."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Table:
    """n rows of C columns, one step apart in time."""

    timestamp_column: str
    timestamps: np.ndarray
    """[n] int64, microseconds since 1970, in UTC if `zoned`."""
    zoned: bool
    columns: tuple[str, ...]
    values: np.ndarray
    """[n, C], in the units of the source."""


def read_tail(
    path: Path, *, columns: Sequence[str], rows: int, step_minutes: float, options: DataOptions = DEFAULTS
) -> Table:
    """The last `rows` rows of these columns of a CSV (plain or .gz) or Parquet file. Other columns are not read.

    Values are float32, as in training. Raises DataError for gaps or missing values in these rows (earlier rows may have
    them), for too few rows, and for another step than `step_minutes`.
    """
    source = open_source(path, options, columns)
    kept: deque[Chunk] = deque()
    kept_rows = 0
    for chunk in source.chunks():
        kept.append(chunk)
        kept_rows += len(chunk.values)
        while kept_rows - len(kept[0].values) >= rows:
            kept_rows -= len(kept.popleft().values)
    source.faults.raise_if_any()
    if kept_rows < rows:
        raise DataError(f"{path}: {kept_rows} data rows, the model forecasts from {rows}: give a longer series")
    table = Table(
        timestamp_column=source.timestamp_column or "row",
        timestamps=np.concatenate([chunk.timestamps for chunk in kept])[-rows:],
        zoned=source.zone is not None,
        columns=source.columns,
        values=np.concatenate([chunk.values for chunk in kept])[-rows:],
    )
    _check_steps(path, table, step_us=round(step_minutes * MICROSECONDS_PER_MINUTE))
    _check_values(path, table)
    return table


def other_columns(path: Path, table: Table, options: DataOptions = DEFAULTS) -> tuple[str, ...]:
    """The columns of `path`, read as `options` say, that `table` leaves out. Raises DataError."""
    names = open_source(path, options, table.columns).names
    return tuple(name for name in names if name not in (table.timestamp_column, *table.columns))


def _check_steps(path: Path, table: Table, *, step_us: int) -> None:
    steps = np.diff(table.timestamps)
    wrong = np.flatnonzero(steps != step_us)
    if not wrong.size:
        return
    last = f"{path}: in the last {len(table.timestamps)} rows"
    distinct, counts = np.unique(steps, return_counts=True)
    common = int(distinct[np.argmax(counts)])
    row = int(wrong[-1])
    before, after = _time_text(table, row), _time_text(table, row + 1)
    if steps[row] <= 0:
        raise DataError(f"{last} {after} follows {before}: sort the rows by time and keep one row per time")
    if common > 0 and common != step_us:
        raise DataError(
            f"{last} there is one per {common / MICROSECONDS_PER_MINUTE:g} min, the model was trained on one per "
            f"{step_us / MICROSECONDS_PER_MINUTE:g}: resample, or use a model of such data"
        )
    raise DataError(f"{last} there is a gap, {before} is followed by {after}: fill it, or end the file before it")


def _check_values(path: Path, table: Table) -> None:
    finite = np.isfinite(table.values)
    if finite.all():
        return
    row, column = np.argwhere(~finite)[-1]
    raise DataError(
        f"{path}: no finite value in column {table.columns[column]!r} at {_time_text(table, int(row))}, within the "
        f"last {len(table.values)} rows, from which the model forecasts: fill it, or end the file before it"
    )


def _time_text(table: Table, row: int) -> str:
    return times_as_text(table.timestamps[row : row + 1], zoned=table.zoned)[0]


def times_as_text(timestamps: np.ndarray, *, zoned: bool) -> list[str]:
    """ISO 8601 with a space, as in the ETT files; with fractions of a second if there are any, with Z if `zoned`."""
    unit = "s" if not (timestamps % 1_000_000).any() else "us"
    texts = np.datetime_as_string(timestamps.astype("datetime64[us]").astype(f"datetime64[{unit}]"))
    return [str(text).replace("T", " ") + ("Z" if zoned else "") for text in texts]


def write_table(path: Path, table: Table) -> None:
    """Write CSV (plain or .gz) or Parquet, by the ending of `path`: all of it, or nothing. Raises OSError.

    Floats read back bit by bit.
    """
    with replacing(path) as temporary:
        if path.name.lower().endswith(".parquet"):
            _write_parquet(temporary, table)
        else:
            _write_csv(temporary, table, gzipped=path.name.lower().endswith(".gz"))


def _write_parquet(path: Path, table: Table) -> None:
    kind = pa.timestamp("us", "UTC" if table.zoned else None)
    arrays = [pa.array(table.timestamps, pa.int64()).cast(kind)]
    arrays += [pa.array(np.ascontiguousarray(column)) for column in table.values.T]
    pa_parquet.write_table(pa.table(arrays, names=[table.timestamp_column, *table.columns]), path)


def _write_csv(path: Path, table: Table, *, gzipped: bool) -> None:
    times = times_as_text(table.timestamps, zoned=table.zoned)
    with gzip.open(path, "wb") if gzipped else path.open("wb") as binary:
        text = io.TextIOWrapper(binary, encoding="utf-8", newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([table.timestamp_column, *table.columns])
        writer.writerows([time, *row] for time, row in zip(times, table.values.tolist(), strict=True))
        text.flush()
        text.detach()
