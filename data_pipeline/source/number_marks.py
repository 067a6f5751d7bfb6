"""Which marks the numbers of a file have: found out from cells of its first rows, or as it was said."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from data_pipeline.errors import DataError
from data_pipeline.options import DataOptions
from data_pipeline.source.cells import NUMBER, NumberMarks

_ONE_MARK = re.compile(r"[+-]?\d*([.,])\d+([eE][+-]?\d+)?|[+-]?\d+([.,])")
_GROUP = re.compile(r"[+-]?[1-9]\d{0,2}([.,])\d{3}")
_GROUPS = re.compile(
    r"[+-]?[1-9]\d{0,2}(?:([.,])\d{3})(?:\1\d{3})*(?!\1)([.,])\d+|[+-]?[1-9]\d{0,2}([.,])\d{3}(?:\3\d{3})+"
)


def is_any_number(cell: str) -> bool:
    """Whether a cell is a number with any of the marks."""
    cell = cell.strip()
    return bool(NUMBER.fullmatch(cell) or _ONE_MARK.fullmatch(cell) or _GROUPS.fullmatch(cell))


def find_marks(path: Path, cells: Iterable[str], options: DataOptions) -> NumberMarks:
    """The marks of the numbers among `cells`: a decimal point unless some cell shows a comma.

    Marks between thousands are known where a cell has both marks, or one twice. Raises DataError if commas can be
    either.
    """
    thousands: set[str] = set()
    points, commas, either = 0, 0, ""
    marked = [cell for cell in cells if "," in cell or "." in cell]
    if not any("," in cell or cell.count(".") > 1 for cell in marked):
        marked = []  # all are numbers with a decimal point, if any
    for cell in map(str.strip, marked):
        if (both := _GROUPS.fullmatch(cell)) is not None:
            thousands.add(both[1] or both[3])
        elif _ONE_MARK.fullmatch(cell) is not None:
            group = _GROUP.fullmatch(cell) is not None
            points += "." in cell and not group
            commas += "," in cell and not group
            either = either or (cell if group and "," in cell else "")
    if points:
        thousands.discard(".")
    if commas:
        thousands.discard(",")
    return _decided(path, thousands, points, commas, either, options)


def _decided(path: Path, marks: set[str], points: int, commas: int, either: str, options: DataOptions) -> NumberMarks:
    if options.decimal is not None:
        other = "," if options.decimal == "." else "."
        thousands = other if other in marks or (other == "," and either) else None
        return NumberMarks(decimal=options.decimal, thousands=thousands)
    if len(marks) == 1:
        (thousands,) = marks
        return NumberMarks(decimal="," if thousands == "." else ".", thousands=thousands)
    if commas > points:
        return NumberMarks(decimal=",")
    if either and not points:
        raise DataError(
            f"{path}: the comma in {either!r} and in all such cells can be a decimal mark or stand between thousands: "
            "say which with --set data.decimal=, or --set data.decimal=."
        )
    return NumberMarks()
