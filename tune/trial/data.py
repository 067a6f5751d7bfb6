"""A trial's data: the converted series that it was planned with, and the feed of its batches."""

from __future__ import annotations

from pathlib import Path

import torch

from data_pipeline import feed as feeds
from data_pipeline.errors import DataUnsupported
from data_pipeline.feed.batches import Feed
from data_pipeline.series.store import Series, open_series
from tune.common.errors import Unsupported
from tune.config.trial_config import TrialConfig
from tune.trial.job import TrialJob


def open_data(job: TrialJob) -> Series:
    """The trial's series. RuntimeError if its source is not the one that the sweep was planned with."""
    data = job.config.data
    series = open_series(data.dataset, Path(job.data_dir), Path(job.cache_dir), data.options)
    if job.data_sha256 not in (None, series.source_sha256):
        raise RuntimeError(f"{data.dataset} is not the data this sweep was planned on: its source has changed since")
    return series


def open_feed(series: Series, config: TrialConfig, device: torch.device) -> Feed:
    """The trial's feed; the caller closes it. Raises Unsupported if this machine cannot hold it."""
    data, train = config.data, config.train
    try:
        return feeds.open_feed(
            data.feed,
            series,
            context_length=data.context_length,
            prediction_length=data.prediction_length,
            batch_size=train.batch_size,
            device=device,
            seed=train.seed,
            num_workers=data.num_workers,
        )
    except DataUnsupported as error:
        raise Unsupported(str(error)) from None
