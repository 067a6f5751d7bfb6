"""The station files of a folder, as the Caltrans PeMS Data Clearinghouse names them: one district, one kind."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.errors import DataError
from data_pipeline.source.content import unreadable

NAME = re.compile(r"d(\d\d)_text_station_(5min|hour)_(\d{4})_(\d\d)(?:_(\d\d))?\.txt(?:\.gz)?")
METADATA = re.compile(r"d\d\d_text_meta_\d{4}_\d\d_\d\d\.txt(?:\.gz)?")
FORMS = "dDD_text_station_5min_YYYY_MM_DD.txt[.gz] or dDD_text_station_hour_YYYY_MM.txt[.gz]"


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What PeMS aggregates over."""

    name: str
    """As in the names of files."""
    step_minutes: int
    fields: int
    """Of a row with eight lanes."""
    interval: str
    """For the unit of the flow: vehicles per `interval`."""
    max_gap: int
    """Rows that are interpolated at most, unless the user says otherwise."""


KINDS = {
    "5min": Kind(name="5min", step_minutes=5, fields=52, interval="5 minutes", max_gap=6),
    "hour": Kind(name="hour", step_minutes=60, fields=42, interval="hour", max_gap=2),
}


@dataclass(frozen=True, kw_only=True)
class StationFile:
    """One file of station data."""

    path: Path
    district: int
    kind: Kind
    start: datetime.date
    """The first local day."""
    stop: datetime.date
    """The local day after the last."""
    size: int
    """Bytes on disk."""

    @property
    def period(self) -> str:
        """Its day or month, as in its name."""
        return f"{self.start:%Y_%m_%d}" if self.kind.name == "5min" else f"{self.start:%Y_%m}"


@dataclass(frozen=True, kw_only=True)
class StationFolder:
    """The files of one district and one kind, in time order."""

    path: Path
    files: tuple[StationFile, ...]
    ignored: tuple[str, ...]
    """Names of other files, without the station metadata, which is not needed."""

    @property
    def kind(self) -> Kind:
        """Of every file."""
        return self.files[0].kind

    @property
    def district(self) -> int:
        """Of every file."""
        return self.files[0].district

    def missing_periods(self) -> list[str]:
        """The days or months between the first and the last file that have no file."""
        missing = []
        for before, after in zip(self.files, self.files[1:], strict=False):
            day = before.stop
            while day < after.start:
                gap = _file(before.path, before.district, before.kind, day, 0)
                missing.append(gap.period)
                day = gap.stop
        return missing


def station_files(folder: Path) -> StationFolder:
    """The station files that lie in `folder`, not below it.

    Raises DataError if there are none, if they are of several districts or kinds, or if two are of the same time.
    """
    try:
        names = sorted(entry.name for entry in folder.iterdir() if entry.is_file())
    except FileNotFoundError:
        raise DataError(f"{folder}: there is no such folder: give the folder with {FORMS}") from None
    except NotADirectoryError:
        raise DataError(f"{folder} is no folder: give the folder with {FORMS}") from None
    except OSError as error:
        raise unreadable(folder, error) from error
    files = sorted(
        (_parsed(folder, name, match) for name in names if (match := NAME.fullmatch(name))),
        key=lambda file: (file.start, file.path.name),
    )
    if not files:
        raise DataError(f"{folder}: no file called {FORMS}; {_found(folder, names)}")
    _refuse_mixture(folder, "kinds", [file.kind.name for file in files])
    _refuse_mixture(folder, "districts", [str(file.district) for file in files])
    for before, after in zip(files, files[1:], strict=False):
        if before.start == after.start:
            raise DataError(
                f"{folder}: {before.path.name} and {after.path.name} are of the same time: move one out of the folder"
            )
    ignored = tuple(name for name in names if not NAME.fullmatch(name) and not METADATA.fullmatch(name))
    return StationFolder(path=folder, files=tuple(files), ignored=ignored)


def _parsed(folder: Path, name: str, match: re.Match[str]) -> StationFile:
    district, kind, year, month, day = match.groups()
    try:
        if (day is None) != (kind == "hour"):
            raise ValueError("a 5min file is of one day, an hour file of one month")
        start = datetime.date(int(year), int(month), int(day or 1))
    except ValueError as error:
        raise DataError(f"{folder / name}: its name has no such date ({error}): name it {FORMS}") from None
    return _file(folder / name, int(district), KINDS[kind], start, (folder / name).stat().st_size)


def _file(path: Path, district: int, kind: Kind, start: datetime.date, size: int) -> StationFile:
    stop = start + datetime.timedelta(days=1)
    if kind.name == "hour":
        stop = (start.replace(day=1) + datetime.timedelta(days=32)).replace(day=1)
    return StationFile(path=path, district=district, kind=kind, start=start, stop=stop, size=size)


def _refuse_mixture(folder: Path, what: str, values: Iterable[str]) -> None:
    counted: dict[str, int] = {}
    for value in values:
        counted[value] = counted.get(value, 0) + 1
    if len(counted) > 1:
        shown = ", ".join(f"{value} ({count} file{'s' * (count > 1)})" for value, count in sorted(counted.items()))
        raise DataError(f"{folder}: files of several {what}: {shown}: give each a folder of its own")


def _found(folder: Path, names: list[str]) -> str:
    below = sorted({path.parent.name for path in folder.glob("*/d*_text_station_*") if NAME.fullmatch(path.name)})
    if below:
        return f"some lie in its folders {', '.join(below[:6])}: give one of these, or move the files together"
    if not names:
        return "it holds no file: give the folder of the downloaded files"
    shown = ", ".join(names[:4]) + (f", ... ({len(names)})" if len(names) > 4 else "")
    return f"it holds {shown}: give the folder of the downloaded files, with their names unchanged"
