"""Finds the step of a time axis: minutes, or a step of the calendar that all its times fit.

A candidate fits if it allows every time. Of those that fit, the one with the fewest missing rows is taken, and of equal
ones the plainest: the first of `_candidates`.
"""

from __future__ import annotations

import zoneinfo
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from data_pipeline.series.steps import (
    ALL_DAYS,
    LAST_DAY,
    MICROSECONDS_PER_DAY,
    MICROSECONDS_PER_MINUTE,
    DayStep,
    FixedStep,
    MonthStep,
    Step,
    to_clock,
)

SHORTEST_MONTH_US = 28 * MICROSECONDS_PER_DAY
WEEKS_TO_TELL = 2
"""So long must a series be before a day of the week without rows counts as a day off."""
DAYS_TO_TELL = 3
"""On so many days must a series have rows before an hour without rows counts as closed."""
MOST_TIMES = 24 * 60
"""Of a day, for opening hours."""
SAMPLE_ROWS = 4000
KNOWN_ZONES = (
    "Europe/Berlin", "Europe/London", "Europe/Athens", "America/New_York", "America/Chicago", "America/Denver",
    "America/Los_Angeles", "America/Halifax", "America/Sao_Paulo", "America/Santiago", "Asia/Jerusalem", "Asia/Tehran",
    "Australia/Sydney", "Australia/Adelaide", "Pacific/Auckland",
)  # fmt: skip
"""Tried before all others, so that of zones with the same clock changes the best known one is named."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """A step that all times fit."""

    step: Step
    gaps: int
    """Places at which rows are missing."""
    missing_rows: int
    rows: int

    @property
    def is_regular(self) -> bool:
        """Whether most rows follow each other without a gap."""
        return self.gaps <= (self.rows - 1) / 2


def measure(step: Step, parts: Sequence[np.ndarray]) -> Found | None:
    """How many rows the times [n] of each part, which increase, lack at this step; None if some do not fit it.

    Between parts, nothing is missing.
    """
    if not all(step.fits(part).all() for part in parts):
        return None
    jumps = np.concatenate([np.diff(step.positions(part)) for part in parts])
    if (jumps < 1).any():
        return None
    rows = sum(len(part) for part in parts)
    return Found(step=step, gaps=int((jumps > 1).sum()), missing_rows=int((jumps - 1).sum()), rows=rows)


def calendar_step(
    parts: Sequence[np.ndarray], common_us: int, zone: str | None, offsets: tuple[str, ...] = ()
) -> Found | None:
    """The step of the calendar or of the clock that the times [n] of each part fit best; None if they fit none.

    `common_us` is their commonest difference. `zone` is the zone that the source names: the calendar is read there.
    Times in UTC may come from a clock that was changed: where no step fits, the zone is looked for whose changes they
    follow. `offsets` are those that the source names.
    """
    own = None if zone == "UTC" else zone
    best = _least_missing([_best(parts, common_us, clock) for clock in dict.fromkeys((own, None))])
    if zone != "UTC" or (best is not None and best.missing_rows == 0):
        return best
    changing = zone_of_clock_changes(np.concatenate(parts), offsets)
    return best if changing is None else _least_missing([best, _best(parts, common_us, changing)])


def zone_of_clock_changes(timestamps_us: np.ndarray, offsets: tuple[str, ...] = ()) -> str | None:
    """The zone in which times [n], in UTC, are at the fewest usual times of day, if fewer than in UTC, else None.

    If several `offsets` are given, the zone has no others. Otherwise a zone where the first time is midnight is
    preferred, as many zones change their clocks on the same days.
    """
    sample = timestamps_us[:: max(1, len(timestamps_us) // SAMPLE_ROWS)]
    allowed = {offset_us(offset) for offset in offsets} if len(offsets) > 1 else None
    in_utc = _scatter(sample)
    best, found = (in_utc, True), None
    for name in _zones():
        clock = to_clock(sample, name)
        if allowed is not None and not set(np.unique(clock - sample).tolist()) <= allowed:
            continue
        rank = (_scatter(clock), bool(clock[0] % MICROSECONDS_PER_DAY))
        if rank[0] < in_utc and (found is None or rank < best):
            best, found = rank, name
    return found


def _scatter(clock: np.ndarray) -> tuple[int, int]:
    """How many times of day are usual among times [n], and how many times are at another."""
    counts = np.unique(clock % MICROSECONDS_PER_DAY, return_counts=True)[1]
    usual = 2 * counts >= counts.max()
    return int(usual.sum()), int(counts[~usual].sum())


def offset_us(text: str) -> int:
    """An offset from UTC, such as +02:00 or UTC itself, in microseconds."""
    if text == "UTC":
        return 0
    hours, minutes = text[1:].split(":")
    size = (60 * int(hours) + int(minutes)) * MICROSECONDS_PER_MINUTE
    return -size if text.startswith("-") else size


def _zones() -> list[str]:
    known = zoneinfo.available_timezones()
    return [name for name in KNOWN_ZONES if name in known] + sorted(known - set(KNOWN_ZONES))


def _best(parts: Sequence[np.ndarray], common_us: int, zone: str | None) -> Found | None:
    return _least_missing([measure(step, parts) for step in _candidates(np.concatenate(parts), common_us, zone)])


def _least_missing(found: Sequence[Found | None]) -> Found | None:
    """The first of those with the fewest missing rows."""
    fitting = [one for one in found if one is not None and one.is_regular]
    return min(fitting, key=lambda one: one.missing_rows, default=None)


def _candidates(times: np.ndarray, common_us: int, zone: str | None) -> Iterator[Step]:
    clock = to_clock(times, zone)
    of_day, counts = np.unique(clock % MICROSECONDS_PER_DAY, return_counts=True)
    usual = int(of_day[np.argmax(counts)])  # a clock that is set forward at this time shows another one then
    changes = zone is not None and zone[0] not in "+-"
    dates = (clock // MICROSECONDS_PER_DAY).view("datetime64[D]")
    if common_us >= SHORTEST_MONTH_US and (changes or len(of_day) == 1):
        yield from _month_steps(dates, usual, zone)
    if zone is not None and changes:
        yield _every_few_days(dates, usual, zone)
    yield FixedStep(step_us=common_us)
    days = np.unique(dates)
    weekdays = _weekdays(days)
    if (changes or len(of_day) == 1) and len(weekdays) < len(ALL_DAYS):
        yield DayStep(times_us=(usual,), weekdays=weekdays, zone=zone)
    evenly = not ((of_day - of_day[0]) % max(common_us, 1)).any()  # times that are off by a little are no opening hours
    if 1 < len(of_day) <= MOST_TIMES and len(days) >= DAYS_TO_TELL and evenly:
        yield DayStep(times_us=tuple(of_day.tolist()), weekdays=weekdays, zone=zone)


def _month_steps(dates: np.ndarray, time_us: int, zone: str | None) -> Iterator[Step]:
    months = dates.astype("datetime64[M]")
    numbers = months.view(np.int64)
    every = int(np.gcd.reduce(np.diff(numbers)))
    if every < 1:
        return
    days = (dates - months.astype("datetime64[D]")).view(np.int64) + 1
    at_end = ((months + 1).astype("datetime64[D]") - dates).view(np.int64) == 1
    month, day = int(numbers[0] % every), LAST_DAY if at_end.all() else int(days.max())
    yield MonthStep(months=every, month=month, day=day, time_us=time_us, zone=zone)
    if np.is_busday(dates).all():
        for edge in (1, LAST_DAY):
            yield MonthStep(months=every, month=month, day=edge, time_us=time_us, business=True, zone=zone)


def _every_few_days(dates: np.ndarray, time_us: int, zone: str) -> DayStep:
    since = (dates - np.datetime64("0001-01-01", "D")).view(np.int64)
    days = max(1, int(np.gcd.reduce(np.diff(since))))
    return DayStep(times_us=(time_us,), days=days, phase=int(since[0] % days), zone=zone)


def _weekdays(days: np.ndarray) -> tuple[int, ...]:
    if (days[-1] - days[0]).view(np.int64) < WEEKS_TO_TELL * len(ALL_DAYS):
        return ALL_DAYS
    return tuple(np.unique((days.view(np.int64) + 3) % len(ALL_DAYS)).tolist())  # 1970-01-01 was a Thursday
