"""Equal work: what an epoch of each trial trained, and its time for all training windows.

An epoch drops the last part of a batch, so a large batch trains fewer windows in it than a small one. Speed is time per
trained window, told as seconds of an epoch of all training windows. Trials record both from this version on. Those of
earlier versions are recomputed here from what they stored: batch size, windows per second, and the split of a named
data set. Earlier versions also cut a batch to the training windows in silence. Such a trial is not the arm that it is
called, and is refused, as is one whose windows are not known.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from data_pipeline.datasets import DATASETS
from data_pipeline.errors import DataError
from tune.plan.data import facts_by_definition
from tune.tracking.reader import TrialRecord

MEDIAN, TOTAL = "final/median_epoch_s", "final/train_total_s"  # as measured
EPOCH = "final/epoch_all_windows_s"
WINDOWS, STEPS = "final/windows_per_epoch", "final/steps_per_epoch"
REFUSED = "refused"  # tag that `with_work` gives a trial: why it is in no comparison
TASK = ("data.dataset", "data.context_length", "data.prediction_length")
UNKNOWN = "the windows that an epoch trained are not known"
Params = Mapping[str, Any]
Metrics = Mapping[str, float]
Task = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Work:
    """What an epoch of one trial trained; None where it is not known."""

    trained: int | None = None  # windows
    steps: int | None = None
    windows: int | None = None  # all training windows
    cut_from: int | None = None  # the batch size of its configuration, if its batches were cut to the windows

    @property
    def refusal(self) -> str:
        """Why the trial is in no comparison; "" if it may be."""
        if self.cut_from is not None:
            return f"its batch of {self.cut_from} was cut to the {self.trained:,} training windows"
        return "" if self.trained and self.windows else UNKNOWN


def works(trials: Sequence[tuple[Params, Metrics]]) -> list[Work]:
    """The work of each trial of a sweep, from its params and metrics as any version stored them.

    Where all training windows of a data file are not known, the most that an epoch of this task trained stand for them:
    the number is the same in every arm, so ratios are exact.
    """
    found = [_stored(metrics) or _recomputed(params, metrics) for params, metrics in trials]
    most: dict[Task, int] = {}
    for (params, _), work in zip(trials, found, strict=True):
        most[_task(params)] = max(most.get(_task(params), 0), work.windows or work.trained or 0)
    return [
        replace(work, windows=most[_task(params)]) if work.trained and work.windows is None else work
        for (params, _), work in zip(trials, found, strict=True)
    ]


def with_work(trials: Iterable[TrialRecord]) -> list[TrialRecord]:
    """The trials with EPOCH, WINDOWS and STEPS among their metrics. A refused one has no EPOCH, and the tag REFUSED."""
    records = list(trials)
    found = works([(trial.params, trial.metrics) for trial in records])
    return [
        replace(trial, metrics=completed(trial.metrics, work), tags={**trial.tags, **_refusal(trial.metrics, work)})
        for trial, work in zip(records, found, strict=True)
    ]


def _refusal(metrics: Metrics, work: Work) -> dict[str, str]:
    return {REFUSED: work.refusal} if is_timed(metrics) and work.refusal else {}


def is_timed(metrics: Metrics) -> bool:
    """Whether an epoch's time is known."""
    return 0 < metrics.get(MEDIAN, math.nan) < math.inf


def completed(metrics: Metrics, work: Work) -> dict[str, float]:
    """The metrics of a trial, with those of `work` if it has timed epochs."""
    own = dict(metrics)
    if not is_timed(own):
        return own
    if work.trained and work.steps:
        own |= {WINDOWS: work.trained, STEPS: work.steps}
    if work.trained and work.windows and not work.refusal:
        own.setdefault(EPOCH, own[MEDIAN] * work.windows / work.trained)
    return own


def total_s(metrics: Metrics) -> float | None:
    """Seconds of all training epochs together, had they trained all windows; None where that is not known."""
    if not {EPOCH, TOTAL} <= metrics.keys() or not is_timed(metrics):
        return None
    return metrics[TOTAL] * metrics[EPOCH] / metrics[MEDIAN]


def _stored(metrics: Metrics) -> Work | None:
    """Of a trial that recorded it; None for one of an earlier version."""
    if not {EPOCH, WINDOWS, STEPS} <= metrics.keys() or not is_timed(metrics):
        return None
    trained = round(metrics[WINDOWS])
    windows = round(trained * metrics[EPOCH] / metrics[MEDIAN])
    return Work(trained=trained, steps=round(metrics[STEPS]), windows=windows)


def _recomputed(params: Params, metrics: Metrics) -> Work:
    """Of a trial of an earlier version: its epochs trained batches of min(batch size, all windows)."""
    batch, windows = _whole(params.get("train.batch_size")), _defined_windows(params)
    trained = _trained(metrics)
    if batch is None:
        return Work(windows=windows)
    if trained is None:
        if windows is None:
            return Work()
        trained = windows // min(batch, windows) * min(batch, windows)
    if trained < batch:
        return Work(trained=trained, steps=1, windows=trained, cut_from=batch)
    if trained % batch or (windows is not None and not 0 <= windows - trained < batch):
        return Work(windows=windows)  # the figures contradict each other
    return Work(trained=trained, steps=trained // batch, windows=windows)


def _trained(metrics: Metrics) -> int | None:
    """The windows of the latest epoch, whose speed and time are the last values of their metrics."""
    try:
        windows = metrics["speed/windows_per_s"] * metrics["time/train_s"]
        return round(windows) or None
    except (KeyError, TypeError, ValueError, OverflowError):  # ValueError, OverflowError: no finite number
        return None


def _defined_windows(params: Params) -> int | None:
    """All training windows by the definition of a named data set; None for a file."""
    dataset, context, horizon = (params.get(name) for name in TASK)
    lengths = _whole(context), _whole(horizon)
    if not isinstance(dataset, str) or dataset not in DATASETS or lengths[0] is None or lengths[1] is None:
        return None
    return _windows_of(dataset, lengths[0], lengths[1])


@functools.cache
def _windows_of(dataset: str, context_length: int, prediction_length: int) -> int | None:
    try:
        return facts_by_definition(dataset).train_windows(context_length, prediction_length)
    except DataError:
        return None


def _task(params: Params) -> Task:
    return tuple(str(params.get(name)) for name in TASK)


def _whole(value: Any) -> int | None:
    """Stored params are numbers or texts, by version."""
    try:
        return int(value)
    except (TypeError, ValueError):
        return None
