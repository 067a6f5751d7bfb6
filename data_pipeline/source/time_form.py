"""Which form the times of a column have, decided by all of its rows."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pyarrow as pa

from data_pipeline.errors import DataError
from data_pipeline.source.times import CALENDARS, COMPACT, COUNTS, ISO, ORDERS, UNITS, YEAR, Count, Strptime, TimeForm

HELP = "write ISO 8601, e.g. 2016-07-01 00:00:00, or name its form: --set data.time_format=%d.%m.%Y or s or ms"
_CALENDAR = tuple(re.compile(ORDERS[form.order]) for form in CALENDARS)
_SINCE_1973_S = (1e8, 1e10)
"""Counts outside of these seconds are taken for measures unless the unit is named."""


def is_calendar_time(text: str) -> bool:
    """Whether `text` is a time with year, month and day between marks."""
    if not any(pattern.match(text) for pattern in _CALENDAR):
        return False
    return any(form.parse(pa.array([text], pa.string())).ok[0] for form in CALENDARS)


def given_form(source: str, time_format: str) -> TimeForm:
    """The form that data.time_format names. Raises DataError if it is none."""
    if time_format in UNITS:
        return Count(time_format)
    try:
        if "%" in time_format:
            form = Strptime(time_format)
            form.parse(pa.array(["x"]))
            return form
    except ValueError as error:
        raise DataError(
            f"{source}: data.time_format={time_format!r} is no format ({error}): write it as strptime does, e.g. "
            "%d.%m.%Y %H:%M"
        ) from error
    raise DataError(
        f"{source}: data.time_format={time_format!r} is no format: write it as strptime does, e.g. %d.%m.%Y %H:%M, or "
        f"give the unit of a count since 1970 ({', '.join(UNITS)})"
    )


def names_years(name: str) -> bool:
    """Whether a column of this name may hold years."""
    return re.search(r"year|jahr|date|^ds$", name, re.IGNORECASE) is not None


def fitting_forms(texts: Sequence[str], *, counts: bool, years: bool = False) -> list[TimeForm]:
    """The forms that fit most of `texts`, if more than half of them.

    With `counts`, which the column's name allows, digits may be times and the first text is enough; with `years` too,
    four digits.
    """
    column = pa.array(texts, pa.string())
    if not len(column):
        return []
    if ISO.parse(column).ok.all():  # no other form begins with four digits of a year
        return [ISO]
    forms: list[TimeForm] = list(CALENDARS)
    if counts:
        forms += [COMPACT, *COUNTS, *([YEAR] if years else [])]
    fits = {form: _plausible(form, column) for form in forms}
    best = max(ok.mean() for ok in fits.values())
    if best <= 0.5 and not (counts and any(ok[0] for ok in fits.values())):
        return []
    return [form for form, ok in fits.items() if ok.mean() == best]


def _plausible(form: TimeForm, column: pa.Array) -> np.ndarray:
    """Which texts [n] are times in this form, and of our days where they count seconds."""
    parsed = form.parse(column)
    if not isinstance(form, Count):
        return parsed.ok
    low, high = (second * 1_000_000 for second in _SINCE_1973_S)
    return np.asarray(parsed.ok & (parsed.us >= low) & (parsed.us < high))


def decide(
    source: str, column: str, forms: list[TimeForm], first: str, blocks: Callable[[], Iterable[pa.Array]]
) -> TimeForm:
    """The one of `forms` that fits the times in all rows, given in `blocks` without nulls. Stops at a row that decides.

    Raises DataError if several fit all rows, naming what tells them apart.
    """
    if len(forms) == 1:
        return forms[0]
    for block in blocks():
        oks = [form.parse(block).ok for form in forms]
        some = np.logical_or.reduce(oks)
        bad = [int((some & ~ok).sum()) for ok in oks]
        if any(bad):
            fewest = min(bad)
            forms = [form for form, count in zip(forms, bad, strict=True) if count == fewest]
            if len(forms) == 1:
                return forms[0]
    ways = " or ".join(f"--set data.time_format={form.written_as(first)!r}" for form in forms)
    what = " or ".join(form.name for form in forms)
    raise DataError(f"{source}: the times in column {column!r} ({first!r}) can be {what} in every row: say {ways}")
