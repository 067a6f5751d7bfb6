"""Reads text files of separated values, plain or gzipped."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator, Sequence

import pyarrow as pa

from data_pipeline.errors import DataError
from data_pipeline.source.block_reader import BlockReader
from data_pipeline.source.columns import Column, named
from data_pipeline.source.content import GZIP_TROUBLE, READ_ERRORS, HashingStream, is_gzip, open_content, unreadable
from data_pipeline.source.dialect import SEPARATORS, Dialect, find_dialect
from data_pipeline.source.encoding import UTF_8, Utf8Stream, decode_head, find_encoding, wrong_encoding
from data_pipeline.source.file_source import BLOCK_BYTES, FileSource
from data_pipeline.source.line_blocks import line_blocks
from data_pipeline.source.rows import Chunk
from data_pipeline.source.wrong_rows import WrongRows

HEAD_BYTES = 1 << 20


class CsvSource(FileSource):
    """A text file: a header line, one row per line, at most one column of times, numbers."""

    _dialect: Dialect
    _content: HashingStream
    _text: Utf8Stream

    def chunks(self) -> Iterator[Chunk]:
        """Every row, in order, without those that become faults. Raises DataError where reading cannot go on."""
        roles, wrong = self._roles, WrongRows(self._dialect.separator)
        types = {str(column.index): pa.string() if column.kind == "truth" else pa.float64() for column in roles.values}
        types |= {
            str(column.index): pa.string() for column in (roles.time, roles.clock, roles.id) if column is not None
        }
        done = 0
        try:
            for batch in self._batches(types, wrong):
                yield self._read(batch, done, wrong)
                done += batch.num_rows
        except READ_ERRORS as error:
            raise self._refusal(error) from error
        wrong.tell(self.faults, self._empty_rows, len(self.names))
        self._finish()
        self._tell_encoding()

    def sha256(self) -> str:
        """The sha256 of the content. Read `chunks` to its end first."""
        digest = self._content.hexdigest_of_all()
        self._content.close()
        return digest

    def _read_head(self) -> list[Column]:
        with open(self.path, "rb") as raw, gzip.open(raw) if is_gzip(self.path) else raw as stream:
            head = stream.read(HEAD_BYTES)
        self._encoding = find_encoding(self.path, head, self.options.encoding)
        text = decode_head(self.path, head, self._encoding)
        self._dialect = found = find_dialect(self.path, text, self.options, complete=len(head) < HEAD_BYTES)
        self.marks = found.marks
        self._header_bytes = len("".join(found.names)) + len(found.names)
        self._tell_dialect(found)
        first = list(zip(*found.rows, strict=True)) if found.rows else [()] * len(found.names)
        return named(self.path, found.names, first, [("text", "text")] * len(found.names))

    def _tell_dialect(self, found: Dialect) -> None:
        self.reading |= {"separator": SEPARATORS.get(found.separator, found.separator), "decimal": found.marks.decimal}
        self.notes += found.notes
        said = any("separator" in note for note in found.notes)
        if found.separator != "," and self.options.separator is None and not said:
            self.notes.append(f"columns separated by {self.reading['separator']}s")
        if found.marks.decimal == "," and self.options.decimal is None:
            self.notes.append("numbers have a decimal comma")
        if found.marks.thousands is not None:
            self.reading["thousands"] = found.marks.thousands
            self.notes.append(f"numbers have {found.marks.thousands!r} between thousands")

    def _tell_encoding(self) -> None:
        name = self._text.encoding
        self.reading["encoding"] = name.upper()
        if name != UTF_8 and self.options.encoding is None:
            self.notes.append(f"encoding {name.upper()}, not UTF-8")

    def _batches(self, types: dict[str, pa.DataType], wrong: WrongRows) -> Iterator[pa.RecordBatch]:
        """The columns of these types, block by block. Those of a block with a cell of another type are text."""
        self._content = open_content(self.path)
        self._text = Utf8Stream(self._content, self._encoding, given=self.options.encoding is not None)
        size = max(BLOCK_BYTES, 16 * self._header_bytes)
        reader = BlockReader(self._dialect, self.marks, types)
        for block in line_blocks(self._text, size, self._dialect.skip_lines):
            yield from reader.read(block, wrong).to_batches()

    def _scan(self, columns: Sequence[Column]) -> Iterator[list[pa.Array]]:
        try:
            wrong = WrongRows(self._dialect.separator)
            for batch in self._batches({str(column.index): pa.string() for column in columns}, wrong):
                yield batch.columns
        finally:
            self._content.close()

    def _read(self, batch: pa.RecordBatch, done: int, wrong: WrongRows) -> Chunk:
        def cells(column: Column | None) -> pa.Array | None:
            return None if column is None else batch.column(str(column.index))

        roles = self._roles
        values = [batch.column(str(column.index)) for column in roles.values]
        clock = cells(roles.clock)
        return self._chunk(
            cells(roles.time), cells(roles.id), values, done, lambda at: wrong.row(done + at), clock=clock
        )

    def _refusal(self, error: BaseException) -> DataError:
        """The error for the user, from the text of an error of Arrow or the system."""
        if isinstance(error, UnicodeDecodeError):
            return wrong_encoding(self.path, self._text.encoding, error)
        text = str(error)
        if re.search(GZIP_TROUBLE, text) or not isinstance(error, pa.ArrowInvalid):
            return unreadable(self.path, error)
        return DataError(f"{self.path}: not a readable CSV ({text[:200]}): give one row per line, and close each quote")
