"""Wall time that does not jump: records stay in order even if somebody, or NTP, sets the clock meanwhile."""

from __future__ import annotations

import time

NS_PER_MS = 1_000_000


class SteadyClock:
    """The wall clock, read once and continued by a monotonic clock.

    not_before_ms: the earliest time to begin at. Pass the wall time of the last record, which an earlier process whose
    clock was ahead may have written.
    """

    def __init__(self, *, not_before_ms: int = 0) -> None:
        self._began_ns = time.monotonic_ns()
        self._wall_ms = max(time.time_ns() // NS_PER_MS, not_before_ms)

    def now_ms(self) -> int:
        """Wall time in ms; never less than an earlier call returned."""
        return self._wall_ms + (time.monotonic_ns() - self._began_ns) // NS_PER_MS
