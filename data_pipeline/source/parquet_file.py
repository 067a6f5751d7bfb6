"""Reads Parquet files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pa_parquet

from data_pipeline.errors import DataError
from data_pipeline.options import DataOptions
from data_pipeline.source.content import READ_ERRORS, content_sha256, unreadable
from data_pipeline.source.file_source import BLOCK_BYTES, FileSource
from data_pipeline.source.header import check_names
from data_pipeline.source.rows import Chunk
from data_pipeline.source.timestamps import HELP, has_zone, text_or_none


class ParquetSource(FileSource):
    """A Parquet file: one timestamp column, numeric columns."""

    def __init__(self, path: Path, options: DataOptions, only: Sequence[str] | None = None) -> None:
        super().__init__(path, options, only)
        for name in self.columns:
            kind = self._schema.field(name).type
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
                    yield self._chunk(batch, rows)
                    rows += batch.num_rows
        except READ_ERRORS as error:
            raise unreadable(self.path, error) from error

    def sha256(self) -> str:
        """The sha256 of the file."""
        return content_sha256(self.path)

    def _read_head(self) -> tuple[list[str], Sequence[str | None] | None]:
        with pa_parquet.ParquetFile(self.path) as file:
            self._schema = file.schema_arrow
            head = next(file.iter_batches(batch_size=1), None)
        names = self._schema.names
        check_names(self.path, names)
        if head is None or not head.num_rows:
            return names, None
        return names, [text_or_none(column[0]) for column in head.columns]

    def _is_zoned(self, index: int, first: Sequence[str | None] | None) -> bool:
        kind = self._schema.field(index).type
        time = "" if first is None else first[index]
        if time is None:
            raise DataError(
                f"{self.path}: the first value of the timestamp column {self.timestamp_column!r} cannot be read as "
                f"{kind} (another unit, another encoding or an unknown zone?): {HELP}"
            )
        return kind.tz is not None if pa.types.is_timestamp(kind) else has_zone(time)
