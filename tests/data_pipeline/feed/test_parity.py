"""Our windows are tsfm_public's on the real ETT files, value by value."""

from __future__ import annotations

import gzip
import warnings

import numpy as np
import pandas as pd
import pytest

from data_pipeline.datasets import DATASETS
from data_pipeline.feed import open_feed
from data_pipeline.feed.tsfm import frame_as_get_datasets_leaves_it
from data_pipeline.series.store import open_series

HORIZON = 96
CHANNEL = {name: f"channel_{at}" for at, name in enumerate(DATASETS["ETTh1"].columns)}


def tsfm_datasets(frame, series, context):
    from tsfm_public import TimeSeriesPreprocessor, get_datasets

    frame = frame.assign(date=pd.to_datetime(frame["date"]))
    preprocessor = TimeSeriesPreprocessor(
        timestamp_column="date",
        id_columns=[],
        target_columns=list(series.columns),
        context_length=context,
        prediction_length=HORIZON,
        scaling=True,
        encode_categorical=False,
        scaler_type="standard",
    )
    bounds = series.bounds
    config = {
        "train": list(bounds["train"]),
        "valid": list(bounds["validation"]),
        "test": list(bounds["test"]),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tsfm_public's own
        datasets = get_datasets(preprocessor, frame, split_config=config)
    return dict(zip(("train", "validation", "test"), datasets, strict=True)), preprocessor


@pytest.mark.parametrize("context", [336, 512])
@pytest.mark.parametrize("name", ["ETTh1", "ETTm1"])
def test_windows_and_their_number_equal_tsfm_public(name, context, real_data_dir, tmp_path):
    series = open_series(name, real_data_dir, tmp_path)
    path = next(real_data_dir.glob(f"{name}.csv*"))
    with gzip.open(path) if path.suffix == ".gz" else open(path) as file:
        frame = pd.read_csv(file)
    theirs, preprocessor = tsfm_datasets(frame, series, context)
    scaler = preprocessor.target_scaler_dict["0"]
    np.testing.assert_allclose(series.mean, scaler.mean_, rtol=1e-9)
    np.testing.assert_allclose(series.std, scaler.scale_, rtol=1e-9)

    feed = open_feed(
        "device",
        series,
        context_length=context,
        prediction_length=HORIZON,
        batch_size=256,
        device="cpu",
        seed=0,
        num_workers=0,
    )
    for split, dataset in theirs.items():
        n_windows = feed.num_windows(split)
        assert n_windows == len(dataset)
        sample = {0, 1, n_windows // 2, n_windows - 2, n_windows - 1, *range(7, n_windows, 97)}
        first = series.bounds[split][0] - (0 if split == "train" else context)
        all_rows = dataset.datasets[0].X.to_numpy()
        np.testing.assert_allclose(series.scaled[first : series.bounds[split][1]], all_rows, rtol=0, atol=1e-6)
        for window in sample:
            item = dataset[window]
            rows = series.scaled[first + window : first + window + context + HORIZON]
            np.testing.assert_allclose(rows[:context], item["past_values"].numpy(), rtol=0, atol=1e-6)
            np.testing.assert_allclose(rows[context:], item["future_values"].numpy(), rtol=0, atol=1e-6)
        if split == "train":
            ours = frame_as_get_datasets_leaves_it(series)[list(dataset.datasets[0].X.columns.map(CHANNEL))]
            assert len(ours._mgr.blocks) == len(dataset.datasets[0].X._mgr.blocks)  # as slow to slice
        else:
            step, batch = next((s, b) for s, b in enumerate(feed.eval_batches(split)) if s == 3)
            for at in (0, 100, 255):
                item = dataset[step * 256 + at]
                np.testing.assert_allclose(batch.past[at], item["past_values"], rtol=0, atol=1e-6)
                np.testing.assert_allclose(batch.future[at], item["future_values"], rtol=0, atol=1e-6)
