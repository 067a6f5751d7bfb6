"""How a text file is written: separator, header, marks in numbers. Found in its first lines, or given."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from data_pipeline.errors import DataError
from data_pipeline.options import DataOptions
from data_pipeline.source.cells import NumberMarks, is_missing
from data_pipeline.source.number_marks import find_marks, is_any_number
from data_pipeline.source.time_form import is_calendar_time

SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
SAMPLE_CELLS, SAMPLE_ROWS, LOOK_ROWS = 50_000, 1000, 50
_SEP_LINE = re.compile(r'"?sep=(.)"?', re.IGNORECASE)
_LINE_END = re.compile(r"\r\n|\n|\r")


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """How a text file is written."""

    separator: str
    marks: NumberMarks
    skip_lines: int
    """Lines before the first data row."""
    names: list[str]
    """Of all columns; an empty one for a column without a name."""
    rows: list[list[str]]
    """The first data rows, each with a field for each name."""
    notes: tuple[str, ...]


def find_dialect(path: Path, text: str, options: DataOptions, *, complete: bool) -> Dialect:
    """The dialect of a file that begins with `text`, or is it if `complete`.

    Raises DataError if there is no header, no data row, and for a separator or marks that are ambiguous or do not fit.
    """
    if not text.strip():
        raise DataError(f"{path}: the file is empty: give a CSV with a header, a timestamp column and numbers")
    lines = _LINE_END.split(text)
    if not complete:
        if len(lines) == 1:
            raise DataError(f"{path}: no line ends in the first {len(text) >> 20} MiB: give one row per line")
        lines.pop()
    at, said = 0, _SEP_LINE.fullmatch(lines[0])
    notes = []
    if said is not None:
        at = 1
        notes.append(f"first line {lines[0].strip()!r} taken as the separator")
    while at < len(lines) - 1 and not lines[at].strip(' \t,;|"'):
        at += 1
    lines = lines[at:]
    if lines[0].count('"') % 2:
        raise DataError(f"{path}: a quote in the header is not closed on its line: write the header on one line")
    separator = _separator(path, lines, options.separator, said and said[1])
    names, *rows = _fields(path, lines, separator)
    header = 0 if options.step == "row" and _holds_values(names) else 1
    if header:
        names = [name.strip() for name in names]
        if len(names) > 1 and _holds_values(names):
            raise DataError(
                f"{path}: the first line holds values, not names: add a header line, e.g. date,load,OT"
                " (numbers without times and names are read with --set data.step=row)"
            )
    else:
        names, rows = [str(index) for index in range(len(names))], [names, *rows]
    if not rows and complete:
        raise DataError(f"{path}: a header and no data rows: give the complete file")
    names = _fitted(names, rows)
    marks = find_marks(path, (cell for row in rows for cell in row), options)
    fitting = [row for row in rows if len(row) == len(names)]
    if rows and not fitting:
        raise _uneven(path, names, rows[0], separator)
    return Dialect(
        separator=separator, marks=marks, skip_lines=at + header, names=names, rows=fitting, notes=tuple(notes)
    )


def _fields(path: Path, lines: Sequence[str], separator: str, most: int = SAMPLE_ROWS) -> list[list[str]]:
    """The fields of the first lines; blank lines are left out."""
    reader = csv.reader(lines, delimiter=separator)
    try:
        header = next(reader)
        count = min(most, max(LOOK_ROWS, SAMPLE_CELLS // max(1, len(header))))
        return [header, *islice((row for row in reader if row), count)]
    except csv.Error as error:
        raise DataError(
            f"{path}: its first lines are no CSV ({error}): give short names and one row per line"
        ) from error


def _separator(path: Path, lines: Sequence[str], given: str | None, said: str | None) -> str:
    if given is not None:
        given = "\t" if given.lower() in ("tab", "\\t") else given
        if len(given) != 1 or given in '"\r\n' or given.isalnum() or given in ".+-":
            raise DataError(f"{path}: data.separator={given!r}: give one mark, such as ; or tab")
        if given not in lines[0]:
            raise DataError(
                f"{path}: there is no {SEPARATORS.get(given, repr(given))} in its header ({lines[0][:60]!r}), so "
                "data.separator does not fit: leave it out, or name the mark that is there"
            )
        return given
    if said is not None:
        return said
    in_header = [mark for mark in SEPARATORS if mark in lines[0]]
    if len(in_header) == 1:
        return in_header[0]
    found = {mark: _fit(_fields(path, lines, mark, LOOK_ROWS)) for mark in SEPARATORS}
    return max(found, key=lambda mark: found[mark])


def _fit(table: list[list[str]]) -> tuple[bool, float, int]:
    """How well a separator fits: are there columns, the share of cells that are values, the number of columns."""
    header, *rows = table
    width = len(header)
    if not rows:
        return width > 1, 1.0, width
    usual = max(width, min(max(map(len, rows)), width + 1))
    even = sum(len(row) in (width, usual) for row in rows) / len(rows)
    cells = [cell for row in rows for cell in row[:200]]
    good = sum(_is_value(cell) for cell in cells) / len(cells)
    return width > 1, round(even * (0.1 + good), 3), width


def _is_value(cell: str) -> bool:
    return is_any_number(cell) or is_missing(cell) or is_calendar_time(cell)


def _holds_values(names: Iterable[str]) -> bool:
    """Whether what should be names are values: a header line is missing."""
    names = list(names)
    counted = [str(index) for index in range(len(names))], [str(index + 1) for index in range(len(names))]
    return names not in counted and all(is_any_number(name) or is_calendar_time(name) for name in names)


def _uneven(path: Path, names: list[str], row: list[str], separator: str) -> DataError:
    """The error for rows of which none has as many fields as the header."""
    halves = separator == "," and len(row) > len(names) and all(is_any_number(cell) for cell in row[1:])
    return DataError(
        f"{path}: data row 1: there are {len(row)} fields, the header has {len(names)}: "
        + ("if numbers have decimal commas, separate columns by ; or quote the numbers" if halves
           else "give every row the same number of fields, or name their mark with --set data.separator=MARK")
    )  # fmt: skip


def _fitted(names: list[str], rows: list[list[str]]) -> list[str]:
    """Names for each field of the rows, where all rows have more or fewer fields than the header in a known way.

    Programs leave empty fields at the end of each row, or of the header only, or give no name to the row's number.
    """
    widths = {len(row) for row in rows}
    if len(widths) != 1 or len(names) in widths:
        return names
    (width,) = widths
    extra = width - len(names)
    if extra > 0 and not any(any(row[len(names) :]) for row in rows):
        return names + [""] * extra
    if extra == 1 and len(names) > 1 and all(row[0].strip() == str(at) for at, row in enumerate(rows, 1)):
        return ["", *names]
    if extra < 0 and not any(names[width:]):
        return names[:width]
    return names
