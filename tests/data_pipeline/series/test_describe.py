"""`data show` describes what is in the file."""

from __future__ import annotations

import numpy as np
import pytest

from data_pipeline.errors import DataError
from data_pipeline.series.describe import describe, render


def test_etth1_is_described_with_its_published_numbers(real_data_dir, tmp_path):
    description = describe("ETTh1", real_data_dir, tmp_path, 512, 96)
    assert (
        description.rows,
        description.step.minutes,
        description.gaps,
        description.duplicates,
        description.missing_values,
    ) == (17420, 60, 0, 0, 0)
    assert [(split.name, split.windows) for split in description.splits] == [
        ("train", 8033),
        ("validation", 2785),
        ("test", 2785),
    ]
    assert description.splits[1].first == "2017-06-26 00:00:00" and description.unused_rows == 17420 - 14400
    shown = render(description)
    assert all(part in shown for part in ("17,420 rows x 7", "no gaps", "8,033", "HUFL", description.source_sha256))


def test_drift_gaps_ranges_and_constants_are_measured(tmp_path):
    times = np.datetime64("2020-01-01T00:00:00") + np.arange(1001) * np.timedelta64(1800, "s")
    values = np.tile([-1.0, 1.0], 501)[:1001]
    values[800:] = 2 * values[800:] + 3  # the last fifth: shifted by three deviations, twice as wide
    lines = [f"{t},{v},7" for at, (t, v) in enumerate(zip(times, values, strict=True)) if at != 100]
    (tmp_path / "x.csv").write_text("\n".join(["date,wave,flat", *lines]))
    description = describe(str(tmp_path / "x.csv"), None, tmp_path / "cache", 48, 24)
    assert (description.rows, description.gaps, description.missing_rows) == (1000, 1, 1)
    assert description.step.text == "30 min"
    wave, flat = description.channels
    assert (wave.minimum, wave.maximum, wave.constant, flat.constant) == (-1, 5, False, True)
    train, validation, test = description.splits
    assert train.mean_shift == pytest.approx((0, 0), abs=1e-6) and train.std_ratio == pytest.approx((1, 0), abs=1e-6)
    assert validation.mean_shift[0] == pytest.approx(0, abs=0.02)
    assert test.mean_shift[0] == pytest.approx(3, abs=0.05) and test.std_ratio[0] == pytest.approx(2, abs=0.05)
    shown = render(description)
    assert "1 gaps (1 rows missing)" in shown and "note: constant" in shown and "+3.0" in shown


def test_lengths_without_a_window_are_a_problem_not_an_error(tmp_path):
    description = describe("demo", None, tmp_path, 5000, 96)
    assert description.problem is not None and "train split" in description.problem
    assert all(split.windows == 0 for split in description.splits) and description.problem in render(description)


def test_a_file_that_cannot_be_read_is_one_line(tmp_path):
    with pytest.raises(DataError, match="no ETTh1.csv"):
        describe("ETTh1", tmp_path, tmp_path / "cache", 512, 96)


def test_many_channels_are_cut_short_in_the_text_only(tmp_path):
    times = np.datetime64("2020-01-01T00:00:00") + np.arange(100) * np.timedelta64(3600, "s")
    header = "date," + ",".join(f"c{at}" for at in range(50))
    (tmp_path / "x.csv").write_text("\n".join([header, *(f"{t},{','.join(['1'] * 50)}" for t in times)]))
    description = describe(str(tmp_path / "x.csv"), None, tmp_path / "cache", 8, 4)
    assert len(description.channels) == 50 and "38 channels more" in render(description)
