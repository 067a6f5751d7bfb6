"""Three files as one source: train, validation and test, in the order of time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from data_pipeline.errors import DataError
from data_pipeline.faults import Faults
from data_pipeline.options import DataOptions
from data_pipeline.source.content import content_sha256
from data_pipeline.source.file_source import FileSource
from data_pipeline.source.readers import open_source
from data_pipeline.source.rows import Chunk


class JoinedSource:
    """The rows of several files, a `RowSource`. Faults are told file by file.

    Raises DataError for a wrong header, and for files of different columns.
    """

    id_column: str | None = None

    def __init__(self, paths: Sequence[Path], options: DataOptions) -> None:
        self._paths, (first, *_) = tuple(paths), paths
        self._sources = [open_source(first, options)]
        self.columns = self._sources[0].columns
        if self._sources[0].id_column is not None:
            raise DataError(
                f"{first}: it holds several series below each other (data.id_column), which are not split by files: "
                "put all rows into one file and give two dates, as data.split=2021-06-01/2021-09-01"
            )
        self._sources += [self._alike(path, options) for path in self._paths[1:]]
        self.timestamp_column = self._sources[0].timestamp_column
        self.faults = Faults(str(first))
        self.notes: list[str] = []
        self.reading = self._sources[0].reading

    @property
    def zone(self) -> str | None:
        """The zone that the times of all files name; UTC if they name several."""
        zones = {source.zone for source in self._sources}
        return zones.pop() if len(zones) == 1 else "UTC"

    @property
    def offsets(self) -> tuple[str, ...]:
        """The offsets from UTC that times have in any file."""
        return tuple(dict.fromkeys(offset for source in self._sources for offset in source.offsets))

    def chunks(self) -> Iterator[Chunk]:
        """Every row, file by file. Raises DataError for the faults of a file, after its last row, and for files that
        overlap in time."""
        last_us, before = None, self._paths[0]
        for path, source in zip(self._paths, self._sources, strict=True):
            self.faults.source, begins = str(path), True
            for chunk in source.chunks():
                if not len(chunk.timestamps):
                    continue
                self._check_zones()
                if begins and last_us is not None and self.timestamp_column is not None:
                    self._check_order(before, last_us, path, int(chunk.timestamps[0]))
                yield replace(chunk, begins_file=begins)
                begins, last_us = False, int(chunk.timestamps[-1])
            self.faults.absorb(source.faults)
            self.faults.raise_if_any()
            if begins:
                raise DataError(f"{path}: a header and no data rows: give the complete file")
            self.notes += [f"{path.name}: {note}" for note in source.notes]
            before = path

    def sha256(self) -> str:
        """The sha256 of the contents' sha256. Read `chunks` to its end first."""
        return joined_sha256([source.sha256() for source in self._sources])

    def _alike(self, path: Path, options: DataOptions) -> FileSource:
        if not path.exists():
            raise DataError(f"data.split: there is no file {path}: give the files of validation and test")
        source = open_source(path, options)
        if set(source.columns) != set(self.columns) or source.timestamp_column != self._sources[0].timestamp_column:
            raise DataError(
                f"{path}: its columns are {', '.join(source.columns[:12])} (times in {source.timestamp_column}), those "
                f"of {self._paths[0]} are {', '.join(self.columns[:12])} (times in "
                f"{self._sources[0].timestamp_column}): give files of the same columns"
            )
        return source if source.columns == self.columns else open_source(path, options, self.columns)

    def _check_zones(self) -> None:
        zoned = [source.zone is not None for source in self._sources]
        if len(set(zoned)) > 1:
            path = self._paths[zoned.index(False)]
            raise DataError(f"{path}: its times have no zone, those of another file have one: write all in UTC")

    def _check_order(self, before: Path, last_us: int, path: Path, first_us: int) -> None:
        if first_us <= last_us:
            import numpy as np

            last, first = (str(np.datetime64(us, "us"))[:19].replace("T", " ") for us in (last_us, first_us))
            raise DataError(
                f"{path}: it begins at {first}, and {before} ends at {last}: give train, validation and test in the "
                "order of time, without overlap"
            )


def joined_sha256(contents: Sequence[str]) -> str:
    """Stands for the sha256 of several files, from those of their contents."""
    return hashlib.sha256("\n".join(contents).encode()).hexdigest()


def contents_sha256(paths: Sequence[Path]) -> str:
    """The sha256 of a file's content; of several, as `JoinedSource` has it. Raises DataError for an unreadable file."""
    contents = [content_sha256(path) for path in paths]
    return contents[0] if len(contents) == 1 else joined_sha256(contents)
