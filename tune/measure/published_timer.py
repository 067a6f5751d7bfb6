"""The replaced study's own timing of an epoch, measured for its arms beside our times. Nothing is compared by it.

The study read the wall clock at the beginning and at the end of an epoch, validation included, and did not wait for the
device. From that it subtracted the mean duration of one request for a batch, as the time for loading data.
"""

from __future__ import annotations

import time

from tune.measure.timer import EpochTimes


class PublishedTimer:
    """Starts when it is made."""

    def __init__(self) -> None:
        self._began_s = time.time()

    def epoch_s(self) -> float:
        """Seconds since the start, by the wall clock."""
        return time.time() - self._began_s


def published_metrics(epoch_s: float, times: EpochTimes) -> dict[str, float | None]:
    """An epoch's figures as the study defined them, by MLflow name."""
    requests = len(times.step_ms)
    loading_s = times.feed_host_s / requests if requests else None
    return {
        "published/epoch_s": epoch_s,
        "published/data_loading_s": loading_s,
        "published/compute_s": None if loading_s is None else epoch_s - loading_s,
    }
