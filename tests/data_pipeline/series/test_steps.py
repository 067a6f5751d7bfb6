"""Each step numbers its times as pandas' own calendar does, sees missing rows, and continues a series."""

from __future__ import annotations

import json

import numpy as np
import pytest
from step_kit import HOUR, STEPS

from data_pipeline.errors import DataError
from data_pipeline.series.steps import MICROSECONDS_PER_DAY as DAY
from data_pipeline.series.steps import MonthStep, RowStep, Step, duration_text

WITH_TIMES = pytest.mark.parametrize(("step", "axis"), [pair[:2] for pair in STEPS.values()], ids=list(STEPS))


@WITH_TIMES
def test_times_of_the_calendar_fit_and_stand_one_step_apart(step, axis):
    assert step.fits(axis).all()
    np.testing.assert_array_equal(step.positions(axis), np.arange(len(axis)))


@WITH_TIMES
def test_a_jump_of_the_position_counts_the_missing_rows(step, axis):
    kept = np.delete(axis, [5, 6, 7, 30])
    jumps = np.diff(step.positions(kept))
    assert jumps[4] == 4 and jumps[26] == 2 and (np.delete(jumps, [4, 26]) == 1).all()


@WITH_TIMES
@pytest.mark.parametrize("rows", [1, 17, 60])
def test_the_times_after_a_part_are_those_of_the_rest(step, axis, rows):
    np.testing.assert_array_equal(step.after(axis[:rows], 25), axis[rows : rows + 25])
    np.testing.assert_array_equal(step.at(int(axis[3]), np.array([0, 2, 40])), axis[[3, 5, 43]])


@WITH_TIMES
def test_a_time_beside_the_axis_does_not_fit(step, axis):
    moved = axis.copy()
    moved[[4, 20]] += 1
    assert list(np.flatnonzero(~step.fits(moved))) == [4, 20]


@pytest.mark.parametrize(("name", "kind"), [(name, made[2]) for name, made in STEPS.items()])
def test_a_step_says_its_kind_and_comes_back_from_json(name, kind):
    step = STEPS[name][0]
    assert step.kind == kind and Step.from_json(json.loads(json.dumps(step.as_json()))) == step


@pytest.mark.parametrize("content", [{}, {"family": "moon"}, {"family": "fixed"}])
def test_json_of_no_step_is_refused(content):
    with pytest.raises(DataError, match="no known kind"):
        Step.from_json(content)


def test_a_row_step_takes_times_as_they_come_and_continues_row_numbers():
    step = RowStep()
    assert step.fits(np.array([5, 3, 3])).all() and list(step.positions(np.array([5, 3, 3]))) == [0, 1, 2]
    assert list(step.after(np.array([7, 8]), 3)) == [9, 10, 11] and (step.minutes, step.per_day) == (None, None)


@pytest.mark.parametrize(
    ("name", "text", "minutes", "per_day"),
    [
        ("15 min", "15 min", 15, 96),
        ("month end", "month end", None, None),
        ("quarter from February", "quarter", None, None),
        ("business day", "business day", None, 1),
        ("opening hours", "60 min from 08:00 to 17:00 each business day", None, 10),
        ("local day", "day (Europe/Berlin)", None, 1),
        ("month in a fixed zone", "month (+02:00)", None, None),
    ],
)
def test_a_step_says_what_a_row_stands_for(name, text, minutes, per_day):
    step = STEPS[name][0]
    assert (step.text, step.minutes, step.per_day) == (text, minutes, per_day)


def test_a_day_of_the_month_is_the_last_one_of_shorter_months():
    step = MonthStep(months=1, month=0, day=30, time_us=0)
    after = step.after(np.array([np.datetime64("2023-12-30", "us").view(np.int64)]), 3).view("datetime64[us]")
    assert [str(time)[:10] for time in after] == ["2024-01-30", "2024-02-29", "2024-03-30"]
    assert (step.kind, step.text) == ("month_day", "month, on day 30")


@pytest.mark.parametrize(
    ("duration_us", "text"),
    [
        (HOUR, "60 min"),
        (HOUR + 6000, "60.0001 min"),
        (HOUR + 1, "3600.000001 s"),
        (DAY, "1 day"),
        (7 * DAY, "7 days"),
        (10_000_000, "10 s"),
        (-HOUR, "-60 min"),
    ],
)
def test_the_text_of_a_duration_is_exact(duration_us, text):
    assert duration_text(duration_us) == text
