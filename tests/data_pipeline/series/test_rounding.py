"""Values become 32-bit floats: a column that would lose its signal is refused in one line, any other is kept."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pa_parquet
import pytest

from data_pipeline.errors import DataError
from data_pipeline.series.store import open_series
from data_pipeline.source import csv_file

HOURS = np.arange(2000)
NOISE = np.random.default_rng(0).normal(size=2000)
SINE = 5 * np.sin(HOURS / 7) + NOISE


def write(path, values):
    times = np.datetime64("2020-01-01", "us") + HOURS * np.timedelta64(3600, "s")
    if path.suffix == ".parquet":
        pa_parquet.write_table(pa.table({"date": times, "small": SINE, "large": values}), path)
        return
    lines = [
        f"{time},{small!r},{large!r}" for time, small, large in zip(times, SINE.tolist(), values.tolist(), strict=True)
    ]
    path.write_text("\n".join(["date,small,large", *lines]) + "\n")


LOST = {
    "a large offset": 1e8 + SINE,
    "an offset that makes it constant": 1e9 + 0.25 * HOURS / 2000,
    "an offset that makes only the training rows constant": np.where(
        HOURS < 1400, 1e9 + 0.01 * HOURS, 2e9 + 128 * HOURS
    ),
    "a cumulative meter": 1e10 + np.cumsum(np.abs(SINE)),
    "a counter of whole numbers": 2**40 + HOURS,
    "a counter past what 64-bit floats hold": 2**60 + HOURS,
    "a step after constant training rows": np.where(HOURS < 1400, 1e9, 1e9 + 0.25 * HOURS),
}


@pytest.mark.parametrize("ending", ["csv", "parquet"])
@pytest.mark.parametrize("case", LOST)
def test_a_column_that_32_bit_floats_do_not_hold_is_refused_in_one_line(case, ending, tmp_path):
    path = tmp_path / f"x.{ending}"
    write(path, LOST[case])
    with pytest.raises(DataError, match="column 'large' loses up to .* deviation .* subtract a constant") as caught:
        open_series(str(path), None, tmp_path / "cache")
    assert str(caught.value).isprintable() and str(path) in str(caught.value)
    assert [left for left in (tmp_path / "cache").iterdir() if left.suffix != ".lock"] == []


KEPT = {
    "a moderate offset": 1e4 + SINE,
    "decimals of no finite binary form": np.round(SINE, 1),
    "a constant": np.full(2000, 0.1),
    "a large constant": np.full(2000, 1e9 + 0.3),
    "a spread of thirty orders of magnitude": 10.0 ** (30 * np.sin(HOURS)),
    "a counter that starts at zero": HOURS,
}


@pytest.mark.parametrize("ending", ["csv", "parquet"])
@pytest.mark.parametrize("case", KEPT)
def test_a_column_that_32_bit_floats_hold_is_rounded_once(case, ending, tmp_path):
    write(tmp_path / f"x.{ending}", KEPT[case])
    series = open_series(str(tmp_path / f"x.{ending}"), None, tmp_path / "cache")
    np.testing.assert_array_equal(series.values[:, 1], KEPT[case].astype(np.float32))
    exact = KEPT[case].astype(np.float64)
    lost = np.abs(series.mean[1] + series.std[1] * series.scaled[:, 1].astype(np.float64) - exact).max()
    assert np.ptp(exact) == 0 or lost < 2e-3 * series.std[1]


def test_a_loss_in_any_chunk_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(csv_file, "BLOCK_BYTES", 1 << 12)
    values = SINE.copy()
    values[1500] = 1e9 + 7
    write(tmp_path / "x.csv", values)
    with pytest.raises(DataError, match="'large' loses up to"):
        open_series(str(tmp_path / "x.csv"), None, tmp_path / "cache")


@pytest.mark.parametrize("ending", ["csv", "parquet"])
@pytest.mark.parametrize(("row", "value"), [(1450, 1e30), (1500, 1e9 + 7), (1999, -1e9 - 7)])
def test_one_value_far_above_the_rest_is_named_by_its_row_as_an_outlier(row, value, ending, tmp_path):
    write(tmp_path / f"x.{ending}", np.where(row == HOURS, value, SINE))
    with pytest.raises(DataError, match=rf"'large' loses up to .* data row {row + 1} \(.*an outlier\?") as caught:
        open_series(str(tmp_path / f"x.{ending}"), None, tmp_path / "cache")
    assert "subtract" not in str(caught.value) and str(caught.value).isprintable()
