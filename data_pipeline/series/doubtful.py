"""Looks for values that may be none: stand-ins for a missing value, and outliers far outside the training range.

They are named and kept. The range is that of nearly all training rows, so an outlier among these does not hide itself.

Shapes: T rows, C columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from data_pipeline.errors import DataError
from data_pipeline.series.arrow_file import Scratch
from data_pipeline.series.groups import Group
from data_pipeline.series.layout import Layout, Placed
from data_pipeline.series.rounding import MOST_LOST
from data_pipeline.series.steps import time_text

STAND_INS = np.array(
    [
        sign * size
        for size in (99.99, 999, 999.9, 999.99, 9999, 9999.9, 99999, 999999, 1e20, 1e30, 9.96921e36, 1.7e38)
        for sign in (-1, 1)
    ],
    np.float32,
)
"""What programs write where they have no value; 9.96921e36 is netCDF's."""
SAMPLE_ROWS, SAMPLE_CELLS = 20_000, 4_000_000
QUANTILES = (0.005, 0.995)
"""Of the training rows: between them lies the range."""
OUTLIER = 100
"""So many times the range away from it, a value is an outlier: rain reaches 20 times."""
STAND_IN = 1
"""So many times the range away from it, a value of STAND_INS is one."""
MOST_NOTES = 6


@dataclass(frozen=True, kw_only=True)
class _Doubtful:
    """The values of one column of one series in one split that are too large, or too small."""

    split: str
    column: int
    row: int
    """The first one's, in the scratch."""
    value: float
    count: int
    stand_in: bool
    std_without: float | None = None
    """Of the training rows without their doubtful values, in train."""


def doubtful_notes(label: str, layout: Layout, groups: list[Group], zone: str | None) -> list[str]:
    """A line for each column and split with doubtful values: the first one's row, their number, their effect.

    At most MOST_NOTES lines, those of the largest values first, and one that counts the rest. Times are told in `zone`.
    Raises DataError for training values so large that standardised 32-bit floats lose the rest of their column.
    """
    found = [
        (one, placed, group)
        for placed, group in zip(layout.placed, groups, strict=True)
        for one in _of_series(layout.scratch, group)
    ]
    found.sort(key=lambda each: -abs(each[0].value))
    for one, placed, group in found:
        if _loses_the_rest(one, group):
            raise DataError(
                f"{label}: {_line(layout.scratch, one, placed, group, zone)}, which 32-bit floats do not tell apart "
                "then: correct it, or empty the cell and set data.missing=interpolate"
            )
    lines = [f"{_line(layout.scratch, *each, zone)}; it is kept" for each in found[:MOST_NOTES]]
    more = len(found) - MOST_NOTES
    return [*lines, *([f"doubtful values in {more:,} more columns or splits"] if more > 0 else [])]


def _of_series(scratch: Scratch, group: Group) -> Iterator[_Doubtful]:
    low, high = _range(scratch, *group.bounds["train"])
    span = high - low
    for split, (first, stop) in group.bounds.items():
        known: dict[int, _Doubtful] = {}
        for start, end in scratch.spans(first, stop):
            values = scratch.array("values", start, end)
            near = (values.min(axis=0) >= low - STAND_IN * span) & (values.max(axis=0) <= high + STAND_IN * span)
            for column in np.flatnonzero(~near):
                of_column = values[:, column]
                doubtful, stand_in = _doubtful(of_column, low[column], high[column])
                if doubtful.any():
                    at = int(doubtful.argmax())
                    before, count = known.get(int(column)), int(doubtful.sum())
                    known[int(column)] = _Doubtful(
                        split=split,
                        column=int(column),
                        row=start + at if before is None else before.row,
                        value=float(of_column[at]) if before is None else before.value,
                        count=count if before is None else before.count + count,
                        stand_in=bool(stand_in[at]) if before is None else before.stand_in,
                    )
        for one in known.values():
            without = _std_without(scratch, first, stop, one.column, low, high) if split == "train" else None
            yield replace(one, std_without=without)


def _std_without(scratch: Scratch, start: int, stop: int, column: int, low: np.ndarray, high: np.ndarray) -> float:
    """The deviation of one column's rows [start, stop) without its doubtful values."""
    count, total, squares, middle = 0, 0.0, 0.0, (low[column] + high[column]) / 2
    for values in scratch.values(start, stop):
        doubtful, _ = _doubtful(values[:, column], low[column], high[column])
        rest = values[~doubtful, column].astype(np.float64) - middle
        count, total, squares = count + len(rest), total + rest.sum(), squares + np.square(rest).sum()
    return float(np.sqrt(max(0.0, squares / count - (total / count) ** 2)))


def _range(scratch: Scratch, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
    """The QUANTILES [C] of at most SAMPLE_ROWS training rows, evenly spaced; of fewer if there are many columns."""
    stride = -(-(stop - start) // max(1000, min(SAMPLE_ROWS, SAMPLE_CELLS // scratch.n_columns)))
    parts = [
        scratch.array("values", first, last)[(start - first) % stride :: stride]
        for first, last in scratch.spans(start, stop)
    ]
    low, high = np.quantile(np.concatenate(parts), QUANTILES, axis=0).astype(np.float64)
    return low, high


def _doubtful(values: np.ndarray, low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
    """Which values [n] are doubtful, and which of them are stand-ins."""
    span, exact = high - low, values.astype(np.float64)
    outside = np.maximum(low - exact, exact - high)
    stand_in = np.isin(values, STAND_INS) & (outside > STAND_IN * span)
    if not span:  # most rows are equal: any other value is far from them
        stand_in &= (exact < min(low, 0)) | (exact >= 1e20)
        return stand_in, stand_in
    return stand_in | (outside > OUTLIER * span), stand_in


def _loses_the_rest(one: _Doubtful, group: Group) -> bool:
    """Whether rounding the standardised rest of the column loses over MOST_LOST of its deviation."""
    rounding = np.finfo(np.float32).eps / 2 * abs(group.mean[one.column])
    return one.std_without is not None and rounding > MOST_LOST * one.std_without > 0


def _line(scratch: Scratch, one: _Doubtful, placed: Placed, group: Group, zone: str | None) -> str:
    name = placed.part.rows.columns[one.column]
    column = f"column {name!r}" if group.id is None else f"column {name!r} of series {group.id!r}"
    row = placed.part.rows.file_row(placed.read_row(one.row - placed.rows[0]), one.column) + 1
    when = time_text(int(scratch.array("timestamp", one.row, one.row + 1)[0]), zone)
    what = "a stand-in for a missing value?" if one.stand_in else "an outlier?"
    many = f"the first of {one.count:,} in {one.split}" if one.count > 1 else f"in {one.split}"
    mean, std = group.mean[one.column], group.std[one.column]
    effect = f"standardised it is {(one.value - mean) / std:.3g}"
    if one.std_without is not None:
        effect = f"the deviation of train is {std:.3g} with such values and {one.std_without:.3g} without"
    return f"{column}, data row {row} ({when}): {one.value:.7g}, {many}: {what} {effect}"
