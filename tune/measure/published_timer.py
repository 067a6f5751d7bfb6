"""How the replaced study timed an epoch, for its arms only and beside our own times. Nothing is compared by it.

It read the wall clock when an epoch began and when it ended, validation included and without waiting for the device,
and subtracted from that, as the time for loading data, the mean duration of a single request for a batch.
"""

from __future__ import annotations

import time

from tune.measure.timer import EpochTimes


class StudyClock:
    """Starts when it is made."""

    def __init__(self) -> None:
        self._began_s = time.time()

    def epoch_s(self) -> float:
        """Seconds since, by the wall clock."""
        return time.time() - self._began_s


def study_metrics(epoch_s: float, times: EpochTimes) -> dict[str, float | None]:
    """An epoch's figures as the study had them, by MLflow name."""
    requests = len(times.step_ms)
    loading_s = times.feed_host_s / requests if requests else None
    return {
        "published/epoch_s": epoch_s,
        "published/data_loading_s": loading_s,
        "published/compute_s": None if loading_s is None else epoch_s - loading_s,
    }
