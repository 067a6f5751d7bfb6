"""Rows of each split, by fractions, by dates on the file's own clock and by months, and what suits no series."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from step_kit import HOUR, STEPS, times

from data_pipeline.datasets import ETT_SPLIT
from data_pipeline.errors import DataError
from data_pipeline.options import DataOptions
from data_pipeline.series.splits import split_bounds
from data_pipeline.series.steps import FixedStep, RowStep
from data_pipeline.series.store import open_series
from data_pipeline.split_rule import parse_split

HOURLY = FixedStep(step_us=HOUR)


def bounds(text, axis, step=HOURLY, zone=None):
    return split_bounds(parse_split(text), len(axis), step, time_of=lambda row: int(axis[row]), zone=zone)


@pytest.mark.parametrize("name", STEPS)
def test_fractions_are_of_rows_whatever_the_step(name):
    step, axis, _ = STEPS[name]
    found = bounds("0.5/0.25/0.25", axis[:80], step)
    assert found == {"train": (0, 40), "validation": (40, 60), "test": (60, 80)}


@pytest.mark.parametrize("name", STEPS)
def test_dates_begin_a_split_at_the_first_row_that_is_not_before_them(name):
    step, axis, _ = STEPS[name]
    zone = getattr(step, "zone", None)
    clock = pd.DatetimeIndex(axis.view("datetime64[us]"))
    if zone is not None:
        clock = clock.tz_localize("UTC").tz_convert(zone).tz_localize(None)
    on, between = clock[40].isoformat(), (clock[60] + pd.Timedelta(1, "s")).isoformat()
    assert bounds(f"{on}/{between}", axis[:80], step, zone) == {
        "train": (0, 40),
        "validation": (40, 61),
        "test": (61, 80),
    }


@pytest.mark.parametrize(
    ("dates", "empty"),
    [
        ("2019-01-01/2020-01-05", "train"),
        ("2020-01-01/2020-01-05", "train"),
        ("2020-01-02T00:30/2020-01-02T00:45", "validation"),
        ("2020-01-02/2021-01-01", "test"),
        ("2021-01-01/2021-01-02", "validation"),
    ],
)
def test_dates_that_leave_a_split_without_rows_are_refused_with_the_range_of_the_series(dates, empty):
    axis = times(pd.date_range("2020-01-01", periods=200, freq="h"))
    with pytest.raises(DataError, match=f"no row for {empty}.*from 2020-01-01 00:00:00 to 2020-01-09 07:00:00"):
        bounds(dates, axis)


def test_dates_say_nothing_of_rows_without_times():
    with pytest.raises(DataError, match="split by fractions"):
        bounds("2020-01-01/2020-01-02", np.arange(100), RowStep())


def test_months_of_30_days_need_a_step_of_minutes():
    step, axis, _ = STEPS["business day"]
    with pytest.raises(DataError, match="one row is a business day: split by fractions"):
        split_bounds(ETT_SPLIT, len(axis), step)


@pytest.mark.parametrize(("rows", "needed"), [(4, 5), (2, 5)])
def test_a_series_too_short_for_its_fractions_is_told_how_many_rows_it_needs(rows, needed):
    with pytest.raises(DataError, match=f"{rows} rows given, too few .* give at least {needed}"):
        bounds("0.6/0.2/0.2", np.arange(rows) * HOUR)


def test_a_file_is_split_as_the_user_says_and_again_if_he_says_otherwise(tmp_path):
    frame = pd.DataFrame({"date": pd.date_range("2021-01-01", periods=1000, freq="h"), "a": np.arange(1000) % 7})
    frame.to_csv(tmp_path / "x.csv", index=False)

    def opened(split):
        return open_series(str(tmp_path / "x.csv"), None, tmp_path / "cache", DataOptions(split=split)).bounds

    assert opened("0.6/0.2/0.2") == {"train": (0, 600), "validation": (600, 800), "test": (800, 1000)}
    assert opened("2021-01-21/2021-02-01") == {"train": (0, 480), "validation": (480, 744), "test": (744, 1000)}
    assert opened(None)["train"] == (0, 700)


def test_training_statistics_are_those_of_the_chosen_training_rows(tmp_path):
    frame = pd.DataFrame({"date": pd.date_range("2021-01-01", periods=100, freq="h"), "a": np.arange(100.0)})
    frame.to_csv(tmp_path / "x.csv", index=False)
    series = open_series(str(tmp_path / "x.csv"), None, tmp_path / "cache", DataOptions(split="0.2/0.4/0.4"))
    assert series.mean[0] == pytest.approx(9.5) and series.std[0] == pytest.approx(np.arange(20).std())


@pytest.mark.parametrize("zone", ["Europe/Berlin", "+02:00", "UTC"])
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_dates_are_read_on_the_clock_of_the_file(zone, suffix, tmp_path):
    frame = pd.DataFrame({"date": pd.date_range("2021-05-01", periods=500, freq="h", tz=zone), "a": np.arange(500) % 7})
    path = tmp_path / f"x{suffix}"
    frame.to_csv(path, index=False) if suffix == ".csv" else frame.to_parquet(path, index=False)
    series = open_series(str(path), None, tmp_path / "cache", DataOptions(split="2021-05-11/2021-05-15"))
    assert series.bounds["validation"] == (240, 336)
    assert series.timestamps[240] == frame["date"][240].tz_convert("UTC").tz_localize(None).to_datetime64()
