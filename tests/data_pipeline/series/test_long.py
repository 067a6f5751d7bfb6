"""Long format: series with the same times become columns, others stay apart; the order of rows changes nothing."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from long_kit import ORDERS, equal, opened, series_of, unequal

from data_pipeline.errors import DataError
from data_pipeline.series import rows as rows_module
from data_pipeline.series.windows import window_starts

SPLITS = ("train", "validation", "test")


@pytest.mark.parametrize("columns", [("y",), ("y", "z")])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_series_with_the_same_times_become_columns_in_counting_order(ending, order, columns, tmp_path):
    series = opened(ORDERS[order](equal(columns)), tmp_path, ending)
    names = ["9", "10", "a", "b"]
    wide = equal(columns).pivot(index="ds", columns="unique_id", values=list(columns))
    assert series.columns == (tuple(names) if columns == ("y",) else tuple(f"{n}.{c}" for n in names for c in columns))
    want = np.stack([wide[column, name] for name in names for column in columns], axis=1)
    np.testing.assert_array_equal(series.values, want.astype(np.float32))
    np.testing.assert_array_equal(series.timestamps, wide.index.to_numpy())
    assert len(series.groups) == 1 and series.bounds["train"] == (0, 140)
    assert any("4 series with the same times, side by side as columns" in note for note in series.notes)


@pytest.mark.parametrize("columns", [("y",), ("y", "z")])
@pytest.mark.parametrize("order", ORDERS)
def test_series_of_unequal_lengths_lie_one_after_another_each_scaled_on_its_own_training_rows(order, columns, tmp_path):
    series = opened(ORDERS[order](unequal(columns)), tmp_path)
    tables = {name: table for name, table in unequal(columns).groupby("unique_id")}
    assert [group.id for group in series.groups] == ["9", "10", "north", "south"] and series.columns == columns
    border = pd.date_range("2020-01-01", periods=301, freq="h")[[0, 210, 240, 300]]  # 300 hours from first to last
    for group in series.groups:
        table = tables[group.id]
        rows = slice(*group.rows)
        np.testing.assert_array_equal(series.timestamps[rows], table["ds"].to_numpy())
        np.testing.assert_array_equal(series.values[rows], table[list(columns)].to_numpy(np.float32))
        for at, split in enumerate(SPLITS):
            inside = (table["ds"] >= border[at]) & (table["ds"] < border[at + 1])
            times = series.timestamps[slice(*group.bounds[split])]
            np.testing.assert_array_equal(times, table["ds"][inside].to_numpy())
        train = series.values[slice(*group.bounds["train"])].astype(np.float64)
        np.testing.assert_allclose(group.mean, train.mean(axis=0), rtol=1e-9)
        np.testing.assert_allclose(group.std, train.std(axis=0), rtol=1e-9)
        scaled = ((series.values[rows] - group.mean) / group.std).astype(np.float32)
        np.testing.assert_array_equal(series.scaled[rows], scaled)
    assert any("4 series of 120 to 300 rows" in note for note in series.notes)
    assert any("validation from 2020-01-09 18:00:00, test from 2020-01-11 00:00:00" in note for note in series.notes)


def test_windows_of_every_series_are_counted_and_a_short_one_is_left_out_of_a_split(tmp_path):
    series = opened(unequal(), tmp_path)
    starts = window_starts(series.every_bounds, 24, 6)
    assert starts["train"].counts == (120 - 29, 160 - 29, 210 - 29, 190 - 29)
    assert starts["validation"].counts == (0, 25, 25, 25) and starts["test"].counts == (0, 55, 55, 25)


def test_a_series_without_training_rows_is_left_out_by_name(tmp_path):
    late = series_of("late", 280, 20)
    series = opened(pd.concat([unequal(), late]), tmp_path)
    assert [group.id for group in series.groups] == ["9", "10", "north", "south"]
    assert any("1 series have under 2 training rows and are left out: late" in note for note in series.notes)
    assert len(series.values) == len(unequal())


@pytest.mark.parametrize("way", ["interpolate", "ffill"])
def test_gaps_of_each_series_are_filled_within_its_splits(way, tmp_path):
    table = unequal()
    lacking = table.drop(index=[5, 6, 7, 320, 700]).reset_index(drop=True)
    lacking.loc[[50, 400, 401], "y"] = np.nan
    series = opened(lacking, tmp_path, missing=way)
    for group in series.groups:
        whole = lacking[lacking["unique_id"] == group.id].set_index("ds")["y"].asfreq("h")
        values, mask = series.values[slice(*group.rows), 0], series.filled[slice(*group.rows), 0]
        np.testing.assert_array_equal(mask, whole.isna())
        start = group.rows[0]
        for split in SPLITS:
            first, stop = (row - start for row in group.bounds[split])
            part = whole.iloc[first:stop]
            part = (part.interpolate() if way == "interpolate" else part.ffill()).ffill().bfill()
            np.testing.assert_allclose(values[first:stop], part, rtol=0, atol=1e-5)
    assert any(f"{series.filled.sum()} cells filled" in note for note in series.notes)


def test_series_that_have_the_same_times_once_filled_become_columns(tmp_path):
    table = equal().drop(index=[5, 250, 251]).reset_index(drop=True)
    assert len(opened(table, tmp_path, name="as_it_is").groups) == 4
    series = opened(table, tmp_path, missing="interpolate")
    assert series.columns == ("9", "10", "a", "b") and series.filled.sum() == 3 and len(series.values) == 200


def test_rows_with_a_missing_cell_are_dropped_from_their_series(tmp_path):
    table = unequal()
    table.loc[[50, 400, 401], "y"] = np.nan
    series = opened(table, tmp_path, missing="drop")
    assert len(series.values) == len(table) - 3 and series.filled is None
    assert any("3 rows with a missing value dropped" in note for note in series.notes)
    assert any("3 rows missing in 2 gaps" in note for note in series.notes)


def test_blocks_of_any_size_read_alike(tmp_path, monkeypatch):
    want = opened(unequal(("y", "z")), tmp_path, name="want")
    monkeypatch.setattr(rows_module, "COPY_BYTES", 8 * 7)
    got = opened(unequal(("y", "z")), tmp_path, name="got")
    np.testing.assert_array_equal(got.scaled, want.scaled)


@pytest.mark.parametrize("table", [equal, unequal])
def test_a_row_written_twice_is_left_out_and_another_value_at_its_time_is_refused(table, tmp_path):
    twice = pd.concat([table(), table().iloc[[30]]], ignore_index=True)
    series = opened(twice, tmp_path)
    np.testing.assert_array_equal(series.scaled, opened(table(), tmp_path, name="once").scaled)
    assert any("1 rows equal to another of their series and time left out" in note for note in series.notes)
    twice.loc[len(twice) - 1, "y"] += 1
    with pytest.raises(DataError, match=rf"data row {len(twice)}: the time 2020-01-02 06.* is in data row 31 too"):
        opened(twice, tmp_path)


def test_a_missing_cell_is_refused_by_default_with_its_row_in_the_file(tmp_path):
    table = unequal()
    table.loc[400, "y"] = np.nan
    with pytest.raises(DataError, match=r"data row 401, column 'y': no value: set data\.missing="):
        opened(table, tmp_path)


def test_a_series_of_another_step_is_refused_by_name_and_row(tmp_path):
    odd = series_of("odd", 0, 50, freq="7min")
    with pytest.raises(DataError, match="data row 922: the time .* of series 'odd' does not fit one row per 60 min"):
        opened(pd.concat([unequal(), odd]), tmp_path)


def test_an_outlier_is_named_by_its_row_in_the_file(tmp_path):
    table = unequal()
    table.loc[295, "y"] = 1e30
    with pytest.raises(DataError, match=r"series 'north'.* data row 296 .*an outlier\?"):
        opened(table, tmp_path)


def test_dates_split_every_series_and_three_files_are_refused(tmp_path):
    series = opened(unequal(), tmp_path, split="2020-01-08/2020-01-10")
    for group in series.groups:
        times = series.timestamps[slice(*group.rows)]
        borders = np.searchsorted(times, np.array(["2020-01-08", "2020-01-10"], "datetime64[us]")) + group.rows[0]
        assert [group.bounds[split][0] for split in SPLITS[1:]] == borders.tolist()
    for name in ("validation", "test"):
        unequal().to_csv(tmp_path / f"{name}.csv", index=False)
    files = ",".join(str(tmp_path / f"{name}.csv") for name in ("validation", "test"))
    with pytest.raises(DataError, match="several series below each other .* not split by files"):
        opened(unequal(), tmp_path, split=files)


def test_one_series_of_a_long_format_is_one_column_by_its_name(tmp_path):
    series = opened(series_of("only", 0, 200), tmp_path)
    assert series.columns == ("only",) and len(series.groups) == 1
