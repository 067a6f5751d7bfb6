"""Gaps are filled as pandas fills them, whatever the pieces that rows come in."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from pems_kit import filled

from data_pipeline.pems.gaps import GapFiller


def pieces(values, size):
    return [values[start : start + size] for start in range(0, len(values), size)]


@pytest.mark.parametrize("max_gap", [0, 1, 3, 40])
@pytest.mark.parametrize("size", [1, 2, 7, 1000])
@pytest.mark.parametrize("seed", range(3))
def test_gaps_are_filled_like_pandas_in_pieces_of_any_size(max_gap, size, seed):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(700, 5)).astype(np.float32)
    for length, often in ((1, 60), (3, 20), (4, 20), (30, 2)):
        for row, station in zip(rng.integers(0, 700, often), rng.integers(0, 5, often), strict=True):
            values[row : row + length, station] = np.nan
    filler = GapFiller(max_gap, 5)
    done = [part for piece in pieces(values, size) for part in filler.add(piece)] + list(filler.rest())
    got, marks = (np.concatenate(arrays) for arrays in zip(*done, strict=True))
    expected = filled(pd.DataFrame(values.astype(np.float64)), max_gap).to_numpy()
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    assert (marks == (np.isnan(values) & ~np.isnan(expected))).all()
    empty = np.isnan(expected)
    starts = empty & ~np.vstack([np.zeros((1, 5), bool), empty[:-1]])
    assert (filler.filled_cells, filler.empty_cells, filler.long_gaps) == (marks.sum(), empty.sum(), starts.sum())


def test_the_longest_gap_is_known_by_station_row_and_length():
    values = np.zeros((50, 3), np.float32)
    values[10:14, 0], values[20:31, 2], values[45:, 1] = np.nan, np.nan, np.nan
    filler = GapFiller(4, 3)
    for piece in pieces(values, 6):
        list(filler.add(piece))
    list(filler.rest())
    gap = filler.longest()
    assert (gap.station, gap.first_row, gap.rows) == (2, 20, 11)


def test_without_empty_cells_there_is_no_longest_gap():
    filler = GapFiller(4, 2)
    list(filler.add(np.zeros((9, 2), np.float32)))
    list(filler.rest())
    assert filler.longest() is None
