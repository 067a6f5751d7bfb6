"""What each column of a source file is: the times, the series' names, values, a row's number, or nothing."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

from data_pipeline.errors import DataError, nearest
from data_pipeline.faults import Faults
from data_pipeline.options import DataOptions
from data_pipeline.source.cells import NumberMarks, is_missing
from data_pipeline.source.number_marks import is_any_number
from data_pipeline.source.time_form import fitting_forms, names_years

Kind = Literal["text", "number", "truth", "time", "other"]
TIMESTAMP_NAMES = ("date", "datetime", "timestamp", "time", "ds")
LONG_FORMAT = ("unique_id", "ds", "y")
_COUNTS_TIME = re.compile(r"date|time|stamp|epoch|unix|datum|zeit|year|jahr|^ts$|_ts$", re.IGNORECASE)
_FRAME_INDEX = re.compile(r"__index_level_\d+__")
_INDEX = re.compile(r"(unnamed(: ?\d+)?|index|level_\d+)", re.IGNORECASE)
_WHOLE = re.compile(r"\d+(\.0*)?")
_TIME_OF_DAY = re.compile(r"\s*\d{1,2}(:\d{2}(:\d{2}(\.\d+)?)?(\s*[AaPp][Mm])?|\.\d{2}\.\d{2})\s*")
_FIRST_TIMES = 20
SHOWN = 12
TRUTH = {"true": "1", "false": "0"}


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of the file, and what is in its first rows."""

    index: int
    name: str
    """`Unnamed: INDEX`, as pandas calls it, if the file gives none."""
    unnamed: bool
    kind: Kind
    first: Sequence[str]
    """Its first cells as text; an empty one where there is no value."""
    type: str = "text"
    """In words, for messages."""

    @cached_property
    def texts(self) -> list[str]:
        """The first cells that are not empty."""
        return [text for text in self.first if not is_missing(text)]


@dataclass(kw_only=True)
class Roles:
    """What is read."""

    time: Column | None = None
    clock: Column | None = None
    """The times of day, where `time` has the dates only; the first cells of `time` have both."""
    id: Column | None = None
    values: list[Column] = field(default_factory=list)
    counters: list[Column] = field(default_factory=list)
    """Those of `values` that count rows as far as the first rows tell."""
    notes: list[str] = field(default_factory=list)


def named(path: Path, names: Sequence[str], first: Sequence[Sequence[str]], kinds: Sequence[tuple[Kind, str]]) -> list[
    Column
]:  # fmt: skip
    """The columns of a file by their names, first cells, and kinds with their words. Raises DataError for one twice."""
    times = Counter(name for name in names if name)
    if repeated := [name for name, count in times.items() if count > 1]:
        raise DataError(f"{path}: two columns are called {repeated[0]!r}: give every column its own name")
    return [
        Column(
            index=at, name=name or f"Unnamed: {at}", unnamed=not name, kind=_kind(kind, cells), first=cells, type=words
        )
        for at, (name, cells, (kind, words)) in enumerate(zip(names, first, kinds, strict=True))
    ]


def _kind(kind: Kind, cells: Sequence[str]) -> Kind:
    """The kind of a column of text: its words can be truth values."""
    words = {cell.strip().lower() for cell in cells if not is_missing(cell)} if kind == "text" else set()
    return "truth" if words and words <= set(TRUTH) else kind


def find_roles(
    path: Path,
    columns: Sequence[Column],
    marks: NumberMarks,
    options: DataOptions,
    only: Sequence[str] | None,
    faults: Faults,
    is_empty: Callable[[Column], bool],
) -> Roles:
    """What each of `columns` is. With `only`, the values are these columns in this order.

    `is_empty` looks through all rows of a column. Columns of text are added to `faults`. Raises DataError for columns
    that are not there, and if there are no times or no values.
    """
    roles = Roles()
    ignored = _ignored(path, columns, options, only)
    rest = [column for column in columns if column.name not in ignored]
    roles.time = _time_column(path, rest, options)
    rest = [column for column in rest if column is not roles.time]
    roles.clock = _clock_column(rest, roles.time, options)
    if roles.time is not None and roles.clock is not None:
        rest = [column for column in rest if column is not roles.clock]
        both = [f"{date} {time}".strip() for date, time in zip(roles.time.first, roles.clock.first, strict=True)]
        roles.time = replace(roles.time, first=both)
        roles.notes.append(f"times joined from the columns {roles.time.name!r} and {roles.clock.name!r}")
    roles.id = _id_column(path, rest, roles.time, options)
    rest = [column for column in rest if column is not roles.id]
    if only is not None or options.columns:
        roles.values = _wanted(path, rest, only or options.columns, columns)
    else:
        rest = _without_empty(rest, roles, is_empty)
        roles.values = _without_row_numbers(path, rest, roles)
    roles.values = _without_text(roles, marks, faults, needed=only is not None)
    for column in roles.values:
        if column.kind == "truth":
            roles.notes.append(f"column {column.name!r} holds truth values, read as 0 and 1")
    if not roles.values:
        faults.raise_if_any()
        raise DataError(
            f"{path}: one column only ({', '.join(column.name for column in columns)[:60]!r}): give a timestamp column "
            "and numbers"
        )
    return roles


