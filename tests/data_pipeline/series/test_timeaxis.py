"""The step of a time axis is found from all its times, chunk by chunk, and what fits no step is told exactly."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from step_kit import OPEN, STEPS, opening, times

from data_pipeline.errors import DataError
from data_pipeline.series.steps import DayStep, FixedStep
from data_pipeline.series.timeaxis import TimeAxis

MINUTE = 60_000_000
HOUR = 60 * MINUTE


def axis(timestamps, chunk=37, **options):
    made = TimeAxis("x.csv", **options)
    for start in range(0, len(timestamps), chunk):
        made.add(timestamps[start : start + chunk])
    return made


def zone_of(step):
    return getattr(step, "zone", None)


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("chunk", [1, 37, 1000])
def test_every_step_is_found_from_its_times(name, chunk):
    step, timestamps, _ = STEPS[name]
    found = axis(timestamps, chunk, zone=zone_of(step))
    found.check()
    assert (found.step, found.gaps, found.missing_rows) == (step, 0, 0)


@pytest.mark.parametrize("name", STEPS)
def test_rows_missing_in_a_calendar_are_gaps_and_over_one_percent_is_refused(name):
    step, timestamps, _ = STEPS[name]
    found = axis(np.delete(timestamps, [20]), zone=zone_of(step))
    assert (found.step, found.gaps, found.missing_rows) == (step, 1, 1)
    found = axis(np.delete(timestamps, [20, 21, 33, 34, 35, 36, 37, 38, 39, 40]), zone=zone_of(step))
    assert (found.step, found.gaps, found.missing_rows) == (step, 2, 10)
    with pytest.raises(DataError, match=r"10 rows are missing in 2 gaps at one row per .*data\.step=row"):
        found.check()


@pytest.mark.parametrize("offsets", [("+01:00", "+02:00"), ()])
@pytest.mark.parametrize("name", ["local day", "local month"])
def test_the_zone_is_found_whose_clock_changes_the_times_follow(name, offsets):
    step, timestamps, _ = STEPS[name]
    found = axis(timestamps, zone="UTC", offsets=offsets)
    assert found.step == step and "clock changes of Europe/Berlin" in found.note
    assert axis(timestamps, zone="Europe/Berlin").note is None


def test_opening_hours_follow_a_clock_across_its_changes():
    dates = pd.date_range("2021-01-01", periods=300, freq="B")
    local = pd.DatetimeIndex(opening(dates).view("datetime64[us]")).tz_localize("America/New_York")
    found = axis(times(local), zone="UTC", offsets=("-05:00", "-04:00"))
    assert found.step == DayStep(times_us=OPEN, weekdays=(0, 1, 2, 3, 4), zone="America/New_York")


@pytest.mark.parametrize(
    ("zone", "offsets"), [("Europe/London", ("UTC", "+01:00")), ("Europe/Athens", ("+02:00", "+03:00"))]
)
def test_of_zones_that_change_together_the_one_with_the_offsets_of_the_file_is_taken(zone, offsets):
    mornings = times(pd.date_range("2020-01-01 09:00", periods=500, freq="D", tz=zone))
    assert axis(mornings, zone="UTC", offsets=offsets).step == DayStep(times_us=(9 * HOUR,), zone=zone)


def test_times_without_a_zone_are_their_own_clock():
    _, timestamps, _ = STEPS["local day"]
    with pytest.raises(DataError, match="irregular"):
        axis(timestamps).check()


def test_a_calendar_is_preferred_to_minutes_that_fit_by_chance():
    years = times(pd.DatetimeIndex(["2021-01-01", "2022-01-01", "2023-01-01"]))
    assert axis(years).step.text == "year"


@pytest.mark.parametrize("days", [5, 14])
def test_a_series_too_short_to_show_weekends_has_a_row_a_day(days):
    found = axis(times(pd.date_range("2024-01-01", periods=days, freq="D")))
    assert found.step == FixedStep(step_us=24 * HOUR)


def test_an_hourly_series_with_a_gap_keeps_its_step_however_long_the_gap():
    found = axis(np.delete(np.arange(300) * HOUR, slice(30, 80)))
    assert (found.step.text, found.missing_rows) == ("60 min", 50)
    with pytest.raises(DataError, match="50 rows are missing in 1 gaps at one row per 60 min, 250 are there"):
        found.check()


@pytest.mark.parametrize(
    ("steps", "text"),
    [
        ([HOUR] * 50 + [HOUR + 6000] * 30, r"60 min \(50 times\) and 60\.0001 min \(30 times\)"),
        (
            [HOUR, HOUR, HOUR + 1, HOUR - 1] * 9,
            r"60 min \(18 times\) and 3599\.999999 s \(9 times\) and 3600\.000001 s",
        ),
        ([HOUR, HOUR + 7 * MINUTE, 2 * HOUR, 3 * HOUR + MINUTE] * 9, r"60 min \(9 times\).* and 1 more"),
    ],
)
def test_jitter_is_told_exactly_and_the_way_out_named(steps, text):
    with pytest.raises(DataError, match=rf"irregular time steps, .*{text}.*data\.step=row"):
        axis(np.cumsum([0, *steps])).check()


@pytest.mark.parametrize("period", [2, 3, 8, 24])
def test_jitter_that_repeats_every_day_is_no_step_of_opening_hours(period):
    hours = np.arange(500) * HOUR
    hours[1::period] += 6000
    with pytest.raises(DataError, match="irregular"):
        axis(hours).check()


def test_opening_hours_may_have_a_break():
    session = [9 * HOUR + half * HOUR // 2 for half in (0, 1, 2, 3, 8, 9, 10, 11)]
    dates = times(pd.date_range("2024-01-01", periods=30, freq="B"))
    found = axis((dates[:, None] + np.array(session)).ravel())
    found.check()
    assert found.step == DayStep(times_us=tuple(session), weekdays=(0, 1, 2, 3, 4)) and found.missing_rows == 0
    assert found.step.text == "8 times from 09:00 to 14:30 each business day"


def test_very_many_different_steps_are_refused_at_once(monkeypatch):
    monkeypatch.setattr("data_pipeline.series.timeaxis.MAX_DISTINCT_STEPS", 20)
    with pytest.raises(DataError, match="irregular"):
        axis(np.cumsum(np.arange(100)))


def test_rows_are_equidistant_whatever_their_times_say_if_the_user_says_so():
    found = axis(np.array([5, 3, 3, 99, 1]), rule="row")
    found.check()
    assert (found.step.kind, found.gaps, found.missing_rows) == ("row", 0, 0)


def test_a_thousand_different_gaps_are_counted():
    many = axis(np.cumsum([0] + [1] * 3000 + list(range(2, 1002))) * MINUTE)
    assert (many.step.minutes, many.gaps, many.missing_rows) == (1, 1000, sum(range(1, 1001)))
    with pytest.raises(DataError, match="500500 rows are missing in 1000 gaps at one row per 1 min, 4001 are there"):
        many.check()


@pytest.mark.parametrize("rows", [0, 1])
def test_fewer_than_two_rows_show_no_step(rows):
    with pytest.raises(DataError, match=f"{rows} data rows show no step"):
        axis(np.arange(rows)).check()
