"""Wall time that does not jump: what is recorded stays in order when somebody, or NTP, sets the clock meanwhile."""

from __future__ import annotations

import time

NS_PER_MS = 1_000_000


class SteadyClock:
    """The wall clock as it was read once, carried on by a monotonic one.

    not_before_ms: wall time of what was recorded last, perhaps by an earlier process whose clock was ahead: this one
    begins there.
    """

    def __init__(self, *, not_before_ms: int = 0) -> None:
        self._began_ns = time.monotonic_ns()
        self._wall_ms = max(time.time_ns() // NS_PER_MS, not_before_ms)

    def now_ms(self) -> int:
        """Wall time in ms; never less than what an earlier call gave."""
        return self._wall_ms + (time.monotonic_ns() - self._began_ns) // NS_PER_MS
