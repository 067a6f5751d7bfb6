"""Reads CSV and Parquet files as a stream of chunks: timestamps [n] int64 microseconds and values [n, C].

Numbers are read as 64-bit floats and kept as 32-bit floats; data_pipeline/series/rounding.py refuses columns that lose
too much. Each error is one line.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator, Sequence
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
from data_pipeline.source.rows import Chunk
from data_pipeline.source.timestamps import HELP, has_zone, text_or_none, to_microseconds

BLOCK_BYTES = 4 << 20
MISSING = ("", "NA", "N/A", "#N/A", "nan", "NaN", "NAN", "null", "NULL", "None", "-nan")


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
        """Every row, in order. Raises DataError for the first wrong row."""
        self._stream: HashingStream | None = None
        try:
            self._stream = open_content(self.path)
            yield from self._chunks(self._stream)
        except READ_ERRORS as error:
            raise self._refusal(error) from error

    def sha256(self) -> str:
        """The sha256 of the content. Read `chunks` to its end first."""
        assert self._stream is not None
        digest = self._stream.hexdigest_of_all()
        self._stream.close()
        return digest

    def _chunks(self, stream: HashingStream) -> Iterator[Chunk]:
        types = {name: pa.float64() for name in self.columns} | {self.timestamp_column: pa.string()}
        reader = pa_csv.open_csv(
            pa.PythonFile(stream, mode="r"),
            read_options=pa_csv.ReadOptions(
                use_threads=False,  # a serial reader knows the row of an error, and holds only one block
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
        """The error for the user, from the text of an error of Arrow or the system."""
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
            return DataError(f"{self.path}: not a readable CSV ({text[:200]}): save it as UTF-8, comma-separated")
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
        """Every row, in order. Raises DataError for the first wrong row."""
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
        """The sha256 of the file."""
        return content_sha256(self.path)


Source = CsvSource | ParquetSource


def open_source(path: Path, timestamp_column: str | None, only: Sequence[str] | None = None) -> Source:
    """The reader for `path`, by its ending. Raises DataError for a wrong header.

    With `only`, it reads these columns in this order, and missing values as NaN.
    """
    kind = ParquetSource if path.name.endswith(".parquet") else CsvSource
    return kind(path, timestamp_column, only)


def _chosen(path: Path, names: Sequence[str], timestamp_column: str, only: Sequence[str] | None) -> tuple[str, ...]:
    if only is None:
        columns = tuple(name for name in names if name != timestamp_column)
        refuse_row_index(path, columns)
        return columns
    if missing := [name for name in only if name not in names or name == timestamp_column]:
        raise DataError(
            f"{path}: no column {', '.join(map(repr, missing[:8]))}: there are {', '.join(names[:12])}"
            f"{nearest(missing[0], names)}"
        )
    return tuple(only)


def _chunk(source: Source, batch: pa.RecordBatch, rows: int) -> Chunk:
    """The chunk of a batch that follows `rows` rows. Raises DataError for a wrong time or value."""
    timestamps = to_microseconds(
        batch.column(source.timestamp_column),
        zoned=source.zoned,
        source=str(source.path),
        column_name=source.timestamp_column,
        first_row=rows + 1,
    )
    numbers = [batch.column(name).cast(pa.float64(), safe=False) for name in source.columns]
    table = pa.record_batch(numbers, names=[str(index) for index in range(len(numbers))])
    exact = table.to_tensor(null_to_nan=True, row_major=True).to_numpy()
    with np.errstate(over="ignore"):
        values = exact.astype(np.float32)
    if not source.keeps_missing:
        _check_none_missing(source, numbers, rows)
        _check_finite(source, values, rows)
    return Chunk(timestamps=timestamps, values=values, exact=exact)


def _check_none_missing(source: Source, numbers: Sequence[pa.Array], rows: int) -> None:
    for name, column in zip(source.columns, numbers, strict=True):
        if column.null_count:
            row = rows + 1 + int(np.argmax(column.is_null().to_numpy(zero_copy_only=False)))
            raise DataError(
                f"{source.path}: no value in column {name!r} at data row {row}: fill or drop missing values"
            )


def _check_finite(source: Source, values: np.ndarray, rows: int) -> None:
    finite = np.isfinite(values)
    if not finite.all():
        row, index = np.argwhere(~finite)[0]
        raise DataError(
            f"{source.path}: the value in column {source.columns[index]!r} at data row {rows + row + 1} is not a "
            "finite 32-bit float: fill NaN and infinite values, and rescale values above 3.4e38"
        )
