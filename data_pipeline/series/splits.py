"""The rows of each split."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from datetime import datetime

import numpy as np

from data_pipeline.errors import DataError
from data_pipeline.series.steps import MICROSECONDS_PER_DAY, Step, from_clock, time_text, to_clock
from data_pipeline.series.windows import SPLITS
from data_pipeline.split_rule import SplitRule

TimeOf = Callable[[int], int]
"""The time of a row, in microseconds."""


def split_bounds(
    rule: SplitRule,
    n_rows: int,
    step: Step,
    *,
    time_of: TimeOf | None = None,
    borders: Sequence[tuple[int, int]] = (),
    zone: str | None = None,
) -> dict[str, tuple[int, int]]:
    """Rows [start, stop) of each split.

    Months are 30 days long (the convention of the ETT papers), and later rows belong to no split. Fractions are rounded
    down for train and test, and validation gets the rest. Dates need `time_of`, and are read on the clock of `zone`; a
    rule of three files needs `borders` too: the first row and the first time of each file after the first.

    Raises DataError if a split has no row, and if the rule does not suit the series.
    """
    if rule.unit == "months":
        counts = _months(rule, n_rows, step)
    elif rule.unit == "fraction":
        counts = _fractions(rule, n_rows)
    elif rule.unit == "dates":
        assert time_of is not None
        counts = _by_dates(rule, n_rows, step, time_of, zone)
    else:
        assert time_of is not None
        counts = _by_files(n_rows, step, time_of, borders)
    train, validation, test = counts
    return {
        "train": (0, train),
        "validation": (train, train + validation),
        "test": (train + validation, train + validation + test),
    }


def _months(rule: SplitRule, n_rows: int, step: Step) -> tuple[int, int, int]:
    if step.minutes is None:
        raise DataError(
            f"a split of {rule.text} needs a step of fixed minutes, one row is a {step.text}: split by fractions"
        )
    rows_per_month = 30 * MICROSECONDS_PER_DAY / (60e6 * step.minutes)
    train, validation, test = (round(months * rows_per_month) for months in rule.parts)
    if n_rows < train + validation + test:
        raise DataError(
            f"{n_rows} rows given, but a split of {rule.text} needs {train + validation + test} at one row per "
            f"{step.text}: use the complete file"
        )
    return train, validation, test


def _fractions(rule: SplitRule, n_rows: int) -> tuple[int, int, int]:
    train, test = int(rule.parts[0] * n_rows), int(rule.parts[2] * n_rows)
    validation = n_rows - train - test
    if min(train, validation, test) < 1:
        raise DataError(f"{n_rows} rows given, too few to split {rule.text}: give at least {_rows_needed(rule)}")
    return train, validation, test


def _rows_needed(rule: SplitRule) -> int:
    return max(int(np.ceil(1 / part)) for part in rule.parts)


def _by_dates(rule: SplitRule, n_rows: int, step: Step, time_of: TimeOf, zone: str | None) -> tuple[int, int, int]:
    assert rule.dates is not None
    if step.kind == "row":
        raise DataError(
            f"data.split={'/'.join(rule.dates)} are dates, and rows are equidistant whatever their times are "
            "(data.step=row): split by fractions, as data.split=0.7/0.1/0.2"
        )
    borders = [_microseconds(date, zone) for date in rule.dates]
    train, before_test = (bisect_left(range(n_rows), border, key=time_of) for border in borders)
    counts = train, before_test - train, n_rows - before_test
    for name, rows in zip(SPLITS, counts, strict=True):
        if rows < 1:
            first, last = to_clock(np.array([time_of(0), time_of(n_rows - 1)]), zone)
            raise DataError(
                f"data.split={'/'.join(rule.dates)} leaves no row for {name}: the series lasts from {time_text(first)} "
                f"to {time_text(last)}; give two dates within it"
            )
    return counts


def _by_files(n_rows: int, step: Step, time_of: TimeOf, borders: Sequence[tuple[int, int]]) -> tuple[int, int, int]:
    if step.kind == "row":
        train, before_test = (row for row, _ in borders)
    else:  # rows may have been filled or dropped since they were read
        train, before_test = (bisect_left(range(n_rows), time_us, key=time_of) for _, time_us in borders)
    return train, before_test - train, n_rows - before_test


def _microseconds(date: str, zone: str | None) -> int:
    clock = np.datetime64(datetime.fromisoformat(date), "us").view(np.int64)
    return int(from_clock(np.array([clock]), zone)[0])
