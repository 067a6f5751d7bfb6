"""Reads CSV and Parquet files as a stream of chunks: timestamps [n] int64 microseconds and values [n, C] float32.

A file is either read exactly or refused with one line.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pa_parquet

from data_pipeline.errors import DataError, nearest
from data_pipeline.timestamps import has_zone, to_microseconds, to_microseconds_or_none

HEAD_BYTES = 1 << 20
BLOCK_BYTES = 4 << 20
TIMESTAMP_NAMES = ("date", "datetime", "timestamp", "time", "ds")
MISSING = ("", "NA", "N/A", "#N/A", "nan", "NaN", "NAN", "null", "NULL", "None", "-nan")
GZIP_TROUBLE = "Truncated compressed stream|zlib inflate failed"
READ_ERRORS = (pa.ArrowException, OSError, EOFError, zlib.error, UnicodeDecodeError)


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Some rows of a file."""

    timestamps: np.ndarray
    """[n] int64, microseconds since 1970, UTC where the file names a zone."""
    values: np.ndarray
    """[n, C] float32, finite; NaN where a value is missing and `only` columns were asked for."""


class HashingStream:
    """A readable binary stream that keeps the sha256 of what was read through it."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._hash = hashlib.sha256()
        self.closed = False

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes, the rest where it is negative."""
        data: bytes = self._stream.read(None if size < 0 else size)
        self._hash.update(data)
        return data

    def hexdigest_of_all(self) -> str:
        """The sha256 of the whole stream; reads what is left of it."""
        while self.read(BLOCK_BYTES):
            pass
        return self._hash.hexdigest()

    def readable(self) -> bool:
        """Always."""
        return True

    def close(self) -> None:
        """Close the stream below."""
        self.closed = True
        self._stream.close()


def open_content(path: Path) -> HashingStream:
    """The bytes of `path`, decompressed where it ends in .gz. Raises OSError."""
    if path.name.endswith(".gz"):
        return HashingStream(pa.CompressedInputStream(pa.OSFile(str(path)), "gzip"))
    return HashingStream(pa.OSFile(str(path)))


def content_sha256(path: Path) -> str:
    """The sha256 of the decompressed content of `path`. Raises DataError where it cannot be read."""
    try:
        stream = open_content(path)
        try:
            return stream.hexdigest_of_all()
        finally:
            stream.close()
    except READ_ERRORS as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: BaseException) -> DataError:
    """The line for a file that the system or the decompressor refuses."""
    if isinstance(error, PermissionError):
        return DataError(f"{path}: no permission to read it: change its mode or owner, or give another file")
    if isinstance(error, IsADirectoryError):
        return DataError(f"{path} is a folder: give the file in it")
    gzip_error = isinstance(error, EOFError | zlib.error | gzip.BadGzipFile)
    if path.name.endswith(".gz") and (gzip_error or re.search(GZIP_TROUBLE, str(error))):
        return DataError(f"{path}: truncated or damaged gzip ({error}): fetch or compress it again")
    return DataError(f"{path}: cannot be read ({error}): give a readable CSV (UTF-8, comma-separated) or Parquet file")


