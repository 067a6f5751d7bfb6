"""Blocks of station files on disk, while it is not known yet which stations stay."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_pipeline.pems.station_file import Block


class StationTotals:
    """What is known of every station after all blocks."""

    def __init__(self) -> None:
        self.stations = np.empty(0, np.int32)
        """[S], increasing."""
        self._observed_pct = np.empty(0)
        self._values = np.empty(0, np.int64)
        self._rows = 0

    def add(self, block: Block) -> None:
        """Count a block."""
        stations = np.union1d(self.stations, block.stations)
        at = np.searchsorted(stations, self.stations)
        for name, kind in (("_observed_pct", np.float64), ("_values", np.int64)):
            wider = np.zeros(len(stations), kind)
            wider[at] = getattr(self, name)
            setattr(self, name, wider)
        at = np.searchsorted(stations, block.stations)
        self._observed_pct[at] += block.observed_pct
        self._values[at] += np.count_nonzero(~np.isnan(block.values), axis=0)
        self.stations = stations
        self._rows += len(block.values)

    @property
    def observed_pct(self) -> np.ndarray:
        """[S] the mean of "% observed" over the rows of all files; a row without a line counts as 0."""
        return self._observed_pct / max(1, self._rows)

    @property
    def has_values(self) -> np.ndarray:
        """[S] bool: whether the station has a single value."""
        return self._values > 0


@dataclass(frozen=True)
class _Place:
    offset: int
    first_row: int
    rows: int
    stations: int


class BlockScratch:
    """A file without a name in `folder`, which disappears with the process. Raises OSError."""

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  closed by close()
        self._places: list[_Place] = []

    def append(self, first_row: int, block: Block) -> None:
        """Keep a block, whose rows begin at `first_row` of the whole. Blocks come in time order."""
        place = _Place(self._file.tell(), first_row, len(block.values), len(block.stations))
        self._places.append(place)
        self._file.write(np.ascontiguousarray(block.stations, np.int32).data)
        self._file.write(np.ascontiguousarray(block.values).data)

    def rows(self, stations: np.ndarray, piece_rows: int) -> Iterator[np.ndarray]:
        """All rows of the whole as pieces [at most `piece_rows`, K] float32 of `stations` [K], increasing.

        A cell without a value is NaN, and so is a row between two blocks.
        """
        self._file.flush()
        done = 0
        for place in self._places:
            for start in range(done, place.first_row, piece_rows):
                yield np.full((min(piece_rows, place.first_row - start), len(stations)), np.nan, np.float32)
            own = np.frombuffer(self._read(place.offset, 4 * place.stations), np.int32)
            common, to, source = np.intersect1d(stations, own, assume_unique=True, return_indices=True)
            for start in range(0, place.rows, piece_rows):
                count = min(piece_rows, place.rows - start)
                offset = place.offset + 4 * place.stations * (1 + start)
                values = np.frombuffer(self._read(offset, 4 * count * place.stations), np.float32)
                piece = np.full((count, len(stations)), np.nan, np.float32)
                if len(common):
                    piece[:, to] = values.reshape(count, place.stations)[:, source]
                yield piece
            done = place.first_row + place.rows

    def close(self) -> None:
        """Remove the file."""
        self._file.close()

    def _read(self, offset: int, size: int) -> bytes:
        return os.pread(self._file.fileno(), size, offset)
