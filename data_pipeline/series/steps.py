"""What lies between two rows of a series: some minutes, a month, a business day, an opening hour, a day, just a row.

Every step numbers the times that it allows. So the rows that are missing between two times can be counted, and the
times that follow can be told. A step of the calendar is read on the clock of `zone`, or of the times themselves.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

import numpy as np

from data_pipeline.errors import DataError

MICROSECONDS_PER_MINUTE = 60_000_000
MICROSECONDS_PER_DAY = 24 * 60 * MICROSECONDS_PER_MINUTE
ALL_DAYS = (0, 1, 2, 3, 4, 5, 6)
WORKING_DAYS = (0, 1, 2, 3, 4)
LAST_DAY = 31
_DAY_NAMES = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS_NAMES = {1: "month", 3: "quarter", 12: "year"}
_FIRST_MONDAY = np.datetime64("0001-01-01", "D")


@dataclass(frozen=True, kw_only=True)
class Step(ABC):
    """One step of a time axis. Times are microseconds since 1970, in UTC if the series has a zone."""

    family: ClassVar[str]

    @property
    @abstractmethod
    def kind(self) -> str:
        """fixed, row, business_day, hours, local_day; month_start, business_quarter_end, year_day and the like."""

    @property
    @abstractmethod
    def text(self) -> str:
        """What one row stands for: `15 min`, `month`, `business day`."""

    @property
    def minutes(self) -> float | None:
        """Minutes of the step; None where they differ from row to row."""
        return None

    @property
    def per_day(self) -> int | None:
        """Rows of a day; None where a day has no rows of its own, or their number is unknown."""
        return None

    @abstractmethod
    def _numbers(self, times: np.ndarray, origin: int) -> np.ndarray:
        """The number [n] of each time [n], or of the allowed time just before it. `origin` is an allowed time."""

    @abstractmethod
    def _times(self, numbers: np.ndarray, origin: int) -> np.ndarray:
        """The time [n] of each number [n]."""

    def fits(self, timestamps_us: np.ndarray) -> np.ndarray:
        """Whether each time [n] is one that the step allows, as bool [n]. A fixed step counts from the first one."""
        if not len(timestamps_us):
            return np.zeros(0, bool)
        origin = int(timestamps_us[0])
        return np.asarray(self._times(self._numbers(timestamps_us, origin), origin) == timestamps_us)

    def positions(self, timestamps_us: np.ndarray) -> np.ndarray:
        """Places [n] int64 of allowed times [n] on the axis: 0 for the first, 1 more per step.

        A place that is k more than the one before says that k - 1 rows are missing.
        """
        if not len(timestamps_us):
            return np.zeros(0, np.int64)
        numbers = self._numbers(timestamps_us, int(timestamps_us[0]))
        return np.asarray(numbers - numbers[0])

    def at(self, first_us: int, positions: np.ndarray) -> np.ndarray:
        """The times [n] int64 at `positions` [n], counted from the allowed time `first_us`."""
        first = self._numbers(np.array([first_us], np.int64), first_us)
        return np.asarray(self._times(first + np.asarray(positions, np.int64), first_us))

    def after(self, timestamps_us: np.ndarray, count: int) -> np.ndarray:
        """The `count` times int64 that follow the last of `timestamps_us` [n].

        For the step `row`, `timestamps_us` are numbers of rows, and so is the answer.
        """
        return self.at(int(timestamps_us[-1]), np.arange(1, count + 1))

    def as_json(self) -> dict[str, Any]:
        """The step as JSON can hold it; `from_json` gives it back."""
        return {"family": self.family, **asdict(self)}

    @staticmethod
    def from_json(content: dict[str, Any]) -> Step:
        """The step that `as_json` wrote. Raises DataError for anything else."""
        kind = _FAMILIES.get(content.get("family", ""))
        names = {field.name for field in fields(kind)} if kind else set()
        given = {name: tuple(v) if isinstance(v, list) else v for name, v in content.items() if name in names}
        try:
            return kind(**given)  # type: ignore[misc]
        except TypeError:
            raise DataError(f"the step {content} is of no known kind: use the program that wrote it") from None


@dataclass(frozen=True, kw_only=True)
class FixedStep(Step):
    """The same time between all rows."""

    family = "fixed"
    step_us: int

    @property
    def kind(self) -> str:
        return "fixed"

    @property
    def text(self) -> str:
        return duration_text(self.step_us)

    @property
    def minutes(self) -> float:
        return self.step_us / MICROSECONDS_PER_MINUTE

    @property
    def per_day(self) -> int | None:
        return round(MICROSECONDS_PER_DAY / self.step_us) or None

    def _numbers(self, times: np.ndarray, origin: int) -> np.ndarray:
        return np.asarray((times - origin) // self.step_us)

    def _times(self, numbers: np.ndarray, origin: int) -> np.ndarray:
        return np.asarray(origin + numbers * self.step_us)


@dataclass(frozen=True, kw_only=True)
class RowStep(Step):
    """Rows follow each other, and their times say nothing. A time is the number of its row."""

    family = "row"

    @property
    def kind(self) -> str:
        return "row"

    @property
    def text(self) -> str:
        return "row"

    def fits(self, timestamps_us: np.ndarray) -> np.ndarray:
        return np.ones(len(timestamps_us), bool)

    def _numbers(self, times: np.ndarray, origin: int) -> np.ndarray:
        return origin + np.arange(len(times), dtype=np.int64)

    def _times(self, numbers: np.ndarray, origin: int) -> np.ndarray:
        return np.asarray(numbers)


@dataclass(frozen=True, kw_only=True)
class MonthStep(Step):
    """The same day of every month, of every third, of one month a year."""

    family = "months"
    months: int
    """1 month, 3 a quarter, 12 a year, or any other number."""
    month: int
    """Of the months since January 1970, those that leave this rest when divided by `months`."""
    day: int
    """1 to 31; a month that is shorter has its last day instead. So 31 is the end of every month."""
    time_us: int
    """Time of day."""
    business: bool = False
    """Whether a first day on a weekend moves to the Monday after it, and a last day to the Friday before it."""
    zone: str | None = None

    @property
    def kind(self) -> str:
        edge = {1: "start", LAST_DAY: "end"}.get(self.day, "day")
        return f"{'business_' if self.business else ''}{_MONTHS_NAMES.get(self.months, 'months')}_{edge}"

    @property
    def text(self) -> str:
        edge = {1: "", LAST_DAY: " end"}.get(self.day, f", on day {self.day}")
        business = " on a business day" if self.business else ""
        return f"{_MONTHS_NAMES.get(self.months, f'{self.months} months')}{edge}{business}{_of(self.zone)}"

    def _numbers(self, times: np.ndarray, origin: int) -> np.ndarray:
        dates = to_clock(times, self.zone).view("datetime64[us]").astype("datetime64[M]")
        return np.asarray((dates.view(np.int64) - self.month) // self.months)

    def _times(self, numbers: np.ndarray, origin: int) -> np.ndarray:
        months = (numbers * self.months + self.month).view("datetime64[M]")
        first, last = months.astype("datetime64[D]"), (months + 1).astype("datetime64[D]") - 1
        days = np.minimum(first + (self.day - 1), last)
        if self.business:
            days = np.busday_offset(days, 0, roll="forward" if self.day == 1 else "backward")
        return from_clock(days.view(np.int64) * MICROSECONDS_PER_DAY + self.time_us, self.zone)


@dataclass(frozen=True, kw_only=True)
class DayStep(Step):
    """The same times of every day of a clock, or of some days of the week."""

    family = "days"
    times_us: tuple[int, ...]
    """Times of day, ascending."""
    weekdays: tuple[int, ...] = ALL_DAYS
    """0 is Monday."""
    days: int = 1
    """Every so many of these days."""
    phase: int = 0
    """Of these days, counted from the year 1, those that leave this rest when divided by `days`."""
    zone: str | None = None

    @property
    def kind(self) -> str:
        if len(self.times_us) > 1:
            return "hours"
        return "local_day" if self.weekdays == ALL_DAYS else "business_day"

    @property
    def text(self) -> str:
        if len(self.times_us) > 1:
            gaps = np.diff(self.times_us)
            one = duration_text(int(gaps[0])) if (gaps == gaps[0]).all() else f"{len(gaps) + 1} times"
            span = f" from {_clock_text(self.times_us[0])} to {_clock_text(self.times_us[-1])}"
            return f"{one}{span} each {self._day_text()}{_of(self.zone)}"
        many = self._day_text() if self.days == 1 else f"{self.days} {self._day_text()}s"
        return f"{many}{_of(self.zone)}"

    @property
    def per_day(self) -> int | None:
        return len(self.times_us) if self.days == 1 else None

    def _day_text(self) -> str:
        known = {ALL_DAYS: "day", WORKING_DAYS: "business day"}
        return known.get(self.weekdays) or "day of " + ", ".join(_DAY_NAMES[day] for day in self.weekdays)

    def _mask(self) -> list[bool]:
        return [day in self.weekdays for day in ALL_DAYS]

    def _numbers(self, times: np.ndarray, origin: int) -> np.ndarray:
        clock = to_clock(times, self.zone)
        dates = (clock // MICROSECONDS_PER_DAY).view("datetime64[D]")
        index = np.busday_count(_FIRST_MONDAY, dates, weekmask=self._mask()).astype(np.int64)
        number = (index - self.phase) // self.days
        if len(self.times_us) == 1:
            return np.asarray(number)
        place = np.searchsorted(self.times_us, clock % MICROSECONDS_PER_DAY, side="right") - 1
        return np.asarray(number * len(self.times_us) + place)

    def _times(self, numbers: np.ndarray, origin: int) -> np.ndarray:
        number, place = np.divmod(numbers, len(self.times_us))
        index = number * self.days + self.phase
        dates = np.busday_offset(_FIRST_MONDAY, index, roll="forward", weekmask=self._mask())
        clock = dates.view(np.int64) * MICROSECONDS_PER_DAY + np.array(self.times_us, np.int64)[place]
        return from_clock(clock, self.zone)


_FAMILIES: dict[str, type[Step]] = {kind.family: kind for kind in (FixedStep, RowStep, MonthStep, DayStep)}


def step_words(text: str) -> str:
    """The text of a step in a sentence: `one row per 15 min`."""
    return "rows taken as equidistant" if text == RowStep().text else f"one row per {text}"


def duration_text(duration_us: int) -> str:
    """A duration, exact: unequal ones have unequal texts. `15 min`, `60.0001 min`, `1 day`, `0.25 s`."""
    size = abs(duration_us)
    if size and size % MICROSECONDS_PER_DAY == 0:
        days = duration_us // MICROSECONDS_PER_DAY
        return f"{days} day{'' if days == 1 else 's'}"
    # a minute is 6 x 10^7 us, so a duration has 6 decimals in minutes exactly if 60 divides it
    unit, name = (MICROSECONDS_PER_MINUTE, "min") if size % 60 == 0 and size >= 30_000_000 else (1_000_000, "s")
    scaled = duration_us * 1_000_000 // unit
    whole, rest = divmod(abs(scaled), 1_000_000)
    sign = "-" if scaled < 0 else ""
    return f"{sign}{f'{whole}.{rest:06d}'.rstrip('0').rstrip('.')} {name}"


def time_text(timestamp_us: int, zone: str | None = None) -> str:
    """A time as ISO 8601 with a space; with fractions of a second if there are any.

    If there is a zone, the time is in UTC and shown on the zone's clock, with its offset (Z for UTC).
    """
    clock_us = int(to_clock(np.array([timestamp_us]), zone)[0])
    text = str(np.datetime64(clock_us, "us")).replace("T", " ").removesuffix(".000000")
    if zone in (None, "UTC"):
        return text + ("" if zone is None else "Z")
    minutes = abs(clock_us - int(timestamp_us)) // MICROSECONDS_PER_MINUTE
    return f"{text}{'-' if clock_us < timestamp_us else '+'}{minutes // 60:02d}:{minutes % 60:02d}"


def to_clock(timestamps_us: np.ndarray, zone: str | None) -> np.ndarray:
    """What the wall clock of `zone` shows, as microseconds [n] since its own 1970. None: the times themselves."""
    times = np.ascontiguousarray(timestamps_us, np.int64)
    if zone in (None, "UTC"):
        return times
    import pandas as pd

    shown = pd.DatetimeIndex(times.view("datetime64[us]")).tz_localize("UTC").tz_convert(zone).tz_localize(None)
    return shown.as_unit("us").to_numpy().view(np.int64)


def from_clock(clock: np.ndarray, zone: str | None) -> np.ndarray:
    """The times at which the clock shows `clock`: of two the first; for a skipped one the end of the skip."""
    clock = np.ascontiguousarray(clock, np.int64)
    if zone in (None, "UTC"):
        return clock
    import pandas as pd

    shown = pd.DatetimeIndex(clock.view("datetime64[us]"))
    summer = np.ones(len(clock), bool)
    times = shown.tz_localize(zone, ambiguous=summer, nonexistent="shift_forward").tz_convert("UTC").tz_localize(None)
    return times.as_unit("us").to_numpy().view(np.int64)


def _clock_text(time_us: int) -> str:
    text = str(np.datetime64(time_us, "us"))[11:].rstrip("0").rstrip(".")
    return text.removesuffix(":00") if len(text) > 5 else text.ljust(5, "0")


def _of(zone: str | None) -> str:
    return "" if zone is None else f" ({zone})"
