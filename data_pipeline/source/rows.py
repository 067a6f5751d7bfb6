"""What every source of rows offers: the rows in chunks, and a hash of the content."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from data_pipeline.faults import Faults


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """n consecutive rows of C columns."""

    timestamps: np.ndarray
    """[n] int64, microseconds since 1970, in UTC if the source names a zone."""
    values: np.ndarray
    """[n, C] float32. A missing value is NaN."""
    exact: np.ndarray
    """[n, C] float64: the values before rounding."""
    ids: np.ndarray | None = None
    """[n] objects of str: the series that each row belongs to; None: all rows are of one series."""
    rows: np.ndarray | None = None
    """[n] int64, the data row of each in the file, from 1; None: the n rows after those of the chunk before."""
    begins_file: bool = False
    """Whether a file of its own begins here, so that nothing is known of the time between this row and the one before.
    """


class RowSource(Protocol):
    """The rows that a series is made of."""

    columns: tuple[str, ...]
    """The value columns, in order."""
    timestamp_column: str | None
    """None: the source has no times, and timestamps are the numbers of rows from 0."""
    id_column: str | None
    """Of a long format: the column that names the series; None: all rows are of one series."""
    reading: dict[str, str]
    """How the source is read: separator, decimal, encoding, time_format, timestamp_column. Complete after the last."""
    faults: Faults
    """What is wrong in the rows read so far. Whoever reads the rows raises them, with faults of his own."""
    notes: list[str]
    """What was found out or left out while reading, and kept. Complete after the last chunk."""

    @property
    def zone(self) -> str | None:
        """The zone that the times name: UTC, the one offset of all (`+02:00`), an IANA name, or None.

        Times of several offsets are in UTC. Complete after the last chunk.
        """

    @property
    def offsets(self) -> tuple[str, ...]:
        """The offsets from UTC that times have, as +02:00; empty if they name none. Complete after the last chunk."""

    def chunks(self) -> Iterator[Chunk]:
        """Every row, in order. Raises DataError for the first wrong row."""

    def sha256(self) -> str:
        """The sha256 of the content. Read `chunks` to its end first."""
