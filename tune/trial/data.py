"""A trial's data: the converted series that it was planned with, the feed of its batches; and whether it can run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from data_pipeline import feed as feeds
from data_pipeline.errors import DataUnsupported
from data_pipeline.feed.batches import Feed
from data_pipeline.series.store import Series, open_series
from tune.common.errors import Unsupported
from tune.config.trial_config import TrialConfig
from tune.machine.device import DeviceFacts, missing_packages, node_facts
from tune.plan.data import SplitRows
from tune.plan.support import unsupported_reason
from tune.trial.job import TrialJob, check_gpu


def open_data(job: TrialJob) -> Series:
    """The trial's series. RuntimeError if its source is not the one that the sweep was planned with."""
    data = job.config.data
    series = open_series(data.dataset, Path(job.data_dir), Path(job.cache_dir), data.options)
    if job.data_sha256 not in (None, series.source_sha256):
        raise RuntimeError(f"{data.dataset} is not the data this sweep was planned on: its source has changed since")
    return series


def check_support(job: TrialJob, series: Series, device: torch.device) -> DeviceFacts:
    """What the device that the trial got is. The plan rests on a probe; the device itself has the last word.

    Raises Unsupported for a trial that cannot run on it.
    """
    config = job.config
    missing = missing_packages([config.model.attention], importing=True)
    facts = replace(node_facts(use_gpu=device.type == "cuda"), missing=missing)
    check_gpu(job, facts)
    rows = SplitRows.of(series)
    windows = rows.train_windows(config.data.context_length, config.data.prediction_length)
    reason = unsupported_reason(config, facts, len(series.columns), windows, rows.total)
    if reason:
        raise Unsupported(reason)
    return facts


def open_feed(series: Series, config: TrialConfig, device: torch.device, eval_batch_size: int | None = None) -> Feed:
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
            eval_batch_size=eval_batch_size,
        )
    except DataUnsupported as error:
        raise Unsupported(str(error)) from None
