"""Window arithmetic: published counts, no leakage, and refusals."""

from __future__ import annotations

import numpy as np
import pytest

from data_pipeline.datasets import DATASETS, ETT_SPLIT, FRACTION_SPLIT
from data_pipeline.errors import DataError
from data_pipeline.series.splits import split_bounds
from data_pipeline.series.steps import FixedStep
from data_pipeline.series.windows import window_starts

HOURLY = FixedStep(step_us=3_600_000_000)
ROWS = {"ETTh1": 17420, "ETTm1": 69680, "traffic": 17544}
# train, validation, test windows at horizon 96, as published and as counted by tsfm_public
COUNTS = {
    ("ETTh1", 336): (8209, 2785, 2785),
    ("ETTh1", 512): (8033, 2785, 2785),
    ("ETTm1", 336): (34129, 11425, 11425),
    ("ETTm1", 512): (33953, 11425, 11425),
    ("traffic", 336): (11849, 1661, 3413),
    ("traffic", 512): (11673, 1661, 3413),
}


@pytest.mark.parametrize(("name", "context"), COUNTS)
def test_window_counts_are_the_published_ones(name, context):
    spec = DATASETS[name]
    starts = window_starts(
        split_bounds(spec.split, ROWS[name], FixedStep(step_us=round(spec.step_minutes * 60e6))), context, 96
    )
    assert tuple(len(starts[split]) for split in ("train", "validation", "test")) == COUNTS[name, context]


def test_future_rows_of_a_split_never_leave_it_and_cover_it():
    bounds = split_bounds(FRACTION_SPLIT, 1000, HOURLY)
    for split, starts in window_starts(bounds, 30, 10).items():
        first, stop = bounds[split]
        rows = starts.at(np.arange(len(starts)))
        assert rows[-1] + 30 + 10 == stop and (np.diff(rows) == 1).all()
        assert rows[0] + 30 == (30 if split == "train" else first)


def test_splits_are_adjacent_and_fractions_cover_every_row():
    for rows in (10, 11, 99, 17544):
        bounds = split_bounds(FRACTION_SPLIT, rows, HOURLY)
        assert bounds["train"][0] == 0 and bounds["test"][1] == rows
        assert bounds["train"][1] == bounds["validation"][0] and bounds["validation"][1] == bounds["test"][0]


def test_ett_rows_after_twenty_months_are_in_no_split():
    assert split_bounds(ETT_SPLIT, 17420, HOURLY)["test"] == (11520, 14400)


@pytest.mark.parametrize(("rows", "rule"), [(14399, ETT_SPLIT), (4, FRACTION_SPLIT), (0, FRACTION_SPLIT)])
def test_a_series_too_short_to_split_is_refused(rows, rule):
    with pytest.raises(DataError, match=f"{rows} rows given"):
        split_bounds(rule, rows, HOURLY)


@pytest.mark.parametrize(("context", "horizon", "named"), [(701, 1, "train"), (10, 101, "validation"), (0, 9, "cont")])
def test_a_split_without_a_window_is_refused_by_name(context, horizon, named):
    with pytest.raises(DataError, match=named):
        window_starts(split_bounds(FRACTION_SPLIT, 1000, HOURLY), context, horizon)


def series(start, *lengths):
    """The bounds of a series whose rows begin at `start`, with these rows in train, validation and test."""
    stops = np.cumsum([start, *lengths]).tolist()
    return {split: (stops[at], stops[at + 1]) for at, split in enumerate(("train", "validation", "test"))}


def test_no_window_reaches_across_the_border_of_two_series():
    every = [series(0, 70, 10, 20), series(100, 40, 12, 9), series(161, 30, 0, 0)]
    for split, starts in window_starts(every, 8, 4).items():
        rows, owner = starts.at(np.arange(len(starts))), starts.series_of(np.arange(len(starts)))
        assert tuple(np.bincount(owner, minlength=3)) == starts.counts
        for number, bounds in enumerate(every):
            want = [
                row
                for row in range(bounds["train"][0], bounds["test"][1])
                if bounds[split][0] <= row + 8 and row + 8 + 4 <= bounds[split][1]
            ]
            assert rows[owner == number].tolist() == want


def test_a_series_too_short_for_a_split_has_no_windows_there_and_the_others_have_theirs():
    starts = window_starts([series(0, 70, 10, 20), series(100, 70, 3, 20)], 8, 4)
    assert starts["validation"].counts == (7, 0) and starts["test"].counts == (17, 17)


def test_a_split_for_which_every_series_is_too_short_names_the_longest():
    with pytest.raises(DataError, match="validation split holds no window: the longest of its 2 series has 3 rows"):
        window_starts([series(0, 70, 3, 20), series(93, 70, 2, 20)], 8, 4)
