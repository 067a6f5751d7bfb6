"""Forecasts of the test set beside their truth and times, written to Parquet while the test set is evaluated.

One row for each forecast value, in the units of the source, ordered by window, column and step; see COLUMNS and SERIES.
Shapes: B windows of a batch, H horizon, C channels, L context.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pa_parquet
from torch import Tensor

from data_pipeline.feed.batches import Feed
from data_pipeline.series.store import Series

FILE = "test.parquet"
MOST_ROWS = 1 << 20
"""Of a row group. Memory stays bounded by it, whatever the size of the test set."""
COLUMNS = pa.schema(
    {
        "cutoff": pa.timestamp("us"),  # time of the last row that the forecast is made from
        "step": pa.int32(),  # rows after the cutoff, from 1
        "time": pa.timestamp("us"),  # of the row that is forecast
        "column": pa.dictionary(pa.int32(), pa.string()),
        "forecast": pa.float32(),
        "truth": pa.float32(),
    }
)


SERIES = pa.field("series", pa.dictionary(pa.int32(), pa.string()))
"""The first column, if the file holds series of unequal lengths: the id of the window's series."""


class SavedForecasts(AbstractContextManager["SavedForecasts"]):
    """Writes what a forecast function returns for the batches of a test set.

    Let `batches` and `forecast` wrap those of one evaluation in time order. The file is complete when the context ends.
    """

    def __init__(self, folder: Path, series: Series, feed: Feed, *, context_length: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._series, self._context_length = series, context_length
        self._first_rows = feed.first_rows("test").numpy()
        self._group_stops = np.array([group.rows[1] for group in series.groups])
        self._mean = np.array([group.mean for group in series.groups])  # [groups, C]
        self._std = np.array([group.std for group in series.groups])
        self._done = 0
        self._valid = 0
        several = len(series.groups) > 1
        self._schema = COLUMNS.insert(0, SERIES) if several else COLUMNS
        self._writer = pa_parquet.ParquetWriter(folder / FILE, self._schema, compression="zstd")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()

    def batches(self, batches: Iterator[Any]) -> Iterator[Any]:
        """The same batches. Each must be forecast before the next is asked for."""
        for batch in batches:
            self._valid = batch.valid
            yield batch

    def forecast(self, function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """The function past [B, L, C] -> future [B, H, C], whose results are written."""

        def watched(past_BLC: Tensor) -> Tensor:
            future_BHC = function(past_BLC)
            self._add(future_BHC[: self._valid].double().cpu().numpy())
            return future_BHC

        return watched

    def _add(self, scaled_BHC: np.ndarray) -> None:
        _, horizon, channels = scaled_BHC.shape
        size = max(1, MOST_ROWS // (horizon * channels))
        starts = self._first_rows[self._done : self._done + len(scaled_BHC)]
        self._done += len(scaled_BHC)
        for at in range(0, len(starts), size):
            self._write(starts[at : at + size], scaled_BHC[at : at + size])

    def _write(self, starts: np.ndarray, scaled_BHC: np.ndarray) -> None:
        series = self._series
        windows, horizon, channels = scaled_BHC.shape
        rows = starts[:, None] + self._context_length + np.arange(horizon)  # [B, H]
        groups = np.searchsorted(self._group_stops, starts, side="right")
        forecast = scaled_BHC * self._std[groups][:, None] + self._mean[groups][:, None]
        steps = np.broadcast_to(np.arange(1, horizon + 1, dtype=np.int32), (windows, channels, horizon))
        names = np.broadcast_to(np.arange(channels, dtype=np.int32)[:, None], (windows, channels, horizon))
        cutoffs = np.broadcast_to(series.timestamps[rows[:, 0] - 1, None, None], steps.shape)
        times = np.broadcast_to(series.timestamps[rows][:, None], steps.shape)
        arrays = [
            pa.array(_flat(cutoffs), COLUMNS.field("cutoff").type),
            pa.array(_flat(steps)),
            pa.array(_flat(times), COLUMNS.field("time").type),
            pa.DictionaryArray.from_arrays(pa.array(_flat(names)), pa.array(series.columns, pa.string())),
            pa.array(_flat(forecast.transpose(0, 2, 1)).astype(np.float32)),
            pa.array(_flat(series.values[rows].transpose(0, 2, 1))),
        ]
        if len(series.groups) > 1:
            ids = np.broadcast_to(groups.astype(np.int32)[:, None, None], steps.shape)
            names_of = pa.array([group.id or "" for group in series.groups], pa.string())
            arrays.insert(0, pa.DictionaryArray.from_arrays(pa.array(_flat(ids)), names_of))
        self._writer.write_table(pa.table(arrays, schema=self._schema))


def _flat(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values).reshape(-1)
