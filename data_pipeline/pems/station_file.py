"""Reads one station file into a block of rows and stations on the UTC clock.

Shapes: R rows of text, T rows of the clock, S stations.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv

from data_pipeline.pems.clock import SKIPPED, FileClock
from data_pipeline.pems.folder import StationFile
from data_pipeline.source.content import GZIP_TROUBLE, READ_ERRORS

BLOCK_BYTES = 4 << 20
FIRST_FIELDS = (
    "timestamp", "station", "district", "freeway", "direction", "lane type", "length", "samples", "% observed", "flow",
    "occupancy", "speed",
)  # fmt: skip
TIME, STATION, OBSERVED = "timestamp", "station", "% observed"
MEASURES = ("flow", "occupancy", "speed")


class DamagedFile(Exception):
    """A station file cannot be used. The message says why, without the file's name."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Block:
    """One measure of one file. A cell without a value is NaN."""

    first_s: int
    """Seconds since 1970, UTC, of row 0."""
    stations: np.ndarray
    """[S] int32, increasing."""
    values: np.ndarray
    """[T, S] float32."""
    observed_pct: np.ndarray
    """[S] float64: "% observed" summed over the T rows; a row that is not there adds 0."""
    empty_rows: int
    """Rows of the clock at which no station has a line."""
    notes: tuple[str, ...]
    """What is unusual in the file and accepted."""


def read_station_file(file: StationFile, measure: str) -> Block:
    """The block of `measure`, one of MEASURES. Raises DamagedFile for a cut or ragged file, or a wrong time or value.

    Memory is bounded by one file's rows: 16 bytes each.
    """
    fields = 0
    try:
        fields = _count_fields(file.path)
        clock = FileClock(file.start, file.stop, file.kind.step_minutes)
        return _block(file, measure, fields, clock)
    except READ_ERRORS as error:
        raise DamagedFile(_reason(str(error), fields)) from error


def _block(file: StationFile, measure: str, fields: int, clock: FileClock) -> Block:
    notes = []
    if fields != file.kind.fields:
        notes.append(f"{fields} fields in a row instead of {file.kind.fields}; the first 12 are read")
    row_R, station_R, observed_R, value_R = _lines(file.path, measure, fields, clock, notes)
    there = row_R != SKIPPED
    if not there.all():
        notes.append(f"{np.count_nonzero(~there)} lines of an hour that clocks skip, left out")
        row_R, station_R, observed_R, value_R = (array[there] for array in (row_R, station_R, observed_R, value_R))
    stations, column_R = np.unique(station_R, return_inverse=True)
    cell_R = row_R * np.int64(len(stations)) + column_R
    if (np.diff(cell_R) <= 0).any():
        keep = _without_repeats(cell_R, observed_R, value_R, station_R)
        if len(keep) < len(cell_R):
            notes.append(f"{len(cell_R) - len(keep)} repeated lines, read once")
        row_R, column_R, cell_R = row_R[keep], column_R[keep], cell_R[keep]
        observed_R, value_R = observed_R[keep], value_R[keep]
    values = np.full((clock.rows, len(stations)), np.nan, np.float32)
    values.reshape(-1)[cell_R] = value_R
    return Block(
        first_s=clock.first_s,
        stations=stations,
        values=values,
        observed_pct=np.bincount(column_R, np.nan_to_num(observed_R), len(stations)),
        empty_rows=clock.rows - len(np.unique(row_R)),
        notes=tuple(notes),
    )


def _lines(path: Path, measure: str, fields: int, clock: FileClock, notes: list[str]) -> tuple[np.ndarray, ...]:
    """Row of the clock, station, "% observed" and value of every line, each [R]."""
    first: list[int] = []
    second: list[int] = []
    parts: list[tuple[np.ndarray, ...]] = []
    codes_of: dict[str, int] = {}
    for batch in _batches(path, measure, fields):
        times = batch.column(TIME)
        if times.null_count or batch.column(STATION).null_count:
            raise DamagedFile("a line without a time or a station")
        texts = times.dictionary.to_pylist()
        new = [text for text in texts if text not in codes_of]
        try:
            rows = clock.rows_of(new)
        except ValueError as error:
            raise DamagedFile(str(error)) from None
        codes_of |= {text: len(codes_of) + at for at, text in enumerate(new)}
        first += rows[0].tolist()
        second += rows[1].tolist()
        code = np.array([codes_of[text] for text in texts], np.int32)[times.indices.to_numpy()]
        numbers = [batch.column(name).to_numpy(zero_copy_only=False) for name in (STATION, OBSERVED, measure)]
        parts.append((code, *numbers))
    if not parts:
        raise DamagedFile("no lines")
    code_R, station_R, observed_R, value_R = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    del parts
    first_row, second_row = np.array(first, np.int32), np.array(second, np.int32)
    row_R = first_row[code_R]
    is_twice = row_R != second_row[code_R]
    if is_twice.any():
        by_station = _goes_back(row_R[~is_twice], station_R[~is_twice]).sum() == 0
        twice = np.flatnonzero(is_twice)
        later = twice[_is_second(row_R[twice], station_R[twice], by_station)]
        row_R[later] = second_row[code_R[later]]
        if not len(later):
            notes.append("the hour that clocks repeat is there once, taken as its first time")
    return row_R, station_R, observed_R, value_R


