"""Imports a folder of station files as one Parquet file: stations side by side on one clock, in bounded memory.

Files are read one after another, several at once. Their blocks wait on disk until it is known which stations stay.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_pipeline.errors import NO_SPACE, DataError
from data_pipeline.pems.folder import StationFile, StationFolder, station_files
from data_pipeline.pems.gaps import PIECE_ROWS, GapFiller
from data_pipeline.pems.parquet_pair import ParquetPair, mask_path
from data_pipeline.pems.report import UNITS, ImportReport, damage_error
from data_pipeline.pems.scratch import BlockScratch, StationTotals
from data_pipeline.pems.station_file import MEASURES, Block, DamagedFile, read_station_file

MAX_READERS = 4
MAX_READING_BYTES = 200 << 20
"""Compressed bytes of the files that are read at a time: memory grows with them."""
READING = 0.9
"""The share of the work that is reading."""

Progress = Callable[[str, float], None]
"""Called with what was done last and the share of all work that is done, 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """What a user asks for. Raises DataError for a value that is not allowed."""

    measure: str = "flow"
    min_observed_pct: float = 0.0
    """Stations that were observed less leave."""
    max_gap: int | None = None
    """Rows that are interpolated at most; None: the kind's own."""
    complete_only: bool = False
    """Leave stations out that still have empty cells."""
    skip_damaged: bool = False
    """Leave damaged files out instead of refusing the folder."""
    replace: bool = False
    """Replace an output that exists."""

    def __post_init__(self) -> None:
        if self.measure not in MEASURES:
            raise DataError(f"--measure {self.measure}: give one of {', '.join(MEASURES)}")
        if not 0 <= self.min_observed_pct <= 100:
            raise DataError(f"--min-observed {self.min_observed_pct:g}: give a percentage from 0 to 100")
        if self.max_gap is not None and not 0 <= self.max_gap <= 10_000:
            raise DataError(f"--max-gap {self.max_gap}: give a number of rows from 0 (fill nothing) to 10000")


def import_folder(folder: Path, out: Path, options: ImportOptions, progress: Progress | None = None) -> ImportReport:
    """Write `out` and its mask from the station files of `folder`, and return what was read, filled and left out.

    Both files appear complete or not at all. Raises DataError: no files, a mixture of districts or kinds, damaged
    files (all are named), an output that exists, no station left, a full disk.
    """
    _check_out(out, options)
    found = station_files(folder)
    say = progress or (lambda _what, _share: None)
    try:
        scratch = BlockScratch(out.parent)
        try:
            return _import(found, out, options, scratch, say)
        finally:
            scratch.close()
    except OSError as error:
        if error.errno in NO_SPACE or "No space left" in str(error):
            raise DataError(f"{out.parent}: no space left for {out.name}: free some, or give another --out") from error
        raise DataError(f"{out}: cannot be written ({error}): give an --out in a folder that you own") from error


def _check_out(out: Path, options: ImportOptions) -> None:
    if not out.name.endswith(".parquet") or out.name == ".parquet":
        raise DataError(f"--out {out}: give a name that ends in .parquet")
    if not out.parent.is_dir():
        raise DataError(f"--out {out}: there is no folder {out.parent}: make it, or give another")
    for path in (out, mask_path(out)):
        if path.is_dir():
            raise DataError(f"--out {out}: {path} is a folder: give another name")
        if path.exists() and not options.replace:
            raise DataError(f"--out {out}: {path.name} exists: give another name, or --force to replace it")


@dataclass(kw_only=True)
class _Read:
    """What was read of all files."""

    totals: StationTotals
    first_s: int | None = None
    """Seconds since 1970, UTC, of the first row."""
    rows: int = 0
    damaged: dict[str, str]
    notes: list[str]
    empty_rows: int = 0


