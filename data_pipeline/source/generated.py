"""The rows of a data set that is generated, not read from a file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np

from data_pipeline.datasets import DatasetSpec
from data_pipeline.faults import Faults
from data_pipeline.source.rows import Chunk


class GeneratedSource:
    """The rows of a spec's generator."""

    zone: str | None = None
    offsets: tuple[str, ...] = ()
    timestamp_column: str | None = "date"
    id_column: str | None = None

    def __init__(self, spec: DatasetSpec) -> None:
        assert spec.generate is not None and spec.columns is not None
        self.faults = Faults(spec.name)
        self.notes: list[str] = []
        self.reading: dict[str, str] = {}
        self._generate, self.columns, self._hash = spec.generate, spec.columns, generator_sha256(spec)

    def chunks(self) -> Iterator[Chunk]:
        """All rows as one chunk."""
        timestamps, values = self._generate()
        times = timestamps.astype("datetime64[us]").view(np.int64)
        yield Chunk(timestamps=times, values=values, exact=values.astype(np.float64))

    def sha256(self) -> str:
        """The sha256 of the generator's name and version."""
        return self._hash


def generator_sha256(spec: DatasetSpec) -> str:
    """Stands for the sha256 of a source's content."""
    return hashlib.sha256(f"{spec.name} generator, version {spec.version}".encode()).hexdigest()
