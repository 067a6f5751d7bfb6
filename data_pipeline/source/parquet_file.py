"""Reads Parquet: a file, or a folder of files that continue each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from operator import add
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pa_parquet

from data_pipeline.errors import DataError
from data_pipeline.options import DataOptions
from data_pipeline.source.columns import Column, Kind, named
from data_pipeline.source.content import READ_ERRORS, content_sha256, parquet_files, partition_keys, unreadable
from data_pipeline.source.file_source import BLOCK_BYTES, FileSource
from data_pipeline.source.rows import Chunk

SAMPLE_CELLS = 50_000


class ParquetSource(FileSource):
    """A Parquet file or a folder of them: at most one column of times, numbers, text that holds either."""

    def __init__(self, path: Path, options: DataOptions, only: Sequence[str] | None = None) -> None:
        self._files = parquet_files(path) if path.is_dir() else [path]
        super().__init__(path, options, only)

    def chunks(self) -> Iterator[Chunk]:
        """Every row, in order, without those that become faults. Raises DataError where reading cannot go on."""
        roles = self._roles
        texts = [column for column in (roles.time, roles.clock, roles.id) if column is not None]
        names = [column.name for column in (*texts, *roles.values)]
        done = 0
        for batch in self._batches(names):
            cells = {column.index: self._cells(batch, column, done) for column in (*texts, *roles.values)}
            for column in texts:
                if column.kind != "time":
                    cells[column.index] = pc.fill_null(_as_text(cells[column.index]), "")
            values = [_as_number(cells[column.index]) for column in roles.values]
            times, clock, ids = (
                None if column is None else cells[column.index] for column in (roles.time, roles.clock, roles.id)
            )
            yield self._chunk(times, ids, values, done, partial(add, done + 1), clock=clock)
            done += batch.num_rows
        self._finish()

    def sha256(self) -> str:
        """The sha256 of the file, or of all files of the folder with their names."""
        return content_sha256(self.path)

    def _read_head(self) -> list[Column]:
        with pa_parquet.ParquetFile(self._files[0]) as file:
            self._schema = file.schema_arrow
        for path in self._files[1:]:
            _check_same_columns(path, self._files[0], self._schema)
        names = list(self._schema.names)
        self._keys = partition_keys(self.path, self._files)
        rows = max(50, SAMPLE_CELLS // max(1, len(names)))
        batch = next(self._batches(names, rows), None)
        kinds: list[tuple[Kind, str]] = [_kind(field.type) for field in self._schema]
        first = [_texts(batch, name, kind) for name, (kind, _) in zip(names, kinds, strict=True)]
        named_keys = [key for key in self._keys if key in (self.options.id_column, *self.options.columns)]
        if other := [key for key in self._keys if key not in named_keys]:
            self.notes.append(f"the folder's keys are left out: {', '.join(other)}")
        if len(self._files) > 1:
            self.notes.append(f"{len(self._files)} files, read in the order of their names")
        count = len(first[0]) if first else 0
        return named(
            self.path,
            [*names, *named_keys],
            [*first, *([self._keys[key][0]] * count for key in named_keys)],
            [*kinds, *(("text", "text") for _ in named_keys)],
        )

    def _arrow_type(self, column: Column) -> pa.DataType | None:
        return self._schema.field(column.index).type if column.kind == "time" else None

    def _batches(self, names: Sequence[str], rows: int | None = None) -> Iterator[pa.RecordBatch]:
        """Batches of these columns, keys of the folder included, file by file."""
        rows = max(1, BLOCK_BYTES // (8 * max(1, len(names)))) if rows is None else rows
        stored = [name for name in names if name in self._schema.names]
        for index, path in enumerate(self._files):
            try:
                with pa_parquet.ParquetFile(path) as file:
                    for batch in file.iter_batches(batch_size=rows, columns=stored):
                        for key in (name for name in names if name not in stored):
                            batch = batch.append_column(key, pa.array([self._keys[key][index]] * batch.num_rows))
                        if batch.num_rows:
                            yield batch
            except READ_ERRORS as error:
                raise unreadable(path, error) from error

    def _cells(self, batch: pa.RecordBatch, column: Column, done: int) -> pa.Array:
        """The cells of a column; of text, those that are no UTF-8 are faults that end the reading."""
        cells = _plain(batch.column(column.name))
        if not pa.types.is_string(cells.type):
            return cells
        try:
            cells.validate(full=True)
            return cells
        except pa.ArrowInvalid:
            texts = [_decoded(cell) for cell in cells.cast(pa.binary()).to_pylist()]
        bad = [at for at, text in enumerate(texts) if text is None]
        self.faults.add(
            "encoding", "the value cannot be read as string (another encoding?)", "write text in UTF-8",
            column=column.name, row=done + bad[0] + 1, count=len(bad),
        )  # fmt: skip
        self.faults.raise_if_any()
        return cells

    def _scan(self, columns: Sequence[Column]) -> Iterator[list[pa.Array]]:
        for batch in self._batches([column.name for column in columns]):
            yield [pc.fill_null(_as_text(_plain(batch.column(column.name))), "") for column in columns]


def _check_same_columns(path: Path, first: Path, schema: pa.Schema) -> None:
    try:
        found = pa_parquet.read_schema(path)
    except READ_ERRORS as error:
        raise unreadable(path, error) from error
    if set(found.names) != set(schema.names):
        odd = sorted(set(found.names) ^ set(schema.names))
        raise DataError(
            f"{path}: its columns are not those of {first.name} ({', '.join(odd[:8])} in one of them only): give all "
            "files of a folder the same columns"
        )
    for name in schema.names:
        if _kind(found.field(name).type)[0] != _kind(schema.field(name).type)[0]:
            raise DataError(
                f"{path}: column {name!r} holds {found.field(name).type}, in {first.name} {schema.field(name).type}: "
                "give all files of a folder the same columns"
            )


def _kind(kind: pa.DataType) -> tuple[Kind, str]:
    """What a column of this type can be, and the type in words."""
    words = str(kind)
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return "number", words
    if pa.types.is_boolean(kind):
        return "truth", words
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return "time", words
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    return ("text" if is_text or pa.types.is_null(kind) else "other"), words


def _plain(column: pa.Array) -> pa.Array:
    """A column without dictionary, and text of any type as `string`."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    is_text = pa.types.is_large_string(column.type) or pa.types.is_string_view(column.type)
    return column.cast(pa.string()) if is_text or pa.types.is_null(column.type) else column