class CsvSource:
    """A CSV file, plain or gzipped: UTF-8, comma-separated, one header line, one timestamp column, numbers."""

    def __init__(self, path: Path, timestamp_column: str | None, only: Sequence[str] | None = None) -> None:
        self.path, self.keeps_missing = path, only is not None
        try:
            with open(path, "rb") as raw, gzip.open(raw) if path.name.endswith(".gz") else raw as stream:
                head = stream.read(HEAD_BYTES)
        except READ_ERRORS as error:
            raise unreadable(path, error) from error
        names, first = _header(path, head)
        self._names = names
        index = _timestamp_index(path, names, first, timestamp_column)
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
        types = {name: pa.float32() for name in self.columns} | {self.timestamp_column: pa.string()}
        reader = pa_csv.open_csv(
            pa.PythonFile(stream, mode="r"),
            read_options=pa_csv.ReadOptions(
                use_threads=False,  # a serial reader knows the row of an error, and holds one block
                block_size=max(BLOCK_BYTES, 16 * self._header_bytes),
                column_names=self._names,
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
            name = self._names[int(column.group(1))]
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
        first = [str(value) for value in head.to_pylist()[0].values()] if head is not None else None
        _check_names(path, schema.names)
        index = _timestamp_index(path, schema.names, first, timestamp_column)
        self.timestamp_column = schema.names[index]
        kind = schema.field(index).type
        self.zoned = kind.tz is not None if pa.types.is_timestamp(kind) else has_zone(first[index] if first else "")
        self.columns = _chosen(path, schema.names, self.timestamp_column, only)
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
                size = max(1, BLOCK_BYTES // (4 * len(self.columns)))
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
        return tuple(name for name in names if name != timestamp_column)
    if missing := [name for name in only if name not in names or name == timestamp_column]:
        there = f"there are {', '.join(names[:12])}{nearest(missing[0], names)}"
        raise DataError(f"{path}: no column {', '.join(map(repr, missing[:8]))}: {there}")
    return tuple(only)


def _chunk(source: Source, batch: pa.RecordBatch, rows: int) -> Chunk:
    path, timestamp, columns = source.path, source.timestamp_column, source.columns
    times = to_microseconds(
        batch.column(timestamp), zoned=source.zoned, source=str(path), column_name=timestamp, first_row=rows + 1
    )
    numbers = [batch.column(name).cast(pa.float32(), safe=False) for name in columns]
    values = pa.record_batch(numbers, names=[str(at) for at in range(len(columns))])
    if source.keeps_missing:
        return Chunk(timestamps=times, values=values.to_tensor(null_to_nan=True, row_major=True).to_numpy())
    if sum(number.null_count for number in numbers):
        at = next(at for at, number in enumerate(numbers) if number.null_count)
        row = int(np.argmax(numbers[at].is_null().to_numpy(zero_copy_only=False)))
        raise DataError(
            f"{path}: no value in column {columns[at]!r} at data row {rows + row + 1}: fill or drop missing values"
        )
    array = values.to_tensor(row_major=True).to_numpy()
    finite = np.isfinite(array)
    if not finite.all():
        row, at = np.argwhere(~finite)[0]
        raise DataError(
            f"{path}: the value in column {columns[at]!r} at data row {rows + row + 1} is not a finite 32-bit float: "
            "fill NaN and infinite values, rescale larger ones than 3.4e38"
        )
    return Chunk(timestamps=times, values=array)


def _header(path: Path, head: bytes) -> tuple[list[str], list[str] | None]:
    """Column names and the fields of the first data row (None: there is none)."""
    if not head.strip():
        raise DataError(f"{path}: the file is empty: give a CSV with a header, a timestamp column and numbers")
    if head[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in head[:4096]:
        raise DataError(f"{path}: not UTF-8 text (UTF-16 or binary): save it as UTF-8 CSV")
    lines = re.split(rb"\r\n|\n|\r", head.removeprefix(b"\xef\xbb\xbf"))
    try:
        text = [line.decode("utf-8") for line in lines[:2]]
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error}): save it as UTF-8 CSV") from error
    if text[0].count('"') % 2:
        raise DataError(f"{path}: a quote in the header is not closed on its line: write the header on one line")
    if len(head) == HEAD_BYTES and len(lines) == 1:
        raise DataError(f"{path}: no line ends in the first {HEAD_BYTES >> 20} MiB: give one row per line")
    names, *rest = csv.reader(text)
    first = rest[0] if rest and rest[0] else None
    if len(names) < 2:
        for mark, called in ((";", "';'"), ("\t", "tab"), ("|", "'|'")):
            if mark in text[0]:
                raise DataError(f"{path}: columns are separated by {called}, not ',': save it comma-separated")
        raise DataError(f"{path}: one column only ({text[0][:60]!r}): a timestamp column and numbers are needed")
    if all(_is_number(name) or to_microseconds_or_none(name) is not None for name in names):
        raise DataError(f"{path}: the first line holds values, not names: add a header line, e.g. date,load,OT")
    _check_names(path, names)
    if len(head) < HEAD_BYTES and not b"".join(lines[1:]).strip():
        raise DataError(f"{path}: a header and no data rows: give the complete file")
    return names, first


def _check_names(path: Path, names: list[str]) -> None:
    if "" in names:
        raise DataError(
            f"{path}: column {names.index('') + 1} has no name (a row index?): name it, or leave the index out"
        )
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
        raise DataError(f"{path}: two columns are called {twice[0]!r}: give every column its own name")
    if len(names) < 2:
        raise DataError(f"{path}: one column only ({names}): a timestamp column and numbers are needed")


def _timestamp_index(path: Path, names: list[str], first: list[str] | None, wanted: str | None) -> int:
    if wanted is not None:
        if wanted in names:
            return names.index(wanted)
        there = f"there are {', '.join(names[:12])}{nearest(wanted, names)}"
        raise DataError(f"{path}: no column {wanted!r} for timestamps: {there}")
    lowered = [name.strip().lower() for name in names]
    for name in TIMESTAMP_NAMES:
        if name in lowered:
            return lowered.index(name)
    for at, field in enumerate((first or [])[: len(names)]):
        if not _is_number(field) and to_microseconds_or_none(field) is not None:
            return at
    other = next((f"; are the columns separated by {mark!r}?" for mark in ";\t|" if mark in names[0]), "")
    raise DataError(
        f"{path}: no timestamp column among {', '.join(names[:12])}{other}: call it {TIMESTAMP_NAMES[0]!r}, or name "
        "it: --set data.timestamp_column=NAME (or --timestamp-column NAME for data show and predict)"
    )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