def _goes_back(row_R: np.ndarray, station_R: np.ndarray) -> np.ndarray:
    """Whether the station goes back from the line before, within one time."""
    return np.concatenate(([False], (np.diff(row_R) == 0) & (np.diff(station_R) < 0)))


def _is_second(row_R: np.ndarray, station_R: np.ndarray, by_station: bool) -> np.ndarray:
    """Which lines of the hour that comes twice belong to its second time, by their order.

    A line does if an earlier line has a later time of that hour, or the same time and the same station. Where the lines
    of a time are ordered by station, it also does after the station went back within that time.
    """
    later_time = np.concatenate(([False], np.diff(row_R) < 0)).cumsum() > 0
    order = np.lexsort((np.arange(len(row_R)), station_R, row_R))
    repeated = np.zeros(len(row_R), bool)
    repeated[order[1:]] = (np.diff(row_R[order]) == 0) & (np.diff(station_R[order]) == 0)
    if not by_station:
        return later_time | repeated
    back = _goes_back(row_R, station_R).cumsum()
    begins = np.concatenate(([True], np.diff(row_R) != 0))
    return later_time | repeated | (back > back[np.maximum.accumulate(np.where(begins, np.arange(len(back)), 0))])


def _without_repeats(cell: np.ndarray, observed: np.ndarray, value: np.ndarray, station: np.ndarray) -> np.ndarray:
    """The lines to keep, if equal lines are read once. Raises DamagedFile for two values in one cell."""
    order = np.argsort(cell, kind="stable")
    repeats = np.concatenate(([False], np.diff(cell[order]) == 0))
    again, before = order[repeats], order[np.flatnonzero(repeats) - 1]
    for array in (value, observed):
        wrong = ~((array[again] == array[before]) | (np.isnan(array[again]) & np.isnan(array[before])))
        if wrong.any():
            line = int(again[wrong].min()) + 1
            raise DamagedFile(f"line {line} repeats a time of station {station[line - 1]} with another value")
    return np.sort(order[~repeats])


def _batches(path: Path, measure: str, fields: int) -> Iterator[pa.RecordBatch]:
    names = [*FIRST_FIELDS, *(f"field {at}" for at in range(len(FIRST_FIELDS) + 1, fields + 1))]
    types = {
        TIME: pa.dictionary(pa.int32(), pa.string()),
        STATION: pa.int32(),
        OBSERVED: pa.float32(),
        measure: pa.float32(),
    }
    with pa.OSFile(str(path)) as file:
        stream = pa.CompressedInputStream(file, "gzip") if path.name.endswith(".gz") else file
        with pa_csv.open_csv(
            stream,
            read_options=pa_csv.ReadOptions(use_threads=False, block_size=BLOCK_BYTES, column_names=names),
            convert_options=pa_csv.ConvertOptions(
                column_types=types, include_columns=list(types), null_values=[""], strings_can_be_null=True
            ),
        ) as reader:
            yield from reader


def _count_fields(path: Path) -> int:
    """The number of fields in the first line. Raises DamagedFile if these are too few."""
    with open(path, "rb") as raw, gzip.open(raw) if path.name.endswith(".gz") else raw as stream:
        line = stream.readline(1 << 16)
    if not line.strip():
        raise DamagedFile("empty")
    if line.lstrip()[:1] == b"<":
        raise DamagedFile("a web page, not station data")
    fields = line.count(b",") + 1
    if fields < len(FIRST_FIELDS):
        raise DamagedFile(f"line 1 has {fields} fields, at least {len(FIRST_FIELDS)} are expected")
    return fields


def _reason(text: str, fields: int) -> str:
    """Why a file is damaged, from the text of an error of Arrow, zlib or the system."""
    if "Not a gzipped file" in text:
        return "no gzip"
    if re.search(GZIP_TROUBLE, text) or "end-of-stream marker" in text:
        return "truncated or damaged gzip"
    row = re.search(r"Row #(\d+)", text)
    where = f"line {row[1]}" if row else "some line"
    if counts := re.search(r"Expected (\d+) columns, got (\d+)", text):
        return f"{where} has {counts[2]} fields, the lines before it have {fields}"
    if column := re.search(r"CSV column #(\d+)", text):
        given = text.partition("invalid value ")[2] or text
        return f"{where}, {FIRST_FIELDS[int(column[1])]}: {given[:40]} is no number"
    return text[:120]
