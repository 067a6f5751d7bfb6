"""Gives cells without a value one, or drops their rows.

A gap is a run of rows without a value in one column; a row that the time axis lacks has none in any. The rows of each
split are filled from rows of the same split. So a gap at the start of a split takes the first value after it, and one
at its end the last value before it.

Shapes: n rows, C columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from data_pipeline.errors import DataError
from data_pipeline.faults import Faults
from data_pipeline.options import DataOptions
from data_pipeline.series.arrow_file import Scratch
from data_pipeline.series.rows import CompleteRows, Rows
from data_pipeline.series.steps import Step

FILLING = ("interpolate", "ffill")
DEFAULT_MAX_GAP = 24
"""Rows: a day of hours. Over a longer gap a line or a repeated value has little to do with the series."""
NO_SPLIT = "no split"


@dataclass(kw_only=True)
class Filled:
    """What was filled in one series or in several."""

    rows: int = 0
    """Inserted ones."""
    cells: dict[str, int] = field(default_factory=dict)
    """Of each split, those of inserted rows with them."""
    at_start: int = 0
    """Cells at the start of a split, which take the first value after them."""

    def add(self, split: str, cells: int) -> None:
        """Count the filled cells of a split."""
        self.cells[split] = self.cells.get(split, 0) + cells

    def note(self, way: str) -> str | None:
        """What was filled, in one line; None if nothing was."""
        total = sum(self.cells.values())
        if not total:
            return None
        where = ", ".join(f"{count:,} in {split}" for split, count in self.cells.items() if count)
        edge = f"; {self.at_start:,} at the start of a split take the first value after them" if self.at_start else ""
        rows = f" {self.rows:,} missing rows inserted;" if self.rows else ""
        return (
            f"data.missing={way}:{rows} {total:,} cells filled ({where}){edge}; those of train enter its loss, "
            "and no validation or test error counts a filled target"
        )


def max_gap(options: DataOptions) -> int:
    """The longest gap in rows that is filled. Raises DataError if `data.max_gap` is given where nothing is filled."""
    if options.max_gap is None:
        return DEFAULT_MAX_GAP
    if options.missing not in FILLING:
        raise DataError(
            f"data.max_gap={options.max_gap} is given, but data.missing={options.missing} fills nothing: leave it out, "
            f"or set data.missing={' or '.join(FILLING)}"
        )
    if options.max_gap < 1:
        raise DataError(f"data.max_gap is {options.max_gap}: give at least 1 row")
    return options.max_gap


def refuse_long_gaps(rows: CompleteRows, longest: int, faults: Faults, of: str = "") -> bool:
    """Add a fault for each column with a gap of over `longest` rows, naming the first of its longest ones.

    `of` names the series, where a file holds several. Returns whether there was any.
    """
    lengths, starts = _longest_gaps(rows)
    wrong = np.flatnonzero(lengths > longest)
    same = len(wrong) > 1 and len(wrong) == len(lengths) and len({*zip(lengths, starts, strict=True)}) == 1
    for column in wrong[:1] if same else wrong:
        length, start = int(lengths[column]), int(starts[column])
        when = str(rows.timestamps(start, start + 1).view("datetime64[us]").astype("datetime64[s]")[0])
        faults.add(
            "gap",
            f"{of}no value in {length:,} rows in a row, from {when.replace('T', ' ')}",
            f"at most {longest} are filled; set data.max_gap={length} or data.missing=drop, or give the longest part "
            "without such a gap",
            column=None if same else rows.columns[column],
        )
    return bool(wrong.size)


def fill(
    rows: CompleteRows, bounds: Mapping[str, tuple[int, int]], way: str, longest: int, target: Scratch, filled: Filled
) -> None:
    """Append all rows to `target`, with a value in every cell. No gap is longer than `longest` rows.

    `bounds` are rows [start, stop) of each split among `rows`. Raises DataError for a split without any value.
    """
    stop = max(stop for _, stop in bounds.values())
    segments = {**bounds, NO_SPLIT: (stop, rows.count)}
    for split, (first, last) in segments.items():
        for start, end in rows.spans(first, last):
            before, after = max(first, start - longest), min(last, end + longest)
            values = rows.values(before, after)
            missing = np.isnan(values)
            for column in np.flatnonzero(missing.any(axis=0)):
                there = np.flatnonzero(~missing[:, column])
                if not there.size:
                    raise DataError(
                        f"column {rows.columns[column]!r} has no value in the rows of {split}: give more rows, or set "
                        "data.ignore to leave the column out"
                    )
                _fill_column(values[:, column], there, way)
                filled.at_start += int(max(0, min(there[0], end - before) - (start - before))) if before == first else 0
            core = slice(start - before, end - before)
            filled.add(split, int(missing[core].sum()))
            target.append(rows.timestamps(start, end), values[core], missing[core])
    filled.rows += rows.count - rows.given.count


def drop(rows: Rows, step: Step, target: Scratch) -> tuple[np.ndarray, int, int]:
    """Append the rows without a missing cell to `target`.

    Returns which rows those are, as their numbers [n]; then the gaps that they leave, and the rows missing in these.
    """
    kept, gaps, missing_rows, last_us = [], 0, 0, None
    for start, stop in rows.spans():
        values = rows.values(start, stop)
        whole = ~np.isnan(values).any(axis=1)
        times = rows.timestamps(start, stop)[whole]
        target.append(times, values[whole])
        kept.append(start + np.flatnonzero(whole))
        if times.size:
            moves = np.diff(step.positions(times if last_us is None else np.concatenate(([last_us], times))))
            gaps, missing_rows = gaps + int((moves > 1).sum()), missing_rows + int((moves - 1).sum())
            last_us = int(times[-1])
    return np.concatenate(kept), gaps, missing_rows


def copy(rows: Rows, target: Scratch) -> None:
    """Append all rows to `target`."""
    for start, stop in rows.spans():
        values = rows.values(start, stop)
        target.append(rows.timestamps(start, stop), values, np.zeros(values.shape, bool) if target.masked else None)


def _fill_column(values: np.ndarray, there: np.ndarray, way: str) -> None:
    """Fill the NaNs of `values` [n] in place from those at the rows `there`. Outside of them, the nearest is taken."""
    at = np.arange(len(values))
    if way == "interpolate":
        values[:] = np.interp(at, there, values[there].astype(np.float64))
    else:
        values[:] = values[there[np.maximum(np.searchsorted(there, at, side="right") - 1, 0)]]


def _longest_gaps(rows: CompleteRows) -> tuple[np.ndarray, np.ndarray]:
    """The length [C] of each column's longest gap, and the row [C] at which it starts."""
    lengths = np.zeros(len(rows.columns), np.int64)
    starts = np.zeros(len(rows.columns), np.int64)
    last = np.full(len(rows.columns), -1)  # the last row with a value
    for start, stop in rows.spans():
        there = ~np.isnan(rows.values(start, stop))
        at = np.arange(start, stop)[:, None]
        before = np.maximum(np.maximum.accumulate(np.where(there, at, -1), axis=0), last)
        runs = at - before
        longest = runs.max(axis=0)
        longer = longest > lengths
        starts[longer] = before[runs.argmax(axis=0), np.arange(len(longest))][longer] + 1
        lengths = np.maximum(lengths, longest)
        last = before[-1]
    return lengths, starts
