"""Files whose rows follow the calendar are read as they are, and named by their step."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from step_kit import OPEN

from data_pipeline.errors import DataError
from data_pipeline.options import DataOptions
from data_pipeline.series.store import open_series


def hours(start, count):
    dates = pd.date_range(start, periods=count, freq="B")
    return pd.DatetimeIndex(np.ravel([[date + pd.Timedelta(time, "us") for time in OPEN] for date in dates]))


INDEXES = {
    "month": pd.date_range("1990-01-01", periods=200, freq="MS"),
    "month end": pd.date_range("1990-01-31", periods=200, freq="ME"),
    "quarter": pd.date_range("1960-01-01", periods=200, freq="QS"),
    "quarter end": pd.date_range("1960-03-31", periods=200, freq="QE"),
    "year": pd.date_range("1820-01-01", periods=200, freq="YS"),
    "year end": pd.date_range("1820-12-31", periods=200, freq="YE"),
    "business day": pd.date_range("2018-01-01", periods=200, freq="B"),
    "1 day": pd.date_range("2018-01-01", periods=200, freq="D"),
    "7 days": pd.date_range("2018-01-01", periods=200, freq="W"),
    "60 min from 08:00 to 17:00 each business day": hours("2021-01-01", 30),
    "day (Europe/Berlin)": pd.date_range("2020-01-01", periods=200, freq="D", tz="Europe/Berlin"),
    "day (Europe/London)": pd.date_range("2020-01-01 09:00", periods=200, freq="D", tz="Europe/London"),
    "day (Asia/Tehran)": pd.date_range("2019-01-01", periods=900).tz_localize(
        "Asia/Tehran", nonexistent="shift_forward"
    ),
    "month (Europe/Berlin)": pd.date_range("2000-01-01", periods=200, freq="MS", tz="Europe/Berlin"),
}


def written(tmp_path, index, name="x.csv"):
    frame = pd.DataFrame({"date": index, "a": np.arange(len(index)) % 7})
    path = tmp_path / name
    if name.endswith(".csv"):
        frame.astype({"date": str}).to_csv(path, index=False)
    else:
        frame.to_parquet(path, index=False)
    return str(path)


@pytest.mark.parametrize("text", INDEXES)
@pytest.mark.parametrize("name", ["x.csv", "x.parquet"])
def test_a_file_of_the_calendar_is_read_and_its_step_named(text, name, tmp_path):
    index = INDEXES[text]
    series = open_series(written(tmp_path, index, name), None, tmp_path / "cache")
    naive = index.tz_convert("UTC").tz_localize(None) if index.tz else index
    assert series.step.text == text and len(series.values) == len(index)
    np.testing.assert_array_equal(series.timestamps, naive.as_unit("us").to_numpy())
    again = open_series(written(tmp_path, index, name), None, tmp_path / "cache")
    assert again.step == series.step


def test_times_of_no_step_are_read_as_rows_if_the_user_says_so(tmp_path):
    index = INDEXES["month"] + pd.to_timedelta(np.arange(200) ** 2 % 977, "min")
    path = written(tmp_path, index)
    with pytest.raises(DataError, match=r"irregular.*data\.step=row"):
        open_series(path, None, tmp_path / "cache")
    series = open_series(path, None, tmp_path / "cache", DataOptions(step="row"))
    assert series.step.text == "row" and series.step_minutes is None and len(series.values) == 200


def test_a_row_written_twice_is_left_out_with_a_note_and_two_rows_of_one_time_are_refused(tmp_path):
    path = tmp_path / "x.csv"
    lines = [f"2021-01-01 {hour:02d}:00:00,{hour % 3}" for hour in range(24)]
    path.write_text("\n".join(["date,a", *lines[:6], lines[5], *lines[6:]]))
    series = open_series(str(path), None, tmp_path / "cache")
    assert len(series.values) == 24 and any("data row 7" in note for note in series.notes)
    path.write_text("\n".join(["date,a", *lines[:6], "2021-01-01 05:00:00,9", *lines[6:]]))
    with pytest.raises(DataError, match="data row 7: the time 2021-01-01 05:00:00 is in the row before"):
        open_series(str(path), None, tmp_path / "cache")
