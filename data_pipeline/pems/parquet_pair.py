"""Writes rows as a Parquet file, and which of its cells were filled as a second one beside it.

Both have the columns `timestamp` (UTC) and one for each station, and the same rows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pa_parquet

from data_pipeline.source.replacing import replacing

GROUP_ROWS = 4096
TIMESTAMP = "timestamp"
METADATA_KEY = b"pems"


def mask_path(out: Path) -> Path:
    """The file that says which cells of `out` were filled: NAME.filled.parquet for NAME.parquet."""
    return out.with_name(f"{out.name.removesuffix('.parquet')}.filled.parquet")


class ParquetPair:
    """Both files, which get their names when the `with` block ends without an error. Raises OSError."""

    def __init__(self, out: Path, stations: np.ndarray, first_s: int, step_s: int, facts: Mapping[str, Any]) -> None:
        self._out, self._first_s, self._step_s = out, first_s, step_s
        self._kinds = (pa.float32(), pa.bool_())
        self._schemas = tuple(self._schema(stations, kind, facts) for kind in self._kinds)
        self._pending: list[tuple[np.ndarray, np.ndarray]] = []
        self._rows = 0

    def __enter__(self) -> ParquetPair:
        with ExitStack() as opened:
            paths = [opened.enter_context(replacing(path)) for path in (self._out, mask_path(self._out))]
            self._writers = [
                opened.enter_context(pa_parquet.ParquetWriter(path, schema, compression="zstd", use_dictionary=False))
                for path, schema in zip(paths, self._schemas, strict=True)
            ]
            self._opened = opened.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            try:
                self._write_group(sum(len(values) for values, _ in self._pending))
            except BaseException as failed:
                self._opened.__exit__(type(failed), failed, failed.__traceback__)
                raise
        self._opened.__exit__(kind, error, trace)

    def write(self, values: np.ndarray, filled: np.ndarray) -> None:
        """Append rows: values [n, K] float32 with NaN for an empty cell, filled [n, K] bool."""
        self._pending.append((values, filled))
        while sum(len(values) for values, _ in self._pending) >= GROUP_ROWS:
            self._write_group(GROUP_ROWS)

    def _write_group(self, count: int) -> None:
        if not count:
            return
        values, filled = (np.concatenate(arrays) for arrays in zip(*self._pending, strict=True))
        self._pending = [(values[count:], filled[count:])]
        seconds = self._first_s + self._step_s * np.arange(self._rows, self._rows + count)
        times = pa.array(seconds * 1_000_000).cast(self._schemas[0].field(0).type)
        for array, kind, schema, writer in zip(
            (values, filled), self._kinds, self._schemas, self._writers, strict=True
        ):
            columns = [pa.array(column, kind, from_pandas=True) for column in np.ascontiguousarray(array[:count].T)]
            writer.write_table(pa.Table.from_arrays([times, *columns], schema=schema), row_group_size=count)
        self._rows += count

    @staticmethod
    def _schema(stations: np.ndarray, kind: pa.DataType, facts: Mapping[str, Any]) -> pa.Schema:
        fields = [
            pa.field(TIMESTAMP, pa.timestamp("us", "UTC")),
            *(pa.field(str(station), kind) for station in stations),
        ]
        return pa.schema(fields, {METADATA_KEY: json.dumps(facts).encode()})
