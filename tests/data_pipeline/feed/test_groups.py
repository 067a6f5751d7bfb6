"""Batches of several series: every feed draws windows over all of them, and none reaches across a border."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from long_kit import opened, unequal

from data_pipeline.feed import FEEDS, open_feed

L, H, B = 24, 6, 16


@pytest.fixture(scope="module", params=[("y",), ("y", "z")], ids=["one column", "two columns"])
def series(request, tmp_path_factory):
    return opened(unequal(request.param), tmp_path_factory.mktemp("long"))


@pytest.fixture(params=FEEDS)
def feed(request, series):
    made = open_feed(
        request.param, series, context_length=L, prediction_length=H, batch_size=B, device="cpu", seed=1, num_workers=0
    )
    yield made
    made.close()


def windows(series, split):
    """Past and future of every window of a split, cut by hand from each series alone."""
    pasts, futures = [], []
    for group in series.groups:
        first, stop = group.bounds[split]
        for row in range(*group.rows):
            if first <= row + L and row + L + H <= stop:
                pasts.append(series.scaled[row : row + L])
                futures.append(series.scaled[row + L : row + L + H])
    return torch.from_numpy(np.stack(pasts)), torch.from_numpy(np.stack(futures))


@pytest.mark.parametrize("split", ["validation", "test"])
def test_evaluation_reads_every_window_of_every_series_once_in_order(feed, series, split):
    past, future = windows(series, split)
    batches = list(feed.eval_batches(split))
    assert torch.equal(torch.cat([batch.past[: batch.valid] for batch in batches]), past)
    assert torch.equal(torch.cat([batch.future[: batch.valid] for batch in batches]), future)
    assert feed.num_windows(split) == len(past)


def test_an_epoch_draws_from_all_series_and_no_window_twice(feed, series):
    past, future = windows(series, "train")
    known = {(p.numpy().tobytes(), f.numpy().tobytes()) for p, f in zip(past, future, strict=True)}
    drawn = [
        (p.numpy().tobytes(), f.numpy().tobytes())
        for batch in feed.train_batches(1)
        for p, f in zip(batch.past, batch.future, strict=True)
    ]
    assert len(set(drawn)) == len(drawn) == feed.steps_per_epoch * B and set(drawn) <= known
    rows = {tuple(row) for group in series.groups for row in series.scaled[slice(*group.bounds["train"])]}
    assert all(tuple(row) in rows for batch in feed.train_batches(2) for row in batch.future[:, -1].numpy())


def test_every_feed_draws_the_same_batches(feed, series):
    reference = open_feed(
        "device", series, context_length=L, prediction_length=H, batch_size=B, device="cpu", seed=1, num_workers=0
    )
    for ours, theirs in zip(feed.train_batches(3), reference.train_batches(3), strict=True):
        assert torch.equal(ours.past, theirs.past) and torch.equal(ours.future, theirs.future)
