"""The columns of a source file: their names, the one with the timestamps, and the errors for wrong headers."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from data_pipeline.errors import DataError, nearest
from data_pipeline.source.timestamps import to_microseconds_or_none

HEAD_BYTES = 1 << 20
TIMESTAMP_NAMES = ("date", "datetime", "timestamp", "time", "ds")


def read_header(path: Path, head: bytes) -> tuple[list[str], list[str] | None]:
    """Column names, and the fields of the first data row (None if there is none). Raises DataError."""
    if not head.strip():
        raise DataError(f"{path}: the file is empty: give a CSV with a header, a timestamp column and numbers")
    if head[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in head[:4096]:
        raise DataError(f"{path}: not UTF-8 text (UTF-16 or binary): save it as UTF-8 CSV")
    lines = re.split(rb"\r\n|\n|\r", head.removeprefix(b"\xef\xbb\xbf"))
    try:
        text = [line.decode("utf-8") for line in lines[:2]]
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error}): save it as UTF-8 CSV") from error
    if text[0].count('"') % 2:
        raise DataError(f"{path}: a quote in the header is not closed on its line: write the header on one line")
    if len(head) == HEAD_BYTES and len(lines) == 1:
        raise DataError(f"{path}: no line ends in the first {HEAD_BYTES >> 20} MiB: give one row per line")
    try:
        names, *rest = csv.reader(text)
    except csv.Error as error:
        raise DataError(
            f"{path}: its first lines are no CSV ({error}): give short names and one row per line"
        ) from error
    first = rest[0] if rest and rest[0] else None
    if len(names) < 2:
        for mark, mark_name in ((";", "';'"), ("\t", "tab"), ("|", "'|'")):
            if mark in text[0]:
                raise DataError(f"{path}: columns are separated by {mark_name}, not ',': save it comma-separated")
        raise DataError(f"{path}: one column only ({text[0][:60]!r}): give a timestamp column and numbers")
    if all(_is_number(name) or to_microseconds_or_none(name) is not None for name in names):
        raise DataError(f"{path}: the first line holds values, not names: add a header line, e.g. date,load,OT")
    check_names(path, names)
    if len(head) < HEAD_BYTES and not b"".join(lines[1:]).strip():
        raise DataError(f"{path}: a header and no data rows: give the complete file")
    return names, first


def check_names(path: Path, names: list[str]) -> None:
    """Raise DataError for a column without a name, a repeated name, or a single column."""
    if "" in names:
        raise _row_index(path, f"column {names.index('') + 1}")
    if len(set(names)) < len(names):
        repeated = min(name for name, times in Counter(names).items() if times > 1)
        raise DataError(f"{path}: two columns are called {repeated!r}: give every column its own name")
    if len(names) < 2:
        raise DataError(f"{path}: one column only ({names}): give a timestamp column and numbers")


def refuse_row_index(path: Path, columns: Sequence[str]) -> None:
    """Raise DataError for the row index of a pandas frame, which would become a column of values."""
    for name in columns:
        if re.fullmatch(r"__index_level_\d+__", name):
            raise _row_index(path, f"column {name!r}")


def _row_index(path: Path, which: str) -> DataError:
    return DataError(f"{path}: {which} has no name (a row index?): name it, or leave the index out")


def timestamp_index(path: Path, names: list[str], first: Sequence[str | None] | None, wanted: str | None) -> int:
    """The index of the timestamp column: `wanted`, or one with a usual name, or one whose `first` value is a time.

    `names` are the columns, `first` their values in the first row. Raises DataError if there is none.
    """
    if wanted is not None:
        if wanted in names:
            return names.index(wanted)
        raise DataError(
            f"{path}: no column {wanted!r} for timestamps: there are {', '.join(names[:12])}{nearest(wanted, names)}"
        )
    lowered = [name.strip().lower() for name in names]
    for name in TIMESTAMP_NAMES:
        if name in lowered:
            return lowered.index(name)
    for index, field in enumerate((first or [])[: len(names)]):
        if field is not None and not _is_number(field) and to_microseconds_or_none(field) is not None:
            return index
    separator = next((f"; are the columns separated by {mark!r}?" for mark in ";\t|" if mark in names[0]), "")
    raise DataError(
        f"{path}: no timestamp column among {', '.join(names[:12])}{separator}: call it {TIMESTAMP_NAMES[0]!r}, or "
        "name it: --set data.timestamp_column=NAME (or --timestamp-column NAME for data show and predict)"
    )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
