"""Opens a file by its ending, as a stream of chunks: timestamps [n] int64 microseconds and values [n, C]."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from data_pipeline.options import DataOptions
from data_pipeline.source.csv_file import CsvSource
from data_pipeline.source.file_source import FileSource
from data_pipeline.source.parquet_file import ParquetSource


def open_source(path: Path, options: DataOptions, only: Sequence[str] | None = None) -> FileSource:
    """The reader for `path`, a file by its ending or a folder of Parquet files. Raises DataError for a wrong header.

    With `only`, it reads these columns in this order.
    """
    reader = ParquetSource if path.name.lower().endswith(".parquet") or path.is_dir() else CsvSource
    return reader(path, options, only)
