"""Reads CSV and Parquet files as a stream of chunks: timestamps [n] int64 microseconds and values [n, C].

Numbers are read as 64-bit floats and kept as 32-bit ones; data_pipeline/series/rounding.py refuses what loses too much by
that. What cannot be read is refused with one line.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pa_parquet

from data_pipeline.errors import DataError, nearest
from data_pipeline.source.content import (
    GZIP_TROUBLE,
    READ_ERRORS,
    HashingStream,
    content_sha256,
    open_content,
    unreadable,
)
from data_pipeline.source.header import HEAD_BYTES, check_names, read_header, refuse_row_index, timestamp_index
from data_pipeline.source.timestamps import HELP, has_zone, text_or_none, to_microseconds

BLOCK_BYTES = 4 << 20
MISSING = ("", "NA", "N/A", "#N/A", "nan", "NaN", "NAN", "null", "NULL", "None", "-nan")


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Some rows of a file."""

    timestamps: np.ndarray
    """[n] int64, microseconds since 1970, UTC where the file names a zone."""
    values: np.ndarray
    """[n, C] float32, finite; NaN where a value is missing and `only` columns were asked for."""
    exact: np.ndarray
    """[n, C] float64: the same before they were rounded."""


class CsvSource:
    """A CSV file, plain or gzipped: UTF-8, comma-separated, one header line, one timestamp column, numbers."""

    def __init__(self, path: Path, timestamp_column: str | None, only: Sequence[str] | None = None) -> None:
        self.path, self.keeps_missing = path, only is not None
        try:
            with open(path, "rb") as raw, gzip.open(raw) if path.name.endswith(".gz") else raw as stream:
                head = stream.read(HEAD_BYTES)
        except READ_ERRORS as error:
            raise unreadable(path, error) from error
        names, first = read_header(path, head)
        self.names = names
        index = timestamp_index(path, names, first, timestamp_column)
        self.timestamp_column = names[index]
        self.columns = _chosen(path, names, self.timestamp_column, only)
        self.zoned = first is not None and index < len(first) and has_zone(first[index])
        self._header_bytes = len(head.split(b"\n", 1)[0])

    def chunks(self) -> Iterator[Chunk]:
        """Every row, in order. Raises DataError at the first that is not right."""
        self._stream: HashingStream | None = None
        try:
            self._stream = open_content(self.path)
            yield from self._chunks(self._stream)
        except READ_ERRORS as error:
            raise self._refusal(error) from error

    def sha256(self) -> str:
        """Of the content; only after `chunks` has been read to its end."""
        assert self._stream is not None
        digest = self._stream.hexdigest_of_all()
        self._stream.close()
        return digest

    def _chunks(self, stream: HashingStream) -> Iterator[Chunk]:
        types = {name: pa.float64() for name in self.columns} | {self.timestamp_column: pa.string()}
        reader = pa_csv.open_csv(
            pa.PythonFile(stream, mode="r"),
            read_options=pa_csv.ReadOptions(
                use_threads=False,  # a serial reader knows the row of an error, and holds one block
                block_size=max(BLOCK_BYTES, 16 * self._header_bytes),
                column_names=self.names,
                skip_rows=1,
            ),
            convert_options=pa_csv.ConvertOptions(
                column_types=types,
                include_columns=list(types),
                null_values=MISSING,
                strings_can_be_null=False,
                check_utf8=True,
            ),
        )
        rows = 0
        for batch in reader:
            if batch.num_rows:
                yield _chunk(self, batch, rows)
                rows += batch.num_rows

    def _refusal(self, error: BaseException) -> DataError:
        text = str(error)
        if re.search(GZIP_TROUBLE, text):
            return unreadable(self.path, error)
        row = re.search(r"Row #(\d+)", text)
        where = f"data row {int(row.group(1)) - 1}" if row else "some row"
        column = re.search(r"CSV column #(\d+)", text)
        if column and "conversion error" in text:
            name = self.names[int(column.group(1))]
            given = text.partition("invalid value ")[2] or text
            return DataError(
                f"{self.path}: {where}, column {name!r}: {given[:80]} is not a number: every column but the timestamp "
                f"({self.timestamp_column!r}) must be numeric; drop or encode the others"
            )
        counts = re.search(r"Expected (\d+) columns, got (\d+)", text)
        if counts:
            return DataError(
                f"{self.path}: {where} has {counts.group(2)} fields, the header has {counts.group(1)}: "
                "give every row the same number of comma-separated fields"
            )
        if isinstance(error, pa.ArrowInvalid):
            return DataError(f"{self.path}: not a readable CSV ({text[:200]}): UTF-8, comma-separated, is needed")
        return unreadable(self.path, error)


