"""The end of a file is read with every kind of step: what follows a series follows its calendar, on its own clock."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from step_kit import STEPS

from data_pipeline.errors import DataError
from data_pipeline.options import DataOptions
from data_pipeline.series.steps import DayStep, FixedStep, RowStep
from data_pipeline.series.tail import read_tail

HOUR = FixedStep(step_us=3_600_000_000)


def written(tmp_path, index, values=None):
    values = np.arange(len(index)) % 7 + 0.5 if values is None else values
    pd.DataFrame({"date": index, "a": values}).to_csv(tmp_path / "x.csv", index=False)
    return tmp_path / "x.csv"


@pytest.mark.parametrize("name", STEPS)
def test_the_end_of_a_series_of_every_step_is_read_and_another_step_is_refused(name, tmp_path):
    step, times, _ = STEPS[name]
    index = pd.DatetimeIndex(times[:80].view("datetime64[us]"))
    index = index.tz_localize("UTC") if getattr(step, "zone", None) else index
    table = read_tail(written(tmp_path, index), columns=["a"], rows=24, step=step)
    np.testing.assert_array_equal(table.timestamps, times[56:80])
    np.testing.assert_array_equal(step.after(table.timestamps, 10), times[80:90])
    other = FixedStep(step_us=777_000_000)
    with pytest.raises(DataError, match="trained on one per"):
        read_tail(tmp_path / "x.csv", columns=["a"], rows=24, step=other)


def test_a_missing_row_of_a_calendar_is_a_gap_at_the_end_and_no_matter_before(tmp_path):
    step, times, _ = STEPS["business day"]
    index = pd.DatetimeIndex(times[:80].view("datetime64[us]"))
    assert len(read_tail(written(tmp_path, index.delete(10)), columns=["a"], rows=24, step=step).values) == 24
    with pytest.raises(DataError, match="there is a gap"):
        read_tail(written(tmp_path, index.delete(70)), columns=["a"], rows=24, step=step)


def test_a_row_written_twice_counts_once_as_in_training(tmp_path):
    index, values = pd.date_range("2021-01-01", periods=60, freq="h"), np.arange(60) % 7 + 0.5
    twice = [*range(56), 55, *range(56, 60)]
    table = read_tail(written(tmp_path, index[twice], values[twice]), columns=["a"], rows=24, step=HOUR)
    np.testing.assert_array_equal(table.values[:, 0], values[-24:].astype(np.float32))
    with pytest.raises(DataError, match="keep one row per time"):
        read_tail(written(tmp_path, index[twice], np.arange(61)), columns=["a"], rows=24, step=HOUR)


def test_times_of_several_offsets_are_shown_on_the_clock_of_the_models_step(tmp_path):
    index = pd.date_range("2020-03-01", periods=60, freq="D", tz="Europe/Berlin")
    step = DayStep(times_us=(0,), zone="Europe/Berlin")
    assert read_tail(written(tmp_path, index), columns=["a"], rows=24, step=step).zone == "Europe/Berlin"
    winter = pd.date_range("2020-01-01", periods=60, freq="D", tz="Europe/Berlin")
    assert read_tail(written(tmp_path, winter), columns=["a"], rows=24, step=step).zone == "Europe/Berlin"
    in_utc = winter.tz_convert("UTC")
    assert read_tail(written(tmp_path, in_utc), columns=["a"], rows=24, step=step).zone == "UTC"


def test_rows_are_numbered_where_the_model_knows_only_rows(tmp_path):
    index = pd.DatetimeIndex(["2021-01-01", "2020-01-01", "2020-01-01"] * 20)
    options = DataOptions(step="row")
    table = read_tail(written(tmp_path, index), columns=["a"], rows=24, step=RowStep(), options=options)
    assert table.timestamp_column is None and list(table.timestamps) == list(range(36, 60))
