"""A trial trains the batch of its configuration, says what an epoch trained, and tells its time for all windows."""

from __future__ import annotations

from pathlib import Path

import pytest
from csv_kit import rows, text
from trial_kit import run_small, small_config

from data_pipeline.series.store import open_series


@pytest.mark.parametrize("batch", [256, 500])
def test_the_end_has_the_windows_and_steps_of_an_epoch_and_its_time_for_all_windows(batch: int, tmp_path: Path) -> None:
    """demo has 2,240 training rows: 2,169 windows of 48 + 24."""
    metrics = run_small(tmp_path / "a", train__epochs=2, train__batch_size=batch).final["metrics"]
    steps = 2169 // batch
    assert (metrics["final/steps_per_epoch"], metrics["final/windows_per_epoch"]) == (steps, steps * batch)
    all_windows_s = metrics["final/median_epoch_s"] * 2169 / (steps * batch)
    assert metrics["final/epoch_all_windows_s"] == pytest.approx(all_windows_s, rel=1e-12)


def test_a_batch_above_the_windows_is_unsupported_in_the_trial_too_and_trains_nothing(tmp_path: Path) -> None:
    """As where the file that a node has is shorter than the planned one."""
    file = tmp_path / "short.csv"
    file.write_text(text(rows(400)))
    fields = {"data__dataset": str(file), "train__batch_size": 256}
    assert small_config(**{name.replace("__", "."): value for name, value in fields.items()}).train.batch_size == 256
    windows = open_series(str(file), None, tmp_path / "cache").bounds["train"][1] - 48 - 24 + 1
    done = run_small(tmp_path / "a", **fields)
    assert done.epochs == [] and done.final["status"] == "unsupported"
    assert f"train.batch_size=256 is above the {windows} training windows" in done.final["reason"]