def _import(
    found: StationFolder, out: Path, options: ImportOptions, scratch: BlockScratch, say: Progress
) -> ImportReport:
    read = _read(found, options, scratch, say)
    assert read.first_s is not None
    totals, observed = read.totals, read.totals.observed_pct
    enough = observed >= options.min_observed_pct
    kept = totals.stations[enough & totals.has_values]
    if not len(kept):
        raise DataError(_nothing_left(found, options, totals))
    max_gap = found.kind.max_gap if options.max_gap is None else options.max_gap
    incomplete: dict[int, int] = {}
    if options.complete_only:
        empty = _empty_by_station(scratch, kept, max_gap)
        incomplete = {int(kept[at]): int(empty[at]) for at in np.flatnonzero(empty)}
        kept = kept[empty == 0]
        if not len(kept):
            raise DataError(_none_complete(found, read.damaged, max_gap, int(empty.min())))
    report = ImportReport(
        out=out, mask=mask_path(out), measure=options.measure, unit=UNITS[options.measure].format(found.kind.interval),
        district=found.district, kind=found.kind.name, step_minutes=found.kind.step_minutes, files=len(found.files),
        first_day=found.files[0].start, stop_day=found.files[-1].stop, first_s=read.first_s, rows=read.rows,
        stations=len(kept), min_observed_pct=options.min_observed_pct, max_gap=max_gap,
        under_observed={int(totals.stations[at]): float(observed[at]) for at in np.flatnonzero(~enough)},
        without_values=tuple(totals.stations[enough & ~totals.has_values].tolist()), incomplete=incomplete,
        missing_periods=tuple(found.missing_periods()), ignored=found.ignored, damaged=read.damaged,
        notes=tuple(read.notes), empty_rows=read.empty_rows,
    )  # fmt: skip
    filler = GapFiller(max_gap, len(kept))
    with ParquetPair(out, kept, read.first_s, 60 * found.kind.step_minutes, report.as_metadata()) as pair:
        rows = 0
        for piece in scratch.rows(kept, PIECE_ROWS):
            for decided in filler.add(piece):
                pair.write(*decided)
            rows += len(piece)
            say(f"wrote {rows:,} of {read.rows:,} rows", READING + (1 - READING) * rows / read.rows)
        for decided in filler.rest():
            pair.write(*decided)
    return report.with_gaps(filler, kept)


def _read(found: StationFolder, options: ImportOptions, scratch: BlockScratch, say: Progress) -> _Read:
    """Read all files into `scratch`. Raises DataError with all that are damaged, unless these may be left out."""
    read = _Read(totals=StationTotals(), damaged={}, notes=[])
    done, size = 0, max(1, sum(file.size for file in found.files))
    for file, block in _blocks(found.files, options.measure):
        done += file.size
        say(f"read {file.path.name}", READING * done / size)
        if isinstance(block, DamagedFile):
            read.damaged[file.path.name] = str(block)
            continue
        if read.damaged and not options.skip_damaged:
            continue  # the import fails, once every file was looked at
        read.notes += [f"{file.path.name}: {note}" for note in block.notes]
        read.empty_rows += block.empty_rows
        read.first_s = block.first_s if read.first_s is None else read.first_s
        first_row = (block.first_s - read.first_s) // (60 * found.kind.step_minutes)
        read.rows = first_row + len(block.values)
        read.totals.add(block)
        scratch.append(first_row, block)
    if read.damaged and (read.first_s is None or not options.skip_damaged):
        raise damage_error(found, read.damaged)
    return read


def _empty_by_station(scratch: BlockScratch, stations: np.ndarray, max_gap: int) -> np.ndarray:
    """How many cells of each station [K] stay empty."""
    filler = GapFiller(max_gap, len(stations))
    for piece in scratch.rows(stations, PIECE_ROWS):
        for _ in filler.add(piece):
            pass
    for _ in filler.rest():
        pass
    return filler.empty_by_station


def _blocks(files: tuple[StationFile, ...], measure: str) -> Iterator[tuple[StationFile, Block | DamagedFile]]:
    """Each file's block or damage, in order. At most one block more than there are readers is in memory."""
    largest = max(1, *(file.size for file in files))
    readers = max(1, min(MAX_READERS, os.cpu_count() or 1, MAX_READING_BYTES // largest))
    with ThreadPoolExecutor(readers) as pool:
        waiting: deque[tuple[StationFile, Future[Block]]] = deque()
        try:
            for file in files:
                waiting.append((file, pool.submit(read_station_file, file, measure)))
                if len(waiting) > readers:
                    yield _result(*waiting.popleft())
            while waiting:
                yield _result(*waiting.popleft())
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _result(file: StationFile, future: Future[Block]) -> tuple[StationFile, Block | DamagedFile]:
    try:
        return file, future.result()
    except DamagedFile as damage:
        return file, damage


def _nothing_left(found: StationFolder, options: ImportOptions, totals: StationTotals) -> str:
    if not totals.has_values.any():
        return f"{found.path}: no station has a {options.measure}: give another --measure"
    best = totals.observed_pct[totals.has_values].max()
    return (
        f"{found.path}: no station has --min-observed {options.min_observed_pct:g} %: the best one has {best:.1f} %: "
        "give a lower percentage"
    )


def _none_complete(found: StationFolder, damaged: Mapping[str, str], max_gap: int, fewest: int) -> str:
    periods = found.missing_periods()
    count = len(periods) + len(damaged)
    gone = f" ({count} file{'s' * (count > 1)} not there or left out)" if count else ""
    return (
        f"{found.path}: no station is without a gap of over {max_gap} rows{gone}; the best one has {fewest:,} empty "
        "cells: leave --complete-only out, or give a larger --max-gap"
    )