def _ignored(path: Path, columns: Sequence[Column], options: DataOptions, only: Sequence[str] | None) -> set[str]:
    names = [column.name for column in columns]
    if only is None:
        for name in options.ignore:
            if name not in names:
                raise DataError(f"{path}: data.ignore names no column {name!r}: {_there(names)}{nearest(name, names)}")
            if name == options.timestamp_column or name in options.columns or name == options.id_column:
                raise DataError(f"{path}: data.ignore names {name!r}, which another option reads: leave it out of one")
    return set(options.ignore) - set(only or ())


def _time_column(path: Path, columns: Sequence[Column], options: DataOptions) -> Column | None:
    by_name = {column.name.strip().lower(): column for column in reversed(columns)}
    names = [column.name for column in columns]
    wanted = options.timestamp_column
    if wanted is not None:
        for column in columns:
            if column.name == wanted:
                return column
        raise DataError(f"{path}: no column {wanted!r} for timestamps: {_there(names)}{nearest(wanted, names)}")
    usual = [by_name[name] for name in TIMESTAMP_NAMES if name in by_name]
    others = [column for column in columns if column not in usual]
    for column in usual:
        if _holds_times(column, counts=True):
            return column
    for column in others:
        if _holds_times(column, counts=False):
            return column
    for column in others:
        goes_on = len(set(column.texts[:_FIRST_TIMES])) > 1
        if goes_on and _COUNTS_TIME.search(column.name) and _holds_times(column, counts=True):
            return column
    if options.step == "row":
        return None
    if options.time_format is not None and usual:
        return usual[0]
    held = f" (column {usual[0].name!r} begins with {_begin(usual[0])}, which is no time)" if usual else ""
    if len(names) == 1 and " " in names[0].strip():
        held = "; if a mark such as a space separates columns, --set data.separator=MARK names it"
    raise DataError(
        f"{path}: no timestamp column among {', '.join(names[:SHOWN])}{held}: name it, --set "
        "data.timestamp_column=NAME (with data.time_format if its form is unusual), or say --set data.step=row if the "
        "rows are equidistant and have no times"
    )


def _clock_column(columns: Sequence[Column], time: Column | None, options: DataOptions) -> Column | None:
    """The column of the times of day, if the times are dates only."""
    if time is None or time.kind != "text" or any(":" in text or " " in text.strip() for text in time.texts):
        return None
    if options.time_format is not None and "%H" not in options.time_format and "%I" not in options.time_format:
        return None
    fits = (c for c in columns if c.kind == "text" and c.texts and all(map(_TIME_OF_DAY.fullmatch, c.texts)))
    return next(fits, None)


def _holds_times(column: Column, *, counts: bool) -> bool:
    if column.kind == "time":
        return True
    if column.kind == "number" and not counts:
        return False
    return column.kind in ("text", "number") and bool(
        fitting_forms(column.texts[:_FIRST_TIMES], counts=counts, years=names_years(column.name))
    )


def _id_column(path: Path, columns: Sequence[Column], time: Column | None, options: DataOptions) -> Column | None:
    by_name = {column.name: column for column in columns}
    if options.id_column is not None:
        if options.id_column in by_name:
            return by_name[options.id_column]
        names = [column.name for column in columns]
        raise DataError(
            f"{path}: no column {options.id_column!r} that names series: {_there(names)}"
            f"{nearest(options.id_column, names)}"
        )
    unique_id, ds, y = LONG_FORMAT
    return by_name.get(unique_id) if y in by_name and time is not None and time.name == ds else None


