"""Lays out the series of a long format: one after another, all split at the same dates.

The dates are those at which the split rule divides the time from the first row of any series to the last.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_pipeline.datasets import DatasetSpec
from data_pipeline.errors import DataError
from data_pipeline.faults import Faults
from data_pipeline.series.arrow_file import Scratch
from data_pipeline.series.fill import FILLING, Filled, copy, drop, fill, max_gap, refuse_long_gaps
from data_pipeline.series.groups import few
from data_pipeline.series.layout import Layout, Placed, gap_note, split_rows
from data_pipeline.series.rows import CompleteRows
from data_pipeline.series.steps import RowStep, Step, time_text, to_clock
from data_pipeline.series.table import Part, Table
from data_pipeline.series.timeaxis import MAX_MISSING_FRACTION

LEAST_TRAIN_ROWS = 2
"""Fewer have no deviation to scale by."""


@dataclass(kw_only=True)
class _Axis:
    """The rows of one series among the steps from the first row of any series to the last."""

    part: Part
    first: int
    """Step of its first row."""
    places: np.ndarray
    """[n] int64, steps of its rows after its first one."""

    @property
    def count(self) -> int:
        """Its rows and those that it lacks."""
        return int(self.places[-1]) + 1

    @property
    def missing_rows(self) -> int:
        return self.count - len(self.places)


def lay_out_groups(spec: DatasetSpec, label: str, table: Table, folder: Path, opened: ExitStack) -> Layout:
    """Place all series of `table`, but those with too few training rows, which a note names.

    `opened` closes the files that are made in `folder`. Raises DataError for a wrong time axis, too few rows, and a gap
    that is too long to fill.
    """
    step, way = table.axis.step, spec.options.missing
    every = _axes(label, table, step)
    if way == "refuse":
        _check_missing(label, every, step)
    total = max(axis.first + axis.count for axis in every)
    origin = min(int(axis.part.rows.timestamps(0, 1)[0]) for axis in every)
    cuts = split_rows(spec, label, total, table, lambda row: int(step.at(origin, np.array([row]))[0]))
    filling = way in FILLING and bool(table.missing_cells or any(axis.missing_rows for axis in every))
    scratch = Scratch(folder / "groups", len(table.columns), masked=filling)
    opened.callback(scratch.close)
    placed, short, filled, faults, kept = [], [], Filled(), Faults(label), list[np.ndarray]()
    for axis in every:
        if min(axis.count, cuts["train"][1] - axis.first) < LEAST_TRAIN_ROWS:
            short.append(axis.part.id or "")
        elif filling:
            placed.append(_fill(axis, cuts, spec, step, folder, scratch, filled, faults))
        else:
            kept.append(_copied(axis, step, scratch, dropping=way == "drop" and table.missing_cells > 0))
            placed.append(_place(axis, kept[-1], cuts, scratch))
    faults.raise_if_any()
    if not placed:
        raise DataError(f"{label}: no series has {LEAST_TRAIN_ROWS} training rows: give longer series")
    notes = [_split_note(origin, cuts, table), filled.note(way)]
    if short:
        notes.append(f"{len(short)} series have under {LEAST_TRAIN_ROWS} training rows and are left out: {few(short)}")
    if gaps := sum(int((np.diff(places) > 1).sum()) for places in kept):
        notes.append(gap_note(gaps, sum(int((np.diff(places) - 1).sum()) for places in kept)))
    if way == "drop" and table.missing_cells:
        dropped = sum(axis.part.rows.count for axis in every) - scratch.rows
        notes.append(f"data.missing=drop: {dropped:,} rows with a missing value dropped")
    return Layout(scratch=scratch, placed=tuple(placed), step=step, notes=tuple(note for note in notes if note))


def _axes(label: str, table: Table, step: Step) -> list[_Axis]:
    origin = min(int(part.rows.timestamps(0, 1)[0]) for part in table.parts)
    every = []
    for part in table.parts:
        times = part.rows.timestamps(0, part.rows.count)
        fits = step.fits(times)
        places = step.positions(times)
        if not fits.all() or (np.diff(places) < 1).any():
            at = int(np.argmin(fits)) if not fits.all() else int(np.argmax(np.diff(places) < 1)) + 1
            raise DataError(
                f"{label}: data row {part.rows.file_row(at, 0) + 1}: the time {time_text(times[at])} of series "
                f"{part.id!r} does not fit one row per {step.text}, which the longest series has: resample it, leave "
                "the series out, or say that rows are equidistant whatever their times are: data.step=row"
            )
        first = 0 if isinstance(step, RowStep) else int(step.positions(np.array([origin, times[0]]))[1])
        every.append(_Axis(part=part, first=first, places=places))
    return every


def _check_missing(label: str, every: list[_Axis], step: Step) -> None:
    missing, rows = sum(axis.missing_rows for axis in every), sum(len(axis.places) for axis in every)
    if missing > MAX_MISSING_FRACTION * rows:
        worst = max(every, key=lambda axis: axis.missing_rows)
        raise DataError(
            f"{label}: {missing:,} rows are missing at one row per {step.text}, {rows:,} are there, most are missing "
            f"in series {worst.part.id!r}: at most {MAX_MISSING_FRACTION:.0%} may be missing; set "
            "data.missing=interpolate, or leave the series out"
        )


def _own(axis: _Axis, cuts: dict[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    """The steps [start, stop) of each split, counted from the first row of the series, which all lie in it."""
    return {
        split: (min(max(start - axis.first, 0), axis.count), min(max(stop - axis.first, 0), axis.count))
        for split, (start, stop) in cuts.items()
    }


def _fill(
    axis: _Axis,
    cuts: dict[str, tuple[int, int]],
    spec: DatasetSpec,
    step: Step,
    folder: Path,
    scratch: Scratch,
    filled: Filled,
    faults: Faults,
) -> Placed:
    rows, own, start = CompleteRows(axis.part.rows, step, folder), _own(axis, cuts), scratch.rows
    longest, of = max_gap(spec.options), f"series {axis.part.id!r}: "
    if not refuse_long_gaps(rows, longest, faults, of):
        try:
            fill(rows, own, spec.options.missing, longest, scratch, filled)
        except DataError as error:
            raise DataError(f"{faults.source}: {of}{error}") from error
    bounds = {split: (start + first, start + stop) for split, (first, stop) in own.items()}
    return Placed(
        part=axis.part,
        rows=(start, scratch.rows),
        bounds=bounds,
        train_rows_read=rows.given_before(own["train"][1]),
        read_row=rows.given_before,
    )


def _copied(axis: _Axis, step: Step, scratch: Scratch, *, dropping: bool) -> np.ndarray:
    """Append the rows, and return their places [n]."""
    if not dropping:
        copy(axis.part.rows, scratch)
        return axis.places
    kept, _, _ = drop(axis.part.rows, step, scratch)
    return np.asarray(axis.places[kept])


def _place(axis: _Axis, places: np.ndarray, cuts: dict[str, tuple[int, int]], scratch: Scratch) -> Placed:
    start, own = scratch.rows - len(places), _own(axis, cuts)

    def row(place: int) -> int:
        return start + int(np.searchsorted(places, place))

    return Placed(
        part=axis.part,
        rows=(start, scratch.rows),
        bounds={split: (row(first), row(stop)) for split, (first, stop) in own.items()},
        train_rows_read=int(np.searchsorted(axis.places, own["train"][1])),
        read_row=lambda at: int(np.searchsorted(axis.places, places[at])),
    )


def _split_note(origin: int, cuts: dict[str, tuple[int, int]], table: Table) -> str:
    starts, step = np.array([cuts["validation"][0], cuts["test"][0]]), table.axis.step
    if isinstance(step, RowStep):
        rows = f"validation from row {starts[0] + 1:,}, test from {starts[1] + 1:,}"
        return f"all series are split at the same rows: {rows}"
    validation, test = (time_text(time) for time in to_clock(step.at(origin, starts), table.axis.clock))
    return f"all series are split at the same dates: validation from {validation}, test from {test}"
