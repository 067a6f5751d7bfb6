"""The text of a configuration file, whatever its path leads to: bounded in size and in time."""

from __future__ import annotations

import codecs
import errno
import os
import select
from pathlib import Path

from tune.common.errors import WrongInput

LARGEST_BYTES = 2**20
SENDS_WITHIN_S = 10.0  # a pipe may be one that nobody ever writes to
_BLOCK_BYTES = 2**16
# The marks that Windows programs write first. The one of UTF-32 begins as the one of UTF-16.
_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
          (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))  # fmt: skip


def read_text(path: Path) -> str:
    """The text of a file, pipe or device in UTF-8, or in UTF-16 or UTF-32 with its mark.

    Raises WrongInput, in one line without the path, if it cannot be read, is too large, or is no text.
    """
    try:
        content = _read(path)
    except (OSError, ValueError) as error:  # ValueError: an impossible file name
        raise WrongInput(f"{getattr(error, 'strerror', None) or error}; give a YAML file that can be read") from None
    if len(content) > LARGEST_BYTES:
        raise WrongInput(f"more than {LARGEST_BYTES // 2**20} MiB; that is not the configuration of a sweep")
    encoding = next((name for mark, name in _MARKS if content.startswith(mark)), "utf-8")
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        where = f"line {line}: byte 0x{content[error.start]:02x}: " if encoding.startswith("utf-8") else ""
        shown = encoding.removesuffix("-sig").upper()
        raise WrongInput(f"{where}this is not a text in {shown}; give a YAML file in UTF-8") from None


def _read(path: Path) -> bytes:
    """At most one byte more than LARGEST_BYTES. Opening a pipe waits for nobody, reading it for SENDS_WITHIN_S."""
    content = b""
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb", buffering=0) as file:
        arrives = select.poll()
        arrives.register(file, select.POLLIN)
        while len(content) <= LARGEST_BYTES:
            if not arrives.poll(SENDS_WITHIN_S * 1000):
                raise OSError(errno.ETIMEDOUT, f"nothing came for {SENDS_WITHIN_S:g} s from this pipe or device")
            block = file.read(_BLOCK_BYTES)
            if not block:
                break
            content += block
    return content[: LARGEST_BYTES + 1]
