"""The encoding of a text file, and its bytes as a stream of UTF-8."""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from data_pipeline.errors import DataError

UTF_8, CP1252 = "utf-8", "cp1252"
MARKS = (
    (b"\xef\xbb\xbf", UTF_8), (b"\xff\xfe\0\0", "utf-32-le"), (b"\0\0\xfe\xff", "utf-32-be"),
    (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"),
)  # fmt: skip
"""Byte order marks."""
_CONTROL = bytes(byte for byte in range(32) if byte not in b"\t\n\r\f")
_LOOK_BYTES = 4096
_BINARIES = (
    (b"PK\x03\x04", "an Excel workbook or a zip file: save its sheet as CSV, or unpack it"),
    (b"\x1f\x8b", "a gzip: let its name end in .gz"),
    (b"PAR1", "a Parquet file: let its name end in .parquet"),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook: save its sheet as CSV"),
)


class Readable(Protocol):
    """A binary stream."""

    def readinto(self, target: memoryview) -> int:
        """Fill the beginning of `target`; how many bytes were written: none at the end."""


def find_encoding(path: Path, head: bytes, given: str | None) -> str:
    """The encoding of a file that begins with `head`: `given`, by its mark, UTF-16 by its zeros, UTF-8, or cp1252.

    Raises DataError for an unknown name, and for bytes that are no text.
    """
    if given is not None:
        try:
            name = codecs.lookup(given).name
            "".encode(name)
        except (LookupError, TypeError) as error:
            raise DataError(
                f"{path}: there is no text encoding {given!r}: --set data.encoding=NAME takes a name that Python "
                "knows, such as utf-8, utf-16 or cp1252"
            ) from error
        return {"utf-8-sig": UTF_8, "utf-16": _utf_16(head)}.get(name, name)
    for mark, name in MARKS:
        if head.startswith(mark):
            return name
    for begin, what in _BINARIES:
        if head.startswith(begin):
            raise DataError(f"{path}: no text but {what}")
    look = head[:_LOOK_BYTES]
    even, odd = look[::2].count(0), look[1::2].count(0)
    if max(even, odd) > 0.3 * len(look) / 2 and min(even, odd) == 0:
        return "utf-16-le" if odd else "utf-16-be"
    if look.translate(None, _CONTROL) != look:
        raise DataError(f"{path}: no text (binary): give a CSV in UTF-8, UTF-16 or cp1252, or a Parquet file")
    try:
        codecs.getincrementaldecoder(UTF_8)().decode(head)
    except UnicodeDecodeError:
        text = head.decode(UTF_8, "replace")
        wrong, right = text.count("\ufffd"), sum(not letter.isascii() for letter in text if letter != "\ufffd")
        return CP1252 if wrong > right else UTF_8  # the reader refuses the wrong ones
    return UTF_8


def _utf_16(head: bytes) -> str:
    return "utf-16-be" if head.startswith(b"\xfe\xff") else "utf-16-le"


def decode_head(path: Path, head: bytes, encoding: str) -> str:
    """The text of `head`, without a mark; a character that is cut at its end is left out. Raises DataError."""
    try:
        return codecs.getincrementaldecoder(encoding)().decode(head).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise wrong_encoding(path, encoding, error) from error


def wrong_encoding(path: Path, encoding: str, error: UnicodeError) -> DataError:
    """The error for bytes that are no text in `encoding`."""
    return DataError(
        f"{path}: no {encoding.upper()} text ({error}): name its encoding, for example --set data.encoding=cp1252, or "
        "save it as UTF-8"
    )


class Utf8Stream:
    """The bytes of `stream` as UTF-8, without a mark.

    A file whose encoding was not given is UTF-8 until the first bytes that are not ASCII: then it is what these are,
    UTF-8 or cp1252. `readinto` raises UnicodeDecodeError for bytes that do not fit.
    """

    def __init__(self, stream: Readable, encoding: str, *, given: bool) -> None:
        self.encoding = encoding
        """What the bytes so far are in."""
        self._stream = stream
        self._may_change = encoding == UTF_8 and not given
        self._decoder: Any = codecs.getincrementaldecoder(encoding)()
        self._ready = b""
        self._at_start, self._at_end = True, False

    def readinto(self, target: memoryview) -> int:
        """Fill the beginning of `target`; how many bytes were written: none only at the end."""
        while not self._ready and not self._at_end:
            size = self._stream.readinto(target)
            self._at_end = not size
            if size and self.encoding == UTF_8 and not self._decoder.getstate()[0] and _is_ascii(target[:size]):
                self._at_start = False
                return size
            self._ready = self._as_utf8(bytes(target[:size]))
        size = min(len(target), len(self._ready))
        target[:size] = self._ready[:size]
        self._ready = self._ready[size:]
        return size

    def _as_utf8(self, raw: bytes) -> bytes:
        pending = self._decoder.getstate()[0]
        try:
            text = self._decoder.decode(raw, not raw)
        except UnicodeDecodeError:
            if not self._may_change:
                raise
            self.encoding, self._decoder = CP1252, codecs.getincrementaldecoder(CP1252)()
            text = self._decoder.decode(pending + raw, not raw)
        if not text.isascii():
            self._may_change = False
        if self._at_start and text:
            self._at_start, text = False, text.removeprefix("\ufeff")
        return str(text).encode(UTF_8)


def _is_ascii(data: memoryview) -> bool:
    return bool(np.frombuffer(data, np.uint8).max() < 0x80)
