"""The bytes of a source file, decompressed and hashed while they are read, and the error for an unreadable file."""

from __future__ import annotations

import gzip
import hashlib
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa

from data_pipeline.errors import DataError

COPY_BYTES = 4 << 20
GZIP_TROUBLE = "Truncated compressed stream|zlib inflate failed"
READ_ERRORS = (pa.ArrowException, OSError, EOFError, zlib.error, UnicodeDecodeError)


class HashingStream:
    """A readable binary stream that computes the sha256 of the bytes read through it."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._hash = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes; all remaining bytes if it is negative."""
        data: bytes = self._stream.read(None if size < 0 else size)
        self._hash.update(data)
        return data

    def readinto(self, target: memoryview) -> int:
        """Fill the beginning of `target`; how many bytes were written: none at the end."""
        size = int(self._stream.readinto(target))
        self._hash.update(target[:size])
        return size

    def hexdigest_of_all(self) -> str:
        """The sha256 of the whole stream. Reads the remaining bytes."""
        while self.read(COPY_BYTES):
            pass
        return self._hash.hexdigest()

    def close(self) -> None:
        """Close the underlying stream."""
        self._stream.close()


def open_content(path: Path) -> HashingStream:
    """The bytes of `path`, decompressed if it ends in .gz. Raises OSError."""
    file = pa.OSFile(str(path))
    return HashingStream(pa.CompressedInputStream(file, "gzip") if is_gzip(path) else file)


def is_gzip(path: Path) -> bool:
    """Whether the name ends in .gz, in any case."""
    return path.name.lower().endswith(".gz")


def parquet_files(folder: Path) -> list[Path]:
    """The Parquet files in `folder` and below it, in the order of their names: 2 comes before 10.

    Names that begin with `.` or `_` are left out, as other programs do. Raises DataError if there is none.
    """
    found = [path for path in folder.rglob("*") if path.name.lower().endswith(".parquet") and path.is_file()]
    found = [path for path in found if not any(part[0] in "._" for part in path.relative_to(folder).parts)]
    if not found:
        raise DataError(f"{folder} is a folder without Parquet files: give a file, or a folder that holds such files")
    return sorted(found, key=lambda path: [_natural(part) for part in path.relative_to(folder).parts])


def _natural(name: str) -> list[tuple[int, int, str]]:
    parts = re.split(r"(\d+)", name)
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts if part]


def partition_keys(folder: Path, files: Sequence[Path]) -> dict[str, list[str]]:
    """The keys in the names of folders (`year=2020`), each with its value for each of `files`."""
    keys: dict[str, list[str]] = {}
    for file in files if folder.is_dir() else ():
        for part in file.relative_to(folder).parts[:-1]:
            name, mark, value = part.partition("=")
            if mark:
                keys.setdefault(unquote(name), []).append(unquote(value))
    return {name: values for name, values in keys.items() if len(values) == len(files)}


def content_sha256(path: Path) -> str:
    """The sha256 of the decompressed content of `path`; of a folder, that of its Parquet files with their names.

    Raises DataError if something cannot be read.
    """
    if path.is_dir():
        files = parquet_files(path)
        lines = [f"{content_sha256(file)}  {file.relative_to(path).as_posix()}\n" for file in files]
        return hashlib.sha256("".join(lines).encode()).hexdigest()
    try:
        stream = open_content(path)
        try:
            return stream.hexdigest_of_all()
        finally:
            stream.close()
    except READ_ERRORS as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: BaseException) -> DataError:
    """The error for a file that the system or the decompressor refuses."""
    if isinstance(error, PermissionError):
        return DataError(f"{path}: no permission to read it: change its mode or owner, or give another file")
    if isinstance(error, IsADirectoryError):
        return DataError(f"{path} is a folder: give the file in it")
    gzip_error = isinstance(error, EOFError | zlib.error | gzip.BadGzipFile)
    if is_gzip(path) and (gzip_error or re.search(GZIP_TROUBLE, str(error))):
        return DataError(f"{path}: truncated or damaged gzip ({error}): fetch it or compress it again")
    return DataError(f"{path}: cannot be read ({error}): give a readable CSV or Parquet file")
