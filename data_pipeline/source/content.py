"""The bytes of a source file, decompressed and hashed while they are read, and the error for an unreadable file."""

from __future__ import annotations

import gzip
import hashlib
import re
import zlib
from pathlib import Path
from typing import Any

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
        self.closed = False

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes; all remaining bytes if it is negative."""
        data: bytes = self._stream.read(None if size < 0 else size)
        self._hash.update(data)
        return data

    def hexdigest_of_all(self) -> str:
        """The sha256 of the whole stream. Reads the remaining bytes."""
        while self.read(COPY_BYTES):
            pass
        return self._hash.hexdigest()

    def readable(self) -> bool:
        """Always."""
        return True

    def close(self) -> None:
        """Close the underlying stream."""
        self.closed = True
        self._stream.close()


def open_content(path: Path) -> HashingStream:
    """The bytes of `path`, decompressed if it ends in .gz. Raises OSError."""
    file = pa.OSFile(str(path))
    return HashingStream(pa.CompressedInputStream(file, "gzip") if path.name.endswith(".gz") else file)


def content_sha256(path: Path) -> str:
    """The sha256 of the decompressed content of `path`. Raises DataError if it cannot be read."""
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
    if path.name.endswith(".gz") and (gzip_error or re.search(GZIP_TROUBLE, str(error))):
        return DataError(f"{path}: truncated or damaged gzip ({error}): fetch it or compress it again")
    return DataError(f"{path}: cannot be read ({error}): give a readable CSV (UTF-8, comma-separated) or Parquet file")
