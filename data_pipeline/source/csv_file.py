"""Reads CSV files, plain or gzipped."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.csv as pa_csv

from data_pipeline.errors import DataError
from data_pipeline.source.content import GZIP_TROUBLE, READ_ERRORS, HashingStream, open_content, unreadable
from data_pipeline.source.file_source import BLOCK_BYTES, FileSource
from data_pipeline.source.header import HEAD_BYTES, read_header
from data_pipeline.source.rows import Chunk
from data_pipeline.source.timestamps import has_zone

MISSING = ("", "NA", "N/A", "#N/A", "nan", "NaN", "NAN", "null", "NULL", "None", "-nan")


class CsvSource(FileSource):
    """A CSV file: UTF-8, comma-separated, one header line, one timestamp column, numbers."""

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

    def _read_head(self) -> tuple[list[str], Sequence[str | None] | None]:
        with open(self.path, "rb") as raw, gzip.open(raw) if self.path.name.endswith(".gz") else raw as stream:
            head = stream.read(HEAD_BYTES)
        self._header_bytes = len(head.split(b"\n", 1)[0])
        return read_header(self.path, head)

    def _is_zoned(self, index: int, first: Sequence[str | None] | None) -> bool:
        return first is not None and index < len(first) and has_zone(first[index] or "")

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
                yield self._chunk(batch, rows)
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
