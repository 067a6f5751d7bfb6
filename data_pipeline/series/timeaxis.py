"""Checks a time axis chunk by chunk: its times increase by one step, and few rows are missing.

Times are kept as runs of equal differences. So a series of one step takes no memory, however long it is.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from data_pipeline.errors import DataError
from data_pipeline.options import StepRule
from data_pipeline.series.find_step import Found, calendar_step
from data_pipeline.series.steps import MICROSECONDS_PER_DAY, FixedStep, RowStep, Step, duration_text

MAX_MISSING_FRACTION = 0.01
"""With more missing rows, "24 rows ago" no longer means "yesterday"."""
MAX_DISTINCT_STEPS = 10_000
MAX_RUNS = 5_000_000
MOST_CALENDAR_ROWS = 50_000_000
"""Times of a calendar are in memory at once. With more rows, steps of a part of a day are not looked for there."""
ANY_STEP = "or say that rows are equidistant whatever their times are: data.step=row"


class TimeAxis:
    """Pass all times to `add`, in order; then read `step`, `gaps` and `missing_rows`, and `check` them.

    rule: `row` takes rows as equidistant, whatever their times say.
    zone: the zone that the source names; None if its times have none.
    offsets: those from UTC that its times have, as +02:00, if it names them row by row.
    """

    def __init__(
        self, source: str, *, rule: StepRule = "auto", zone: str | None = None, offsets: tuple[str, ...] = ()
    ) -> None:
        self._source, self._rule, self.zone, self.offsets = source, rule, zone, offsets
        self._last: int | None = None
        self._rows = 0
        self._parts: list[tuple[int, list[np.ndarray]]] = []  # first time; [2, n]: differences, how often each in a row
        self._row_parts = 0  # after the first
        self._ends: list[int] = []  # last time of each part but the last
        self._n_runs = 0
        self._steps: Counter[int] = Counter()
        self._found: Found | None = None

    def add(self, timestamps_us: np.ndarray, *, begins_part: bool = False) -> None:
        """Add times [n] int64 in microseconds. Raises DataError if too many different steps lie between them.

        With `begins_part`, no row counts as missing between those before and these.
        """
        self._row_parts += int(begins_part and self._rows > 0)
        self._rows += len(timestamps_us)
        if self._rule == "row" or not len(timestamps_us):
            return
        self._found = None
        if self._last is None or begins_part:
            self._ends += [] if self._last is None else [self._last]
            self._parts.append((int(timestamps_us[0]), []))
            steps = np.diff(timestamps_us)
        else:
            steps = np.diff(timestamps_us, prepend=self._last)
        self._last = int(timestamps_us[-1])
        if not len(steps):
            return
        starts = np.concatenate(([0], np.flatnonzero(np.diff(steps)) + 1))
        lengths = np.diff(np.append(starts, len(steps)))
        self._parts[-1][1].append(np.stack((steps[starts], lengths)))
        self._n_runs += len(starts)
        for step, count in zip(*np.unique(steps, return_counts=True), strict=True):
            self._steps[int(step)] += int(count)
        if len(self._steps) > MAX_DISTINCT_STEPS or self._n_runs > MAX_RUNS:
            raise self._irregular()

    @property
    def step(self) -> Step:
        """What lies between two rows. Raises DataError for fewer than two rows, and for times of no step."""
        return self._find().step

    @property
    def apart(self) -> tuple[bool, ...]:
        """For each part after the first: whether it begins later than one step after the end of the part before.

        Rows without times say nothing of that, so they count as apart. Raises DataError as `step` does.
        """
        if self._rule == "row":
            return (True,) * self._row_parts
        borders = [np.array([end, first]) for end, (first, _) in zip(self._ends, self._parts[1:], strict=True)]
        return tuple(not self.step.fits(pair).all() or int(self.step.positions(pair)[1]) != 1 for pair in borders)

    @property
    def gaps(self) -> int:
        """The number of places at which rows are missing. Raises DataError as `step` does."""
        return self._find().gaps

    @property
    def missing_rows(self) -> int:
        """The number of rows that are missing in all gaps. Raises DataError as `step` does."""
        return self._find().missing_rows

    @property
    def clock(self) -> str | None:
        """The zone whose clock the times are told by: the step's, else the source's; None if its times have none.

        Raises DataError as `step` does.
        """
        return getattr(self.step, "zone", None) or self.zone

    @property
    def note(self) -> str | None:
        """What was found out of the zone; None if the step is read on the clock that the source names.

        Raises DataError as `step` does.
        """
        zone = getattr(self.step, "zone", None)
        if zone in (None, self.zone):
            return None
        return f"times follow the clock changes of {zone} (or of a zone with the same): steps are read on that clock"

    def check(self, *, may_lack_rows: bool = False) -> None:
        """Raise DataError as `step` does, or if over 1 % of the rows are missing.

        With `may_lack_rows`, any number may be missing: they are filled, or told in a note.
        """
        found = self._find()
        if not may_lack_rows and found.missing_rows > MAX_MISSING_FRACTION * self._rows:
            raise DataError(
                f"{self._source}: {found.missing_rows} rows are missing in {found.gaps} gaps at one row per "
                f"{found.step.text}, {self._rows} are there: at most {MAX_MISSING_FRACTION:.0%} may be missing; set "
                f"data.missing=interpolate, give the longest part without gaps, {ANY_STEP}"
            )

    def _find(self) -> Found:
        if self._found is None:
            self._found = self._search()
        return self._found

    def _search(self) -> Found:
        if self._rule == "row":
            return Found(step=RowStep(), gaps=0, missing_rows=0, rows=self._rows)
        if not self._steps:
            raise DataError(f"{self._source}: {self._rows} data rows show no step between rows: give a longer series")
        common = self._common_us()
        fixed = self._fixed(common)
        sub_daily = fixed is not None and common < MICROSECONDS_PER_DAY
        if fixed is not None and sub_daily and (self._is_allowed(fixed) or self._rows > MOST_CALENDAR_ROWS):
            return fixed
        found = calendar_step(self._times(), common, self.zone, self.offsets)
        if found is None:
            raise self._irregular()
        return found

    def _common_us(self) -> int:
        """The commonest difference; of equally common ones the shortest."""
        return max(self._steps, key=lambda step: (self._steps[step], -step))

    def _fixed(self, common: int) -> Found | None:
        """What is found if the commonest difference is the step; None if another is no multiple of it."""
        if common <= 0 or any(step % common or step < 0 for step in self._steps):
            return None
        missing = sum(max(0, step // common - 1) * count for step, count in self._steps.items())
        gaps = sum(count for step, count in self._steps.items() if step > common)
        return Found(step=FixedStep(step_us=common), gaps=gaps, missing_rows=missing, rows=self._rows)

    def _is_allowed(self, found: Found) -> bool:
        return found.is_regular and found.missing_rows <= MAX_MISSING_FRACTION * self._rows

    def _times(self) -> list[np.ndarray]:
        """The times [n] int64 of each part."""
        return [_accumulated(first, runs) for first, runs in self._parts]

    def _irregular(self) -> DataError:
        steps = [f"{duration_text(step)} ({count:,} times)" for step, count in self._steps.most_common(3)]
        steps += [f"{len(self._steps) - 3:,} more"] if len(self._steps) > 3 else []
        return DataError(
            f"{self._source}: irregular time steps, {' and '.join(steps)}: these fit no fixed step and no calendar; "
            f"resample to one step (missing rows are allowed, up to {MAX_MISSING_FRACTION:.0%}), {ANY_STEP}"
        )


def _accumulated(first: int, runs: list[np.ndarray]) -> np.ndarray:
    """Times from the first one and the runs of differences after it."""
    if not runs:
        return np.array([first], np.int64)
    steps, lengths = np.concatenate(runs, axis=1)
    return np.asarray(first + np.concatenate(([0], np.cumsum(np.repeat(steps, lengths)))))
