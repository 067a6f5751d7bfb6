"""Missing values: refused by default, filled within their split, or dropped; what was filled is known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from data_pipeline.errors import DataError
from data_pipeline.options import DataOptions
from data_pipeline.series import rows as rows_module
from data_pipeline.series.fill import DEFAULT_MAX_GAP
from data_pipeline.series.store import open_series

ROWS = 200
BORDERS = {"train": (0, 140), "validation": (140, 160), "test": (160, 200)}


def frame(holes=(), absent=()):
    """200 hourly rows of two columns. `holes`: cells (row, column) without a value; `absent`: rows that are missing."""
    random = np.random.default_rng(0)
    table = pd.DataFrame(random.normal(size=(ROWS, 2)).round(3), columns=["a", "b"])
    for row, column in holes:
        table.loc[row, column] = np.nan
    table.insert(0, "date", pd.date_range("2020-01-01", periods=ROWS, freq="h"))
    return table.drop(index=list(absent))


def opened(table, tmp_path, ending="csv", **options):
    path = tmp_path / f"x.{ending}"
    if ending == "parquet":
        table.to_parquet(path, index=False)
    else:
        table.to_csv(path, index=False)
    return open_series(str(path), None, tmp_path / "cache", DataOptions(**options))


def by_hand(table, way):
    """The same with pandas: each split on its own, then the nearest value at its edges."""
    whole = table.set_index("date").asfreq("h")
    parts = [whole.iloc[start:stop] for start, stop in BORDERS.values()]
    filled = [part.interpolate("linear") if way == "interpolate" else part.ffill() for part in parts]
    return pd.concat([part.ffill().bfill() for part in filled])


HOLES = {
    "one cell": dict(holes=[(50, "a")]),
    "a run in one column": dict(holes=[(row, "b") for row in range(60, 70)]),
    "missing rows": dict(absent=[30, 31, 32, 170]),
    "cells beside missing rows": dict(holes=[(29, "a"), (33, "a"), (33, "b")], absent=[30, 31, 32]),
    "the end of a split": dict(holes=[(row, "a") for row in range(136, 140)]),
    "the start of a split": dict(holes=[(row, "a") for row in range(140, 145)]),
    "across both borders": dict(holes=[(row, "a") for row in range(158, 163)], absent=[139, 140, 141]),
    "the first and the last row": dict(holes=[(0, "a"), (0, "b"), (199, "a")]),
    "more than 1 % of the rows": dict(absent=range(20, 44)),
}


@pytest.mark.parametrize("way", ["interpolate", "ffill"])
@pytest.mark.parametrize("ending", ["csv", "parquet"])
@pytest.mark.parametrize("case", HOLES)
def test_filled_values_are_those_of_pandas_on_each_split_alone(case, ending, way, tmp_path):
    table = frame(**HOLES[case])
    series = opened(table, tmp_path, ending, missing=way)
    want = by_hand(table, way)
    assert dict(series.bounds) == BORDERS
    np.testing.assert_array_equal(series.timestamps, want.index.to_numpy())
    np.testing.assert_allclose(series.values, want.to_numpy(), rtol=0, atol=1e-6)
    np.testing.assert_array_equal(series.filled, table.set_index("date").asfreq("h").isna().to_numpy())


@pytest.mark.parametrize("way", ["interpolate", "ffill"])
def test_a_block_of_any_size_is_filled_alike(way, tmp_path, monkeypatch):
    table = frame(**HOLES["across both borders"])
    monkeypatch.setattr(rows_module, "COPY_BYTES", 8 * 3)  # three rows
    series = opened(table, tmp_path, missing=way)
    np.testing.assert_allclose(series.values, by_hand(table, way).to_numpy(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("way", ["interpolate", "ffill"])
def test_what_lies_in_another_split_changes_no_filled_value(way, tmp_path):
    table = frame(holes=[(row, "a") for row in range(135, 145)])
    first = opened(table, tmp_path, missing=way)
    values, filled = first.values.copy(), first.filled.copy()
    table.loc[145:159, "a"] += 100
    later = opened(table, tmp_path, missing=way)
    assert (later.values[:140] == values[:140]).all() and filled[135:140, 0].all()
    table.loc[:134, "a"] -= 100
    earlier = opened(table, tmp_path, missing=way)
    assert (earlier.values[140:] == later.values[140:]).all()


def test_means_and_deviations_are_of_the_filled_training_rows(tmp_path):
    series = opened(frame(holes=[(row, "b") for row in range(60, 70)]), tmp_path, missing="interpolate")
    train = series.values[:140].astype(np.float64)
    np.testing.assert_allclose(series.mean, train.mean(axis=0), rtol=1e-6)
    np.testing.assert_array_equal(series.scaled, ((series.values - series.mean) / series.std).astype(np.float32))


@pytest.mark.parametrize("case", HOLES)
def test_what_was_filled_is_told_with_its_split_and_its_effect(case, tmp_path):
    series = opened(frame(**HOLES[case]), tmp_path, missing="interpolate")
    (note,) = [note for note in series.notes if "filled" in note]
    assert (
        f"{series.filled.sum():,} cells filled" in note and "no validation or test error counts a filled target" in note
    )
    for split, (start, stop) in BORDERS.items():
        count = series.filled[start:stop].sum()
        assert (f"{count:,} in {split}" in note) == bool(count)


def test_a_series_without_a_gap_has_no_mask_and_no_note(tmp_path):
    series = opened(frame(), tmp_path, missing="interpolate")
    assert series.filled is None and series.notes == ()


def test_missing_cells_are_refused_by_default_each_column_by_its_first_row(tmp_path):
    with pytest.raises(DataError) as caught:
        opened(frame(holes=[(7, "a"), (9, "a"), (3, "b")]), tmp_path)
    said = str(caught.value).splitlines()
    assert [line.partition(":")[0] for line in said[1:]] == ["data row 4, column 'b'", "data row 8, column 'a'"]
    assert "1 more of this kind" in said[2] and all("data.missing=interpolate" in line for line in said[1:])


@pytest.mark.parametrize("way", ["interpolate", "ffill"])
@pytest.mark.parametrize(
    ("holes", "named"),
    [
        (
            dict(holes=[(row, "b") for row in range(50, 75)]),
            "column 'b': no value in 25 rows",
        ),
        (dict(absent=range(50, 75)), "x.csv: no value in 25 rows in a row, from 2020-01-03 02:00:00"),
    ],
)
def test_a_gap_longer_than_the_most_is_refused_with_the_fields_to_set(holes, named, way, tmp_path):
    with pytest.raises(DataError, match=f"{named}.*at most {DEFAULT_MAX_GAP} .*data.max_gap=25 or data.missing=drop"):
        opened(frame(**holes), tmp_path, missing=way)
    assert opened(frame(**holes), tmp_path, missing=way, max_gap=25).filled.any(axis=1).sum() == 25


def test_a_split_without_a_value_is_refused_by_name(tmp_path):
    with pytest.raises(DataError, match="column 'a' has no value in the rows of validation"):
        opened(frame(holes=[(row, "a") for row in range(138, 162)]), tmp_path, missing="ffill")


@pytest.mark.parametrize("way", ["refuse", "drop"])
def test_a_longest_gap_where_nothing_is_filled_is_refused(way, tmp_path):
    with pytest.raises(DataError, match=f"data.max_gap=3 is given, but data.missing={way} fills nothing"):
        opened(frame(), tmp_path, missing=way, max_gap=3)


@pytest.mark.parametrize("case", [name for name, holes in HOLES.items() if "holes" in holes])
def test_dropped_rows_leave_gaps_that_are_told(case, tmp_path):
    table = frame(**HOLES[case])
    series = opened(table, tmp_path, missing="drop")
    want = table.dropna()
    np.testing.assert_array_equal(series.timestamps, want["date"].to_numpy())
    np.testing.assert_array_equal(series.values, want[["a", "b"]].to_numpy(np.float32))
    assert series.filled is None and f"{len(table) - len(want):,} rows with a missing value dropped" in series.notes[0]
    moves = np.diff(want["date"].to_numpy()) / np.timedelta64(1, "h")
    assert any(f"{int((moves - 1).sum())} rows missing in {(moves > 1).sum()} gaps" in n for n in series.notes) == (
        moves.max() > 1
    )
