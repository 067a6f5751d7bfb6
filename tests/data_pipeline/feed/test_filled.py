"""Every feed says which targets of validation and test the source has, and which were filled."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from long_kit import equal, opened, unequal

from data_pipeline.feed import FEEDS, open_feed

L, H, B = 24, 6, 16


def wide():
    table = equal(names=("a", "b")).pivot(index="ds", columns="unique_id", values="y").reset_index()
    table.loc[[50, 130, 150, 160, 170, 171], "a"] = np.nan
    return table.drop(index=[20, 166]).reset_index(drop=True)


def long():
    table = unequal()
    table.loc[[100, 220, 250, 251, 280, 320, 530], "y"] = np.nan
    return table


def open_all(table, tmp_path, way, name):
    series = opened(table, tmp_path, missing=way)
    return series, open_feed(
        name, series, context_length=L, prediction_length=H, batch_size=B, device="cpu", seed=1, num_workers=0
    )


@pytest.mark.parametrize("way", ["interpolate", "ffill"])
@pytest.mark.parametrize("table", [wide, long])
@pytest.mark.parametrize("name", FEEDS)
def test_targets_that_were_filled_are_marked_in_evaluation_only(name, table, way, tmp_path):
    series, feed = open_all(table(), tmp_path, way, name)
    for split in ("validation", "test"):
        observed = torch.cat([batch.observed[: batch.valid] for batch in feed.eval_batches(split)])
        want = []
        for group in series.groups:
            first, stop = group.bounds[split]
            starts = [row for row in range(*group.rows) if first <= row + L and row + L + H <= stop]
            want += [~series.filled[row + L : row + L + H] for row in starts]
        np.testing.assert_array_equal(observed.numpy(), np.stack(want))
        assert not observed.all()
    assert all(batch.observed is None for batch in feed.train_batches(1))
    feed.close()


@pytest.mark.parametrize("name", FEEDS)
def test_the_series_of_every_window_is_told(name, tmp_path):
    series, feed = open_all(unequal(), tmp_path, "refuse", name)
    for split in ("validation", "test"):
        told = torch.cat([batch.series[: batch.valid] for batch in feed.eval_batches(split)])
        assert tuple(np.bincount(told.numpy(), minlength=4)) == feed._plan.starts[split].counts
    feed.close()


@pytest.mark.parametrize("name", FEEDS)
def test_a_series_without_gaps_marks_nothing(name, tmp_path):
    table = pd.DataFrame(equal(names=("a", "b")).pivot(index="ds", columns="unique_id", values="y").reset_index())
    _, feed = open_all(table, tmp_path, "interpolate", name)
    assert all(batch.observed is None and batch.series is None for batch in feed.eval_batches("test"))
    feed.close()