class ParquetSource:
    """A Parquet file: one timestamp column, numeric columns."""

    def __init__(self, path: Path, timestamp_column: str | None, only: Sequence[str] | None = None) -> None:
        self.path, self.keeps_missing = path, only is not None
        try:
            with pa_parquet.ParquetFile(path) as file:
                schema = file.schema_arrow
                head = next(file.iter_batches(batch_size=1), None)
        except READ_ERRORS as error:
            raise unreadable(path, error) from error
        self.names = schema.names
        first = [text_or_none(column[0]) for column in head.columns] if head is not None and head.num_rows else None
        check_names(path, self.names)
        index = timestamp_index(path, self.names, first, timestamp_column)
        self.timestamp_column = self.names[index]
        kind = schema.field(index).type
        time = "" if first is None else first[index]
        if time is None:
            raise DataError(
                f"{path}: the first value of the timestamp column {self.timestamp_column!r} cannot be read as {kind} "
                f"(another unit, another encoding or an unknown zone?): {HELP}"
            )
        self.zoned = kind.tz is not None if pa.types.is_timestamp(kind) else has_zone(time)
        self.columns = _chosen(path, self.names, self.timestamp_column, only)
        for name in self.columns:
            kind = schema.field(name).type
            if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
                raise DataError(
                    f"{path}: column {name!r} holds {kind}, not numbers: every column but the timestamp "
                    f"({self.timestamp_column!r}) must be numeric; drop or encode the others"
                )

    def chunks(self) -> Iterator[Chunk]:
        """Every row, in order. Raises DataError at the first that is not right."""
        rows = 0
        try:
            with pa_parquet.ParquetFile(self.path) as file:
                size = max(1, BLOCK_BYTES // (8 * len(self.columns)))
                for batch in file.iter_batches(batch_size=size, columns=[self.timestamp_column, *self.columns]):
                    yield _chunk(self, batch, rows)
                    rows += batch.num_rows
        except READ_ERRORS as error:
            raise unreadable(self.path, error) from error

    def sha256(self) -> str:
        """Of the file."""
        return content_sha256(self.path)


Source = CsvSource | ParquetSource


def open_source(path: Path, timestamp_column: str | None, only: Sequence[str] | None = None) -> Source:
    """The reader for `path` by its ending; with `only`, of these columns in this order, missing values read as NaN.

    Raises DataError where the head of the file is wrong.
    """
    kind = ParquetSource if path.name.endswith(".parquet") else CsvSource
    return kind(path, timestamp_column, only)


def _chosen(path: Path, names: Sequence[str], timestamp_column: str, only: Sequence[str] | None) -> tuple[str, ...]:
    if only is None:
        columns = tuple(name for name in names if name != timestamp_column)
        refuse_row_index(path, columns)
        return columns
    if missing := [name for name in only if name not in names or name == timestamp_column]:
        there = f"there are {', '.join(names[:12])}{nearest(missing[0], names)}"
        raise DataError(f"{path}: no column {', '.join(map(repr, missing[:8]))}: {there}")
    return tuple(only)


def _chunk(source: Source, batch: pa.RecordBatch, rows: int) -> Chunk:
    path, timestamp, columns = source.path, source.timestamp_column, source.columns
    times = to_microseconds(
        batch.column(timestamp), zoned=source.zoned, source=str(path), column_name=timestamp, first_row=rows + 1
    )
    numbers = [batch.column(name).cast(pa.float64(), safe=False) for name in columns]
    table = pa.record_batch(numbers, names=[str(at) for at in range(len(columns))])
    exact = table.to_tensor(null_to_nan=True, row_major=True).to_numpy()
    with np.errstate(over="ignore"):
        values = exact.astype(np.float32)
    if source.keeps_missing:
        return Chunk(timestamps=times, values=values, exact=exact)
    if sum(number.null_count for number in numbers):
        at = next(at for at, number in enumerate(numbers) if number.null_count)
        row = int(np.argmax(numbers[at].is_null().to_numpy(zero_copy_only=False)))
        raise DataError(
            f"{path}: no value in column {columns[at]!r} at data row {rows + row + 1}: fill or drop missing values"
        )
    finite = np.isfinite(values)
    if not finite.all():
        row, at = np.argwhere(~finite)[0]
        raise DataError(
            f"{path}: the value in column {columns[at]!r} at data row {rows + row + 1} is not a finite 32-bit float: "
            "fill NaN and infinite values, rescale larger ones than 3.4e38"
        )
    return Chunk(timestamps=times, values=values, exact=exact)
