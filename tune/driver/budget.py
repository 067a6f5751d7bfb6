"""How long a command may run: `--minutes`. Counted from its start; a resumed command has a new one."""

from __future__ import annotations

import math
import time
from collections.abc import Callable


class Budget:
    """The time of one command.

    minutes: None is no limit.
    clock: seconds of a clock that never goes back.
    """

    def __init__(self, minutes: float | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.minutes, self._clock = minutes, clock
        self._until_s = math.inf if minutes is None else clock() + 60 * minutes
        self.used_up = False  # whether something did not begin for want of time

    def left_s(self) -> float:
        """Seconds left; infinite without a limit, negative once it is over."""
        return math.inf if self.minutes is None else self._until_s - self._clock()

    def allows(self, expected_s: float | None = None) -> bool:
        """Whether something may begin that is expected to take so long (None: unknown, it may if any time is left)."""
        fits = self.left_s() >= (expected_s or 0.0)
        self.used_up = self.used_up or not fits
        return fits
