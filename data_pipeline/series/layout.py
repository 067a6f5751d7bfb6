"""The second stage of a conversion: rows without gaps in cells, and the split that each belongs to.

Missing cells are filled, or their rows dropped, as `data.missing` says. Splits are known before anything is filled.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.datasets import DatasetSpec
from data_pipeline.errors import DataError
from data_pipeline.faults import Faults
from data_pipeline.series.arrow_file import Scratch
from data_pipeline.series.fill import FILLING, Filled, copy, drop, fill, max_gap, refuse_long_gaps
from data_pipeline.series.published import check_step
from data_pipeline.series.rows import CompleteRows, Rows, ScratchRows
from data_pipeline.series.splits import TimeOf, split_bounds
from data_pipeline.series.steps import Step
from data_pipeline.series.table import Part, Table
from data_pipeline.series.windows import Bounds


@dataclass(frozen=True, kw_only=True)
class Placed:
    """One series, laid out."""

    part: Part
    rows: tuple[int, int]
    """Its rows [start, stop) in the scratch."""
    bounds: Bounds
    train_rows_read: int
    """How many of the rows that were read lie in train."""
    read_row: Callable[[int], int]
    """The row that was read, or for an inserted one the next, of a row counted from its first one."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """All series of a file, laid out."""

    scratch: Scratch
    placed: tuple[Placed, ...]
    step: Step
    notes: tuple[str, ...]


def lay_out(spec: DatasetSpec, label: str, table: Table, folder: Path, opened: ExitStack) -> Layout:
    """Place the only series of `table`. `opened` closes the files that are made in `folder`.

    Raises DataError for a wrong time axis, too few rows, and a gap that is too long to fill.
    """
    (part,) = table.parts
    way = spec.options.missing
    check_borders(label, way, table)
    table.axis.check(may_lack_rows=way != "refuse")
    step = table.axis.step
    check_step(spec, label, step)
    if way in FILLING and (table.missing_cells or table.axis.missing_rows):
        return _filled(spec, label, table, folder, opened)
    if way == "drop" and table.missing_cells:
        return _dropped(spec, label, table, folder, opened)
    bounds = _bounds(spec, label, part.rows, table)
    if isinstance(part.rows, ScratchRows):
        scratch = part.rows.scratch
    else:
        scratch = Scratch(folder / "ordered", len(part.rows.columns))
        opened.callback(scratch.close)
        copy(part.rows, scratch)
    placed = Placed(
        part=part,
        rows=(0, part.rows.count),
        bounds=bounds,
        train_rows_read=bounds["train"][1],
        read_row=lambda row: row,
    )
    notes = () if not table.axis.gaps else (gap_note(table.axis.gaps, table.axis.missing_rows),)
    return Layout(scratch=scratch, placed=(placed,), step=step, notes=notes)


def check_borders(label: str, way: str, table: Table) -> None:
    """Raise DataError if rows of three files would be filled between them, or dropped where they cannot be told."""
    apart = any(table.axis.apart)
    if way in FILLING and apart and (table.missing_cells or table.axis.missing_rows):
        raise DataError(
            f"{label}: data.missing={way} fills no rows between the files of data.split, whose times do not join: fill "
            "them before, or set data.missing=drop"
        )
    if way == "drop" and table.missing_cells and table.borders and table.axis.step.kind == "row":
        raise DataError(
            f"{label}: data.missing=drop with data.step=row and three files: nothing tells where a file begins then; "
            "drop the rows before"
        )


def gap_note(gaps: int, missing_rows: int) -> str:
    """Of rows that are missing and stay so."""
    return f"{missing_rows} rows missing in {gaps} gaps, whose edges are used as neighbours"


def _filled(spec: DatasetSpec, label: str, table: Table, folder: Path, opened: ExitStack) -> Layout:
    (part,), step = table.parts, table.axis.step
    options, filled = spec.options, Filled()
    rows = CompleteRows(part.rows, step, folder)
    bounds = _bounds(spec, label, rows, table)
    faults = Faults(label)
    refuse_long_gaps(rows, max_gap(options), faults)
    faults.raise_if_any()
    scratch = Scratch(folder / "filled", len(rows.columns), masked=True)
    opened.callback(scratch.close)
    try:
        fill(rows, bounds, options.missing, max_gap(options), scratch, filled)
    except DataError as error:
        raise DataError(f"{label}: {error}") from error
    train_rows_read = rows.given_before(bounds["train"][1])
    placed = Placed(
        part=part,
        rows=(0, rows.count),
        bounds=bounds,
        train_rows_read=train_rows_read,
        read_row=rows.given_before,
    )
    note = filled.note(options.missing)
    return Layout(scratch=scratch, placed=(placed,), step=step, notes=(note,) if note else ())


def _dropped(spec: DatasetSpec, label: str, table: Table, folder: Path, opened: ExitStack) -> Layout:
    (part,), step = table.parts, table.axis.step
    scratch = Scratch(folder / "whole", len(part.rows.columns))
    opened.callback(scratch.close)
    kept, gaps, missing_rows = drop(part.rows, step, scratch)
    bounds = _bounds(spec, label, ScratchRows(scratch, part.rows.columns), table)
    train_rows_read = int(kept[bounds["train"][1] - 1]) + 1
    placed = Placed(
        part=part,
        rows=(0, scratch.rows),
        bounds=bounds,
        train_rows_read=train_rows_read,
        read_row=lambda row: int(kept[row]),
    )
    dropped = part.rows.count - scratch.rows
    notes = (f"data.missing=drop: {dropped:,} rows with a missing value dropped ({dropped / part.rows.count:.1%})",)
    return Layout(
        scratch=scratch, placed=(placed,), step=step, notes=notes + ((gap_note(gaps, missing_rows),) if gaps else ())
    )


def _bounds(spec: DatasetSpec, label: str, rows: Rows, table: Table) -> dict[str, tuple[int, int]]:
    return split_rows(spec, label, rows.count, table, lambda row: int(rows.timestamps(row, row + 1)[0]))


def split_rows(spec: DatasetSpec, label: str, rows: int, table: Table, time_of: TimeOf) -> dict[str, tuple[int, int]]:
    """Rows [start, stop) of each split. Raises DataError if there are too few."""
    try:
        return split_bounds(
            spec.split, rows, table.axis.step, time_of=time_of, borders=table.borders, zone=table.axis.clock
        )
    except DataError as error:
        raise DataError(f"{label}: {error}") from error
