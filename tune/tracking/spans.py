"""What the driver does for all trials at once, on record: it belongs to no trial."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tune.tracking.tracker import Tracker

WARM_UP = "warm_up"  # all arms together, before the first timed trial
SHORTEST_MS = 100  # a shorter piece is none: there was nothing to do


@contextmanager
def span(tracker: Tracker, part: str) -> Iterator[None]:
    """Record how long the driver is inside, however it leaves. part: a name such as WARM_UP."""
    began_ms = tracker.now_ms()
    try:
        yield
    finally:
        if tracker.now_ms() - began_ms >= SHORTEST_MS:
            tracker.log_span(part, began_ms)
