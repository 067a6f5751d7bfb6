"""Saved forecasts of the test set are those that the trial's errors were computed from, at the file's times."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pa_parquet
import pytest
from trial_kit import Recorder, run_small, small_job

from data_pipeline.series.store import open_series
from model.forecaster import Forecaster
from tune.trial import saved_forecasts
from tune.trial.run import run_trial

L, H = 48, 24


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The last report's folder of a trial of one epoch."""
    monkeypatch.setattr(saved_forecasts, "MOST_ROWS", 5 * H * 7)  # several row groups a batch
    folder = tmp_path / "run"
    folder.mkdir()
    recorder = Recorder(folder)
    run_trial(replace(small_job(folder, train__epochs=1), save_forecasts=True), recorder)
    assert recorder.final["status"] == "done", recorder.final
    last = folder / f"report-{len(recorder.reports)}"
    (last / "test_mse").write_text(repr(recorder.final["metrics"]["final/test_mse"]))
    return last


def test_saved_forecasts_have_the_errors_truth_and_times_of_the_test_set(trained: Path, tmp_path: Path) -> None:
    frame = pd.read_parquet(trained / "forecasts" / "test.parquet")
    series = open_series("demo", None, tmp_path / "arrow")
    start, stop = series.bounds["test"]
    windows = stop - start - H + 1
    assert list(frame.columns) == ["cutoff", "step", "time", "column", "forecast", "truth"]
    assert len(frame) == windows * H * 7 and frame["cutoff"].nunique() == windows
    names, std = frame["column"].astype(str), dict(zip(series.columns, series.std, strict=True))
    scaled = (frame["forecast"] - frame["truth"]) / names.map(std)
    assert np.mean(np.square(scaled)) == pytest.approx(float((trained / "test_mse").read_text()), rel=1e-5)
    assert ((frame["time"] - frame["cutoff"]) == pd.to_timedelta(frame["step"], unit="h")).all()
    truth = pd.DataFrame(series.values, columns=list(series.columns), index=series.timestamps).stack()
    expected = truth.loc[list(zip(frame["time"], names, strict=True))].to_numpy()
    assert (frame["truth"].to_numpy() == expected).all()
    assert frame["cutoff"].iloc[0] == pd.Timestamp(series.timestamps[start - 1])
    own = Forecaster(trained / "model").forecast(series.values[start - L : start])
    first = frame.head(7 * H).pivot(index="step", columns="column", values="forecast")[list(series.columns)]
    np.testing.assert_allclose(first.to_numpy(), own, rtol=1e-4, atol=1e-4)


def test_memory_is_bounded_by_row_groups(trained: Path) -> None:
    file = pa_parquet.ParquetFile(trained / "forecasts" / "test.parquet")
    sizes = {file.metadata.row_group(index).num_rows for index in range(file.num_row_groups)}
    assert file.num_row_groups > 3 and max(sizes) <= 5 * H * 7


def test_without_the_option_nothing_is_saved_and_the_errors_are_the_same(trained: Path, tmp_path: Path) -> None:
    plain = run_small(tmp_path / "plain", train__epochs=1)
    assert plain.final["metrics"]["final/test_mse"] == float((trained / "test_mse").read_text())
    assert not (tmp_path / "plain" / f"report-{len(plain.reports)}" / "forecasts").exists()
