"""The baseline feed: tsfm_public's ForecastDFDataset, one pandas slice per window, as in the study before."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from data_pipeline.feed.batches import Batch, Feed
from data_pipeline.feed.loading import Loader, check_shared_memory, check_workers
from data_pipeline.series.store import Series

if TYPE_CHECKING:
    import pandas as pd

PREFETCH = 2


def stack_windows(items: list[dict[str, Any]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Past [B, L, C] and future [B, H, C] of the items, without their masks and timestamps."""
    return torch.stack([item["past_values"] for item in items]), torch.stack([item["future_values"] for item in items])


def frame_as_get_datasets_leaves_it(series: Series) -> pd.DataFrame:
    """The standardised rows as `tsfm_public.get_datasets` hands them to its dataset: a timestamp and float64 columns.

    There, every column is a separate block of memory. Slicing rows is then slower than in a frame made from one array;
    the baseline keeps that.
    """
    import pandas as pd

    columns = {f"channel_{index}": column.astype("float64") for index, column in enumerate(series.scaled.T)}
    # The dataset sorts by time. Series under each other keep their places if rows count the microseconds
    times = series.timestamps if len(series.groups) == 1 else np.arange(len(series.scaled)).astype("datetime64[us]")
    return pd.DataFrame({"date": times, **columns}, copy=False)


class TsfmFeed(Feed):
    """One dataset over all rows, so that window i starts at row i in every split."""

    def close(self) -> None:
        """Stop the workers."""
        self._loader.close()

    def _open(self, series: Series, num_workers: int) -> None:
        from tsfm_public.toolkit.dataset import ForecastDFDataset

        check_workers(num_workers)
        check_shared_memory(num_workers, self._plan.batch_size, num_workers * PREFETCH * self._batch_bytes)
        context_length, prediction_length = self._lengths
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pandas warns of the column that ForecastDFDataset adds to many
            dataset = ForecastDFDataset(
                frame_as_get_datasets_leaves_it(series),
                timestamp_column="date",
                target_columns=[f"channel_{channel}" for channel in range(self.channels)],
                context_length=context_length,
                prediction_length=prediction_length,
            )
        self._loader = Loader(
            dataset,
            num_workers=num_workers,
            prefetch=PREFETCH,
            collate=stack_windows,
            preload="tsfm_public.toolkit.dataset",
            warm_up=[0],
        )

    def _batches(self, starts: torch.Tensor, valid: Sequence[int]) -> Iterator[Batch]:
        for (past, future), count in zip(self._loader.answers(starts.tolist()), valid, strict=True):
            yield Batch(past=past.to(self._device), future=future.to(self._device), valid=count)
