"""Every kind of step with times that pandas' own calendar made."""

from __future__ import annotations

import numpy as np
import pandas as pd

from data_pipeline.series.steps import WORKING_DAYS, DayStep, FixedStep, MonthStep, Step

HOUR = 3_600_000_000
OPEN = tuple(hour * HOUR for hour in range(8, 18))


def times(index: pd.DatetimeIndex) -> np.ndarray:
    return (index.tz_convert("UTC").tz_localize(None) if index.tz else index).as_unit("us").to_numpy().view(np.int64)


def opening(dates: pd.DatetimeIndex) -> np.ndarray:
    return np.concatenate([times(dates) + hour for hour in OPEN]).reshape(len(OPEN), -1).T.ravel()


def days(start: str, zone: str) -> np.ndarray:
    dates = pd.date_range(start, periods=900, freq="D")
    return times(dates.tz_localize(zone, ambiguous="NaT", nonexistent="shift_forward"))


STEPS: dict[str, tuple[Step, np.ndarray, str]] = {
    "15 min": (FixedStep(step_us=HOUR // 4), times(pd.date_range("1969-12-31", periods=300, freq="15min")), "fixed"),
    "month": (MonthStep(months=1, month=0, day=1, time_us=0), times(pd.date_range("1960", periods=300, freq="MS")),
              "month_start"),
    "month end": (MonthStep(months=1, month=0, day=31, time_us=0),
                  times(pd.date_range("1960", periods=300, freq="ME")), "month_end"),
    "quarter": (MonthStep(months=3, month=0, day=1, time_us=HOUR),
                times(pd.date_range("1960", periods=90, freq="QS")) + HOUR, "quarter_start"),
    "quarter end": (MonthStep(months=3, month=2, day=31, time_us=0),
                    times(pd.date_range("1960", periods=90, freq="QE")), "quarter_end"),
    "quarter from February": (MonthStep(months=3, month=1, day=1, time_us=0),
                              times(pd.date_range("1960", periods=90, freq="QS-FEB")), "quarter_start"),
    "month on a business day": (
        MonthStep(months=1, month=0, day=1, time_us=0, business=True),
        times(pd.date_range("1960", periods=300, freq="BMS")),
        "business_month_start",
    ),
    "month end on a business day": (
        MonthStep(months=1, month=0, day=31, time_us=0, business=True),
        times(pd.date_range("1960", periods=300, freq="BME")),
        "business_month_end",
    ),
    "quarter end on a business day": (
        MonthStep(months=3, month=2, day=31, time_us=0, business=True),
        times(pd.date_range("1960", periods=90, freq="BQE")),
        "business_quarter_end",
    ),
    "day 15": (
        MonthStep(months=1, month=0, day=15, time_us=0),
        times(pd.date_range("1960", periods=90, freq="MS")) + 14 * 24 * HOUR,
        "month_day",
    ),
    "6 months": (
        MonthStep(months=6, month=0, day=1, time_us=0),
        times(pd.date_range("1960", periods=90, freq="6MS")),
        "months_start",
    ),
    "week": (FixedStep(step_us=7 * 24 * HOUR), times(pd.date_range("1960", periods=90, freq="W")), "fixed"),
    "year": (MonthStep(months=12, month=0, day=1, time_us=0), times(pd.date_range("1900", periods=90, freq="YS")),
             "year_start"),
    "year end": (MonthStep(months=12, month=11, day=31, time_us=0),
                 times(pd.date_range("1900", periods=90, freq="YE")), "year_end"),
    "business day": (DayStep(times_us=(17 * HOUR,), weekdays=WORKING_DAYS),
                     times(pd.date_range("1969-12-30", periods=300, freq="B")) + 17 * HOUR, "business_day"),
    "opening hours": (DayStep(times_us=OPEN, weekdays=WORKING_DAYS),
                      opening(pd.date_range("2021-01-01", periods=40, freq="B")), "hours"),
    "local day": (DayStep(times_us=(0,), zone="Europe/Berlin"), days("2020-01-01", "Europe/Berlin"), "local_day"),
    "local day with a midnight that is skipped":
        (DayStep(times_us=(0,), zone="America/Asuncion"), days("2020-01-01", "America/Asuncion"), "local_day"),
    "local month": (MonthStep(months=1, month=0, day=1, time_us=0, zone="Europe/Berlin"),
                    times(pd.date_range("2020", periods=90, freq="MS", tz="Europe/Berlin")), "month_start"),
    "month in a fixed zone": (MonthStep(months=1, month=0, day=1, time_us=0, zone="+02:00"),
                              times(pd.date_range("2020", periods=90, freq="MS", tz="+02:00")), "month_start"),
}  # fmt: skip
