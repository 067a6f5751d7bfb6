"""A text as blocks of whole lines."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pyarrow as pa

from data_pipeline.source.encoding import Utf8Stream

_LINE_END = re.compile(rb"\r\n|\n|\r")


def line_blocks(stream: Utf8Stream, size: int, skip_lines: int) -> Iterator[pa.Buffer]:
    """The bytes of `stream` after its first lines, in blocks of about `size` bytes that end where lines do.

    Blocks without anything but white space are left out. The first lines are no longer than a block.
    """
    rest = b""
    while block := stream.read(size):
        block = rest + block if rest else block
        cut = 1 + (block.rfind(b"\n") if b"\n" in block else block.rfind(b"\r"))
        rest = block[cut:]
        start, skip_lines = _skipped(block[:cut], skip_lines) if skip_lines and cut else (0, skip_lines)
        if start < cut and not _is_space(block, start, cut):
            yield pa.py_buffer(block).slice(start, cut - start)
    if not skip_lines and rest.strip():
        yield pa.py_buffer(rest)


def _is_space(block: bytes, start: int, stop: int) -> bool:
    head = block[start : min(stop, start + 1024)]
    return head.isspace() and block[start:stop].isspace()


def _skipped(block: bytes, lines: int) -> tuple[int, int]:
    """Where the lines after the first `lines` of a block begin, and how many of them it lacks."""
    at = 0
    for end in _LINE_END.finditer(block):
        if not lines:
            break
        at, lines = end.end(), lines - 1
    return at, lines
