"""Stand-ins for missing values and outliers are named with row and effect, and kept."""

from __future__ import annotations

import lzma

import numpy as np
import pandas as pd
import pytest
from long_kit import opened, unequal

from data_pipeline.errors import DataError
from data_pipeline.series.doubtful import MOST_NOTES, STAND_INS
from data_pipeline.series.store import open_series
from data_pipeline.source import csv_file

ROWS = 400
SPLITS = {"train": 100, "validation": 300, "test": 390}


def table(row=None, value=None, scale=1.0):
    random = np.random.default_rng(0)
    frame = pd.DataFrame(random.normal(size=(ROWS, 2)).round(3) * scale, columns=["a", "b"])
    if row is not None:
        frame.loc[row, "b"] = value
    frame.insert(0, "date", pd.date_range("2020-01-01", periods=ROWS, freq="h"))
    return frame


def doubts(series):
    return [note for note in series.notes if "a stand-in for" in note or "an outlier?" in note]


@pytest.mark.parametrize("ending", ["csv", "parquet"])
@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("value", [-9999, -999, 999.9, 99999, 5e4, -12345.0])
def test_a_doubtful_value_is_named_by_column_row_and_split_and_kept(value, split, ending, tmp_path):
    row = SPLITS[split]
    series = opened(table(row, value), tmp_path, ending)
    (note,) = doubts(series)
    assert f"column 'b', data row {row + 1} (2020-01-" in note and f"{value:.7g}, in {split}:" in note
    assert ("a stand-in for a missing value?" in note) == (np.float32(value) in STAND_INS)
    assert series.values[row, 1] == np.float32(value)


@pytest.mark.parametrize("split", ["validation", "test"])
def test_outside_of_train_the_effect_is_the_standardised_value(split, tmp_path):
    series = opened(table(SPLITS[split], -9999), tmp_path)
    (note,) = doubts(series)
    assert f"standardised it is {series.scaled[SPLITS[split], 1]:.3g}" in note


def test_in_train_the_effect_is_the_deviation_with_and_without(tmp_path):
    series = opened(table(100, -9999), tmp_path)
    rest = np.delete(series.values[:280, 1].astype(np.float64), 100)
    (note,) = doubts(series)
    assert f"the deviation of train is {series.std[1]:.3g} with such values and {rest.std():.3g} without" in note


@pytest.mark.parametrize("value", [1e30, -1e12, 1e9])
@pytest.mark.parametrize("row", [0, 100, 279])
def test_a_training_value_so_large_that_floats_lose_the_column_is_refused_by_its_row(row, value, tmp_path):
    with pytest.raises(DataError, match=rf"column 'b', data row {row + 1} .* in train: .*data\.missing=interpolate"):
        opened(table(row, value), tmp_path)


def test_many_of_one_column_are_one_note_with_their_number_at_the_first(tmp_path):
    frame = table()
    frame.loc[[300, 305, 311], "b"] = -9999
    (note,) = doubts(opened(frame, tmp_path))
    assert "data row 301 " in note and "the first of 3 in validation" in note


def test_notes_are_bounded_and_the_rest_is_counted(tmp_path):
    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(ROWS, 20)), columns=[f"c{at}" for at in range(20)])
    frame.loc[350] = -9999
    frame.insert(0, "date", pd.date_range("2020-01-01", periods=ROWS, freq="h"))
    series = opened(frame, tmp_path)
    assert len(doubts(series)) == MOST_NOTES and f"in {20 - MOST_NOTES} more columns or splits" in series.notes[-1]


@pytest.mark.parametrize("value", [-999, 9999, 99.99])
def test_a_usual_value_that_looks_like_a_stand_in_is_not_doubtful(value, tmp_path):
    assert not doubts(opened(table(300, value, scale=5000), tmp_path))


def test_seldom_rain_and_columns_that_are_mostly_equal_are_not_doubtful(tmp_path):
    frame = table()
    frame["a"] = np.where(np.arange(ROWS) % 90 == 0, 12.5, 0.0)
    frame["b"] = np.where(np.arange(ROWS) == 350, 3.0, 0.0)
    assert not doubts(opened(frame, tmp_path))


@pytest.mark.parametrize("way", ["interpolate", "drop"])
def test_the_row_is_that_of_the_file_where_rows_were_filled_or_dropped(way, tmp_path):
    frame = table(300, -9999)
    frame.loc[50:53, "a"] = np.nan
    frame = frame.drop(index=[20, 21]).reset_index(drop=True)
    (note,) = doubts(opened(frame, tmp_path, missing=way))
    assert "column 'b', data row 299 (2020-01-13 12:00:00)" in note


@pytest.mark.parametrize("block", [None, 200])
def test_the_row_is_that_of_the_file_where_rows_were_written_twice(block, tmp_path, monkeypatch):
    if block is not None:
        monkeypatch.setattr(csv_file, "BLOCK_BYTES", block)
    frame = table(300, -9999)
    frame = pd.concat([frame.iloc[:51], frame.iloc[[50, 50]], frame.iloc[51:151], frame.iloc[150:]])
    (note,) = doubts(opened(frame, tmp_path))
    assert "column 'b', data row 304 (2020-01-13 12:00:00)" in note


def test_in_a_long_format_the_series_is_named_with_the_row_of_the_file(tmp_path):
    frame = unequal().sample(frac=1, random_state=0).reset_index(drop=True)
    row = frame.index[(frame["unique_id"] == "south") & (frame["ds"] == "2020-01-11 05:00")][0]
    frame.loc[row, "y"] = -9999
    (note,) = doubts(opened(frame, tmp_path))
    assert f"column 'y' of series 'south', data row {row + 1} (2020-01-11 05:00:00): -9999, in test" in note


def test_the_stand_ins_of_the_weather_file_are_named(real_data_dir, tmp_path):
    packed = real_data_dir / "weather.csv.xz"
    if not packed.exists():
        pytest.skip(f"no weather.csv.xz in {real_data_dir}")
    (tmp_path / "weather.csv").write_bytes(lzma.decompress(packed.read_bytes()))
    series = open_series(str(tmp_path / "weather.csv"), None, tmp_path / "cache")
    notes = doubts(series)
    assert {name for name in ("wv (m/s)", "max. PAR", "OT") if any(f"column '{name}" in note for note in notes)} == {
        "wv (m/s)",
        "max. PAR",
        "OT",
    }
    assert all("-9999" in note for note in notes)
