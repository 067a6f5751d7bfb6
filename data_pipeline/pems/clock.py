"""Local Pacific times of a station file -> rows on one clock, UTC.

PeMS writes local time. In March one hour is missing, in November one comes twice. On the axis of UTC every step has one
length. A time that comes twice has two rows: its first one (daylight saving time) and its second one (standard time).
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np

from data_pipeline.errors import DataError

FORMAT = "%m/%d/%Y %H:%M:%S"
SKIPPED = -1
"""Stands for the row of a local time that clocks skip."""


def pacific() -> ZoneInfo:
    """The zone of California. Raises DataError where this machine has no zone data."""
    try:
        return ZoneInfo("America/Los_Angeles")
    except ZoneInfoNotFoundError:
        raise DataError("this machine has no time zone data: install it, for example: pip install tzdata") from None


class FileClock:
    """The rows of the local days [start, stop), counted from 0."""

    def __init__(self, start: datetime.date, stop: datetime.date, step_minutes: int) -> None:
        self._zone, self._step_s = pacific(), 60 * step_minutes
        midnight = datetime.time()
        self.first_s = self._utc_s(datetime.datetime.combine(start, midnight), fold=0)
        """Seconds since 1970, UTC, of row 0."""
        self.rows = (self._utc_s(datetime.datetime.combine(stop, midnight), fold=0) - self.first_s) // self._step_s

    def rows_of(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """The first and the second row [n] int64 of each local time, the same unless clocks are turned back in it.

        Both are SKIPPED for a time that clocks skip. Raises ValueError, whose message says what is wrong, for a text
        that is no time, or a time that is outside the days or between two rows.
        """
        rows = [self._rows_of(text) for text in texts]
        first, second = zip(*rows, strict=True) if rows else ((), ())
        return np.array(first, np.int64), np.array(second, np.int64)

    def _rows_of(self, text: str) -> tuple[int, int]:
        try:
            local = datetime.datetime.strptime(text, FORMAT)
        except ValueError:
            raise ValueError(f"{text[:40]!r} is no time MM/DD/YYYY HH:MM:SS") from None
        if self._is_skipped(local):
            return SKIPPED, SKIPPED
        rows = []
        for fold in (0, 1):
            row, rest = divmod(self._utc_s(local, fold=fold) - self.first_s, self._step_s)
            if not 0 <= row < self.rows:
                raise ValueError(f"{text} is a time of another file")
            if rest:
                raise ValueError(f"{text} is not a multiple of {self._step_s // 60} minutes")
            rows.append(row)
        return rows[0], rows[1]

    def _utc_s(self, local: datetime.datetime, *, fold: int) -> int:
        return round(local.replace(tzinfo=self._zone, fold=fold).timestamp())

    def _is_skipped(self, local: datetime.datetime) -> bool:
        there = local.replace(tzinfo=self._zone).astimezone(datetime.UTC).astimezone(self._zone)
        return there.replace(tzinfo=None) != local
