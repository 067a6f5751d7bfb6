"""The last rows of a file, checked as the input of a forecast; and a table of forecasts written back."""

from __future__ import annotations

import csv
import gzip
import io
import os
import secrets
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pa_parquet

from data_pipeline.errors import DataError
from data_pipeline.series.timeaxis import MICROSECONDS_PER_MINUTE
from data_pipeline.source.readers import Chunk, open_source


@dataclass(frozen=True, kw_only=True, eq=False)
class Table:
    """n rows of C columns, one time step apart."""

    timestamp_column: str
    timestamps: np.ndarray
    """[n] int64, microseconds since 1970, UTC where `zoned`."""
    zoned: bool
    columns: tuple[str, ...]
    values: np.ndarray
    """[n, C], in the units of the source."""


def read_tail(
    path: Path, *, columns: Sequence[str], rows: int, step_minutes: float, timestamp_column: str | None = None
) -> Table:
    """The last `rows` rows of these columns of a CSV (plain or .gz) or Parquet file; other columns are not read.

    Values are float32, as in training. Earlier rows may have gaps and missing values; these may not. DataError where
    they have, where there are too few, or where their step is another than `step_minutes`.
    """
    source = open_source(path, timestamp_column, columns)
    kept: deque[Chunk] = deque()
    held = seen = 0
    for chunk in source.chunks():
        kept.append(chunk)
        held += len(chunk.values)
        seen += len(chunk.values)
        while held - len(kept[0].values) >= rows:
            held -= len(kept.popleft().values)
    if seen < rows:
        raise DataError(f"{path}: {seen} data rows, the model forecasts from {rows}: give a longer series")
    table = Table(
        timestamp_column=source.timestamp_column,
        timestamps=np.concatenate([chunk.timestamps for chunk in kept])[-rows:],
        zoned=source.zoned,
        columns=source.columns,
        values=np.concatenate([chunk.values for chunk in kept])[-rows:],
    )
    _check_steps(path, table, step_us=round(step_minutes * MICROSECONDS_PER_MINUTE))
    _check_values(path, table)
    return table


def other_columns(path: Path, table: Table) -> tuple[str, ...]:
    """The columns of `path` that were not read for `table`. Raises DataError."""
    names = open_source(path, table.timestamp_column, table.columns).names
    return tuple(name for name in names if name not in (table.timestamp_column, *table.columns))


def _check_steps(path: Path, table: Table, *, step_us: int) -> None:
    steps = np.diff(table.timestamps)
    wrong = np.flatnonzero(steps != step_us)
    if not wrong.size:
        return
    last = f"{path}: in the last {len(table.timestamps)} rows"
    found, counts = np.unique(steps, return_counts=True)
    common = int(found[np.argmax(counts)])
    at = int(wrong[-1])
    before, after = (_shown(table, row) for row in (at, at + 1))
    if steps[at] <= 0:
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
    row, at = np.argwhere(~finite)[-1]
    raise DataError(
        f"{path}: no finite value in column {table.columns[at]!r} at {_shown(table, int(row))}, within the last "
        f"{len(table.values)} rows that the forecast is made from: fill it, or end the file before it"
    )


def _shown(table: Table, row: int) -> str:
    return times_as_text(table.timestamps[row : row + 1], zoned=table.zoned)[0]


def times_as_text(timestamps: np.ndarray, *, zoned: bool) -> list[str]:
    """ISO 8601 with a space, as the ETT files have it; fractions of a second where there are any, Z where `zoned`."""
    unit = "s" if not (timestamps % 1_000_000).any() else "us"
    texts = np.datetime_as_string(timestamps.astype("datetime64[us]").astype(f"datetime64[{unit}]"))
    return [str(text).replace("T", " ") + ("Z" if zoned else "") for text in texts]


def write_table(path: Path, table: Table) -> None:
    """Write CSV (plain or .gz) or Parquet by the ending of `path`, whole or not at all. Raises OSError.

    Floats are written so that they read back bit by bit.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        if path.name.endswith(".parquet"):
            _write_parquet(temporary, table)
        else:
            _write_csv(temporary, table, gzipped=path.name.endswith(".gz"))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _write_parquet(path: Path, table: Table) -> None:
    kind = pa.timestamp("us", "UTC" if table.zoned else None)
    arrays = [pa.array(table.timestamps, pa.int64()).cast(kind)]
    arrays += [pa.array(np.ascontiguousarray(table.values[:, at])) for at in range(len(table.columns))]
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
