"""Train, validation and test from a file each: in the order of time, of the same columns, joined where times join."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from data_pipeline.errors import DataError
from data_pipeline.feed.batches import BatchPlan
from data_pipeline.options import DataOptions
from data_pipeline.series.describe import describe
from data_pipeline.series.store import open_series

PARTS = {"train": 300, "val": 100, "test": 80}


def written(tmp_path, *, gap=0, zone=None, freq="h", suffix=".csv", **changes):
    """Three files; `gap` rows lie between two of them. `changes` maps a name to a function of its frame."""
    index = pd.date_range("2021-01-01", periods=sum(PARTS.values()) + 2 * gap, freq=freq, tz=zone)
    first, paths = 0, {}
    for name, rows in PARTS.items():
        values = np.arange(first, first + rows) % 11
        frame = pd.DataFrame({"date": index[first : first + rows], "a": values, "b": values * 0.5})
        frame = changes.get(name, lambda frame: frame)(frame)
        paths[name] = tmp_path / f"{name}{suffix}"
        if suffix == ".csv":
            frame.to_csv(paths[name], index=False)
        else:
            frame.to_parquet(paths[name], index=False)
        first += rows + gap
    return paths


def opened(tmp_path, paths, **options):
    split = f"{paths['val']},{paths['test']}"
    return open_series(str(paths["train"]), None, tmp_path / "cache", DataOptions(split=split, **options))


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize("freq", ["h", "MS", "B"])
def test_files_whose_times_join_are_one_series_split_at_their_borders(suffix, freq, tmp_path):
    series = opened(tmp_path, written(tmp_path, suffix=suffix, freq=freq))
    assert dict(series.bounds) == {"train": (0, 300), "validation": (300, 400), "test": (400, 480)}
    assert series.apart == () and series.mean[0] == pytest.approx(np.mean(np.arange(300) % 11))
    plan = BatchPlan(series, context_length=24, prediction_length=6, batch_size=8, seed=1)
    assert len(plan.starts["validation"]) == 100 - 6 + 1


@pytest.mark.parametrize("freq", ["h", "MS", "B"])
def test_windows_stay_within_a_file_whose_times_do_not_join(freq, tmp_path):
    series = opened(tmp_path, written(tmp_path, gap=50, freq=freq))
    assert series.apart == ("validation", "test") and any("the file of test" in note for note in series.notes)
    plan = BatchPlan(series, context_length=24, prediction_length=6, batch_size=8, seed=1)
    assert [len(starts) for starts in plan.starts.values()] == [271, 71, 51]
    rows, _ = plan.evaluation("validation")
    assert int(rows.min()) == 300


def test_the_time_between_files_is_no_gap(tmp_path):
    paths = written(tmp_path, gap=500, val=lambda frame: frame.drop(index=[7]))
    split = f"{paths['val']},{paths['test']}"
    told = describe(str(paths["train"]), None, tmp_path / "cache", 24, 6, DataOptions(split=split))
    assert (told.gaps, told.missing_rows) == (1, 1)
    assert told.protocol["split"]["rule"].startswith("a file for each: validation")


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            "val",
            lambda frame: frame.rename(columns={"b": "c"}),
            "its columns are a, c .*train.csv are a, b",
        ),
        ("test", lambda frame: frame[["date", "a"]], "its columns are a "),
        ("test", lambda frame: frame.rename(columns={"date": "time"}), "times in time"),
        ("val", lambda frame: frame.assign(date=frame["date"] - pd.Timedelta("2h")), "without overlap"),
        ("test", lambda frame: frame.assign(date=frame["date"] - pd.Timedelta("90D")), "without overlap"),
        ("val", lambda frame: frame.iloc[:0], "no data rows"),
        ("val", lambda frame: frame.assign(a=["x", *frame["a"][1:]]), "val.csv: data row 1, column 'a'"),
        ("test", lambda frame: frame.iloc[::-1], "test.csv: data row 2: time goes backwards"),
        ("test", lambda frame: pd.concat([frame[:5], frame[4:].assign(a=99)]), "test.csv: data row 6: the time"),
    ],
)
def test_files_that_do_not_fit_are_refused_by_name(name, change, message, tmp_path):
    with pytest.raises(DataError, match=message) as caught:
        opened(tmp_path, written(tmp_path, **{name: change}))
    assert f"{name}.csv" in str(caught.value)


def test_columns_in_another_order_are_the_same_columns(tmp_path):
    series = opened(tmp_path, written(tmp_path, val=lambda frame: frame[["b", "date", "a"]]))
    np.testing.assert_array_equal(series.values[:, 1], series.values[:, 0] / 2)


def test_a_missing_file_is_named(tmp_path):
    paths = written(tmp_path)
    with pytest.raises(DataError, match=r"there is no file .*nowhere\.csv"):
        opened(tmp_path, paths | {"val": tmp_path / "nowhere.csv"})


@pytest.mark.parametrize("name", ["train", "val", "test"])
def test_a_change_in_any_of_the_files_is_read(name, tmp_path):
    first = opened(tmp_path, written(tmp_path))
    second = opened(tmp_path, written(tmp_path, **{name: lambda frame: frame.assign(a=5.0)}))
    assert second.source_sha256 != first.source_sha256 and (second.values[:, 0] == 5).sum() >= PARTS[name]


def test_rows_without_meaningful_times_are_split_at_the_files_and_windows_stay_within_them(tmp_path):
    series = opened(tmp_path, written(tmp_path), step="row")
    assert series.bounds["test"] == (400, 480) and series.apart == ("validation", "test")


@pytest.mark.parametrize("way", ["interpolate", "ffill", "drop"])
def test_missing_cells_are_treated_within_joined_files(way, tmp_path):
    paths = written(tmp_path, val=lambda frame: frame.assign(a=[1, None, *frame["a"][2:]]))
    series = opened(tmp_path, paths, missing=way)
    lost = 1 if way == "drop" else 0
    assert series.bounds["validation"] == (300, 400 - lost) and len(series.values) == 480 - lost


def test_nothing_is_filled_between_files_that_do_not_join(tmp_path):
    paths = written(tmp_path, gap=5, val=lambda frame: frame.assign(a=[1, None, *frame["a"][2:]]))
    with pytest.raises(DataError, match=r"fills no rows between the files"):
        opened(tmp_path, paths, missing="interpolate")
    assert len(opened(tmp_path, paths, missing="drop").values) == 479


def test_a_long_format_is_not_split_by_files(tmp_path):
    paths = written(tmp_path, train=lambda frame: frame.assign(unique_id="x").rename(columns={"date": "ds", "a": "y"}))
    with pytest.raises(DataError, match=r"give two dates"):
        opened(tmp_path, paths, id_column="unique_id")