def _as_text(column: pa.Array) -> pa.Array:
    """Text as it is, and numbers as text: whole ones without a fraction."""
    if pa.types.is_string(column.type):
        return column
    if pa.types.is_floating(column.type):
        numbers = column.to_numpy(zero_copy_only=False).astype(np.float64)
        whole = bool(np.all(np.isnan(numbers) | ((numbers == np.floor(numbers)) & (np.abs(numbers) < 2**53))))
        if whole:
            column = pa.array(np.nan_to_num(numbers).astype(np.int64), mask=np.isnan(numbers))
        else:
            return pa.array([None if np.isnan(number) else f"{number:.6f}" for number in numbers], pa.string())
    return column.cast(pa.string())


def _as_number(column: pa.Array) -> pa.Array:
    """Text as it is, and all else as float64."""
    if pa.types.is_string(column.type):
        return pc.fill_null(column, "")
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    return column.cast(pa.float64(), safe=False)


def _texts(batch: pa.RecordBatch | None, name: str, kind: Kind) -> list[str]:
    """The first cells of a column as text; an empty one where there is no value."""
    if batch is None:
        return []
    if kind in ("time", "other"):
        return [""] * batch.num_rows
    column = _plain(batch.column(name))
    if kind == "text":
        return [_decoded(cell) or "" for cell in column.cast(pa.binary()).to_pylist()]
    return [text or "" for text in _as_text(column).to_pylist()]


def _decoded(cell: bytes | None) -> str | None:
    """The text of a cell; None if it is no UTF-8, and an empty one if there is none."""
    try:
        return "" if cell is None else cell.decode()
    except UnicodeDecodeError:
        return None
