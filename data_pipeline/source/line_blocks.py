"""A text as blocks of whole lines."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pyarrow as pa

from data_pipeline.source.encoding import Utf8Stream

_LINE_END = re.compile(rb"\r\n|\n|\r")


def line_blocks(stream: Utf8Stream, size: int, skip_lines: int) -> Iterator[pa.Buffer]:
    """The bytes of `stream` after its first lines, in blocks of about `size` bytes that end where lines do.

    A block holds until the next one is asked for: all lie in the same memory. Blocks of nothing but white space are
    left out. The first lines are no longer than a block.
    """
    memory = bytearray(size + size // 4)
    filled = 0
    while True:
        if filled == len(memory):
            memory = memory + bytearray(len(memory))  # a longer line
        read = stream.readinto(memoryview(memory)[filled:])
        filled += read
        cut = filled if not read else 1 + _last_line_end(memory, filled)
        start = 0
        if skip_lines:
            start, skip_lines = _skipped(memory, cut, skip_lines)
        if start < cut and not _is_space(memory, start, cut):
            yield pa.py_buffer(memoryview(memory)[start:cut])
        if not read:
            return
        memory[: filled - cut] = memory[cut:filled]
        filled -= cut


def _last_line_end(memory: bytearray, stop: int) -> int:
    """Where the last line end is; -1 if there is none."""
    at = memory.rfind(b"\n", 0, stop)
    return at if at >= 0 else memory.rfind(b"\r", 0, stop)


def _is_space(memory: bytearray, start: int, stop: int) -> bool:
    head = memory[start : min(stop, start + 1024)]
    return head.isspace() and memory[start:stop].isspace()


def _skipped(memory: bytearray, stop: int, lines: int) -> tuple[int, int]:
    """Where the lines after the first `lines` begin, and how many of them there are not before `stop`."""
    at = 0
    for end in _LINE_END.finditer(memory, 0, stop):
        if not lines:
            break
        at, lines = end.end(), lines - 1
    return at, lines
