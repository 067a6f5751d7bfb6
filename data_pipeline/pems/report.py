"""What an import read, filled and left out, as text for a person and as metadata of the Parquet file."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.errors import DataError, DataFaults
from data_pipeline.faults import MOST_LINES
from data_pipeline.pems.folder import StationFolder
from data_pipeline.pems.gaps import GapFiller

UNITS = {"flow": "vehicles per {}", "occupancy": "share of the time that a vehicle covers the sensor, 0 to 1",
         "speed": "miles per hour"}  # fmt: skip
SHOWN = 6


@dataclass(frozen=True, kw_only=True)
class ImportReport:
    """The result of an import."""

    out: Path
    mask: Path
    measure: str
    unit: str
    district: int
    kind: str
    step_minutes: int
    files: int
    first_day: datetime.date
    stop_day: datetime.date
    """The local day after the last."""
    first_s: int
    """Seconds since 1970, UTC, of the first row."""
    rows: int
    stations: int
    min_observed_pct: float
    max_gap: int
    under_observed: Mapping[int, float]
    """Station -> its "% observed", for stations under `min_observed_pct`."""
    without_values: Sequence[int]
    """Stations that have no value of this measure: ramps have no speed."""
    incomplete: Mapping[int, int]
    """Station -> its empty cells, for stations that were left out for having some."""
    missing_periods: Sequence[str]
    """Days or months without a file, between the first and the last."""
    ignored: Sequence[str]
    damaged: Mapping[str, str]
    """File -> why it was left out."""
    notes: Sequence[str]
    empty_rows: int
    """Rows of files that are there in which no station has a line."""
    filled_cells: int = 0
    empty_cells: int = 0
    long_gaps: int = 0
    longest: Mapping[str, Any] = field(default_factory=dict)
    """Station, first row and rows of the longest gap that stays."""

    def with_gaps(self, filler: GapFiller, stations: np.ndarray) -> ImportReport:
        """The report with what `filler` counted, for `stations` [K]."""
        gap = filler.longest()
        longest = {} if gap is None else {
            "station": int(stations[gap.station]), "first_row": gap.first_row, "rows": gap.rows,
        }  # fmt: skip
        return replace(
            self,
            filled_cells=filler.filled_cells,
            empty_cells=filler.empty_cells,
            long_gaps=filler.long_gaps,
            longest=longest,
        )

    def as_metadata(self) -> dict[str, Any]:
        """What is known before the rows are written, for the metadata of the Parquet file: strict JSON."""
        skipped = ("out", "mask", "filled_cells", "empty_cells", "long_gaps", "longest")
        facts = {name: value for name, value in asdict(self).items() if name not in skipped}
        return {**facts, "first_day": str(self.first_day), "stop_day": str(self.stop_day)}


def render(report: ImportReport) -> str:
    """The report as lines for a terminal."""
    return "\n".join(_lines(report))


def damage_error(found: StationFolder, damaged: Mapping[str, str]) -> DataError:
    """The error for a folder with damaged files: all of them by their day or month, equal faults together."""
    periods = {file.path.name: file.period for file in found.files}
    by_fault: dict[str, list[str]] = {}
    for name, fault in damaged.items():
        by_fault.setdefault(fault, []).append(periods[name])
    text = (
        f"{found.path}: {len(damaged)} of {len(found.files)} files are damaged: download them again, or give "
        "--skip-damaged, which leaves their times empty"
    )
    begin = f"d{found.district:02d}_text_station_{found.kind.name}_"
    listed = [f"{begin} {', '.join(days)}: {fault}" for fault, days in by_fault.items()]
    if len(listed) == 1:
        return DataError(f"{text}: {listed[0]}")
    if len(listed) < MOST_LINES:
        return DataFaults([text, *listed])
    rest = [day for days in list(by_fault.values())[MOST_LINES - 2 :] for day in days]
    return DataFaults([text, *listed[: MOST_LINES - 2], f"{begin} {', '.join(rest)}: other faults"])


def _lines(report: ImportReport) -> Iterator[str]:
    cells = report.rows * report.stations
    last_s = report.first_s + 60 * report.step_minutes * (report.rows - 1)
    last_day = report.stop_day - datetime.timedelta(days=1)
    yield (
        f"{report.out}: {report.rows:,} rows x {report.stations:,} stations of district {report.district}, one row per "
        f"{report.step_minutes} min, {_utc(report.first_s)} to {_utc(last_s)} UTC (Pacific days {report.first_day} to "
        f"{last_day})"
    )
    yield f"{report.measure}: {report.unit}"
    least = f"--min-observed {report.min_observed_pct:g} %"
    if report.under_observed:
        shown = _few([f"{station} ({share:.1f} %)" for station, share in report.under_observed.items()])
        yield f"left out, under {least}: {_stations(report.under_observed)}: {shown}"
    else:
        yield f"left out, under {least}: none"
    if report.without_values:
        shown = _few(report.without_values)
        yield f"left out, without any {report.measure}: {_stations(report.without_values)}: {shown}"
    if report.incomplete:
        shown = _few([f"{station} ({cells:,} cells)" for station, cells in report.incomplete.items()])
        yield f"left out, with gaps that stay (--complete-only): {_stations(report.incomplete)}: {shown}"
    yield (
        f"filled: {report.filled_cells:,} cells ({_share(report.filled_cells, cells)}) in gaps of at most "
        f"{report.max_gap} rows (--max-gap), on a straight line; {report.mask} marks them"
    )
    if report.empty_cells:
        begin_s = report.first_s + 60 * report.step_minutes * report.longest["first_row"]
        yield (
            f"empty: {report.empty_cells:,} cells ({_share(report.empty_cells, cells)}) in {report.long_gaps:,} longer "
            f"gaps; the longest: station {report.longest['station']}, {report.longest['rows']:,} rows from "
            f"{_utc(begin_s)} UTC; training wants to know what to do: --set data.missing=..., or leave these stations "
            "out: --complete-only"
        )
    if report.missing_periods:
        yield f"no file: {len(report.missing_periods)}: {_few(report.missing_periods, 31)}"
    if report.empty_rows:
        yield f"times without any line in their file: {report.empty_rows:,}"
    for name, fault in report.damaged.items():
        yield f"left out, damaged: {name}: {fault}"
    yield from (f"note: {note}" for note in report.notes)
    if report.ignored:
        yield f"not station data, ignored: {len(report.ignored)}: {_few(report.ignored)}"


def _stations(stations: Sequence[int] | Mapping[int, float]) -> str:
    return f"{len(stations):,} station{'s' * (len(stations) != 1)}"


def _share(cells: int, of: int) -> str:
    return f"{100 * cells / of:.2f} %"


def _few(names: Sequence[object], shown: int = SHOWN) -> str:
    text = ", ".join(map(str, names[:shown]))
    return text if len(names) <= shown else f"{text}, ... ({len(names):,})"


def _utc(seconds: int) -> str:
    return f"{datetime.datetime.fromtimestamp(seconds, datetime.UTC):%Y-%m-%d %H:%M}"