def _wanted(path: Path, rest: Sequence[Column], wanted: Sequence[str], columns: Sequence[Column]) -> list[Column]:
    by_name = {column.name: column for column in columns} | {column.name: column for column in rest}
    names = [column.name for column in rest]
    if missing := [name for name in wanted if name not in names]:
        raise DataError(
            f"{path}: no column {', '.join(map(repr, missing[:8]))}: {_there(names)}{nearest(missing[0], names)}"
        )
    return [by_name[name] for name in wanted]


def _without_empty(columns: Sequence[Column], roles: Roles, is_empty: Callable[[Column], bool]) -> list[Column]:
    """The columns without those that are empty throughout, if these have no name or are the last ones."""
    kept: list[Column] = []
    left_out: list[Column] = []
    for column in reversed(columns):
        looks_empty = (
            column.kind in ("text", "number") and bool(column.first) and not any(text.strip() for text in column.first)
        )
        if looks_empty and (column.unnamed or not kept) and is_empty(column):
            left_out.append(column)
        else:
            kept.append(column)
    if left_out:
        numbers = ", ".join(
            f"{column.index + 1}" if column.unnamed else repr(column.name) for column in reversed(left_out)
        )
        roles.notes.append(f"empty columns left out: {numbers}")
    return kept[::-1]


def _without_row_numbers(path: Path, columns: Sequence[Column], roles: Roles) -> list[Column]:
    kept = []
    for column in columns:
        whole = column.kind in ("text", "number") and all(_WHOLE.fullmatch(text) for text in column.texts)
        counts = whole and _counts(column.texts)
        unnamed = column.unnamed or column.name.lower().startswith("unnamed")
        distinct = whole and len(set(column.texts)) == len(column.texts)
        if _FRAME_INDEX.fullmatch(column.name) or (unnamed and distinct) or (_INDEX.fullmatch(column.name) and counts):
            roles.notes.append(f"column {column.name!r} numbers the rows and is left out")
            continue
        if column.unnamed:
            raise DataError(
                f"{path}: column {column.index + 1} has no name and begins with {_begin(column)}: name it, or leave it "
                f"out with --set data.ignore={column.name!r}"
            )
        if counts and len(column.texts) > 2:
            roles.counters.append(column)
        kept.append(column)
    return kept


def _counts(texts: Sequence[str]) -> bool:
    """Whether whole numbers count from 0 or 1."""
    numbers = [int(float(text)) for text in texts]
    return bool(numbers) and numbers[0] in (0, 1) and numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def _without_text(roles: Roles, marks: NumberMarks, faults: Faults, *, needed: bool) -> list[Column]:
    """The columns of numbers. Those of text become one fault."""
    text = [column for column in roles.values if _is_text(column, marks)]
    if text:
        names = [column.name for column in text]
        what = f"text ({_begin(text[0])})" if text[0].kind == "text" else text[0].type
        faults.add(
            "text",
            f"{'column' if len(text) == 1 else 'columns'} {', '.join(map(repr, names[:SHOWN]))}"
            f"{' ...' if len(names) > SHOWN else ''} {'holds' if len(text) == 1 else 'hold'} {what}, not numbers",
            "give numbers, as the model was trained on" if needed else _without(text, roles),
        )
    return [column for column in roles.values if column not in text]


def _without(text: Sequence[Column], roles: Roles) -> str:
    """What to do about columns of text."""
    names = ",".join(column.name for column in text[:SHOWN])
    remedy = f"leave {'it' if len(text) == 1 else 'them'} out with --set data.ignore={names}, or encode as numbers"
    first = text[0]
    if roles.id is None and _names_series(first):
        remedy += f"; if {first.name!r} names series under each other, say --set data.id_column={first.name}"
    return remedy


def _names_series(column: Column) -> bool:
    """Whether the first cells of text repeat, as the names of series do."""
    named = any(text[0].isalpha() for text in column.texts[:1])
    return named and column.kind == "text" and len(set(column.texts)) <= len(column.texts) / 2


def _is_text(column: Column, marks: NumberMarks) -> bool:
    if column.kind == "text":
        texts = column.texts
        return bool(texts) and not any(marks.is_number(text) or is_any_number(text) for text in texts)
    return column.kind not in ("number", "truth")


def _begin(column: Column) -> str:
    return repr(next(iter(column.texts), "")[:40])


def _there(names: Sequence[str]) -> str:
    return f"there are {', '.join(names[:SHOWN])}"
