"""The time left for a sweep, estimated from the trials that ran.

A trial has a head, from its start to the end of its first epoch, and a tail, the rest. An arm's first trial has a
longer head, as the gate and the compilation run in it. Tails differ between arms.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import fmean


def arm_of(trial_id: str) -> str:
    """The arm of a trial: its name without the seed."""
    return trial_id.rpartition("-s")[0] or trial_id


@dataclass
class TimeLeft:
    """Is told of the events of one session's trials. Times are seconds of one monotonic clock."""

    epochs: int  # of a trial
    _began_s: dict[str, float] = field(default_factory=dict)
    _first_s: dict[str, float] = field(default_factory=dict)  # the end of the first epoch in this session
    _done: dict[str, int] = field(default_factory=dict)  # epochs of this session
    _epoch_s: dict[str, float] = field(default_factory=dict)  # what a trial's newest epoch took
    _ended_s: dict[str, float] = field(default_factory=dict)

    def began(self, trial: str, now_s: float) -> None:
        self._began_s.setdefault(trial, now_s)

    def epoch(self, trial: str, now_s: float, epoch_s: float) -> None:
        self.began(trial, now_s)
        self._first_s.setdefault(trial, now_s)
        self._done[trial] = self._done.get(trial, 0) + 1
        self._epoch_s[trial] = epoch_s

    def ended(self, trial: str, now_s: float) -> None:
        self.began(trial, now_s)
        self._ended_s[trial] = now_s

    def left_s(self, trials: Iterable[str], now_s: float) -> dict[str, float] | None:
        """Seconds left for each of `trials` that has not ended, given in the order of their runs; None if unknown."""
        left = [trial for trial in trials if trial not in self._ended_s]
        own_s, usual_s = self._tails_s()
        if not left:
            return {}
        if usual_s is None:
            return None
        first_of = {arm_of(trial): trial for trial in reversed(self._began_s)}
        first_s, later_s = self._heads_s(first_of)
        left_s = {}
        for trial in left:
            tail_s = own_s.get(arm_of(trial), usual_s)
            if trial in self._first_s:
                left_s[trial] = tail_s * max(0, self.epochs - self._done[trial]) / max(1, self.epochs - 1)
                continue
            head_s = first_s if first_of.setdefault(arm_of(trial), trial) == trial else later_s
            left_s[trial] = max(0.0, head_s - (now_s - self._began_s.get(trial, now_s))) + tail_s
        return left_s

    def _tails_s(self) -> tuple[dict[str, float], float | None]:
        """Mean tail of each arm that has one, and the tail of any other: the mean of all, else estimated by epochs."""
        tails = {
            trial: end_s - self._first_s[trial] for trial, end_s in self._ended_s.items() if trial in self._first_s
        }
        of_arm: dict[str, list[float]] = {}
        for trial, tail_s in tails.items():
            of_arm.setdefault(arm_of(trial), []).append(tail_s)
        epochs_s = [(self.epochs - 1) * epoch_s for epoch_s in self._epoch_s.values()]
        trials_s = [end_s - self._began_s[trial] for trial, end_s in self._ended_s.items()]  # none came to an epoch
        return {arm: fmean(values) for arm, values in of_arm.items()}, _mean(tails.values(), epochs_s, trials_s)

    def _heads_s(self, first_of: Mapping[str, str]) -> tuple[float, float]:
        """Mean head of an arm's first trial, and of its later trials; an epoch's time while unknown."""
        heads: dict[bool, list[float]] = {True: [], False: []}
        for trial, end_s in self._first_s.items():
            heads[first_of[arm_of(trial)] == trial].append(end_s - self._began_s[trial])
        later_s = _mean(heads[False], self._epoch_s.values()) or 0.0
        return _mean(heads[True]) or later_s, later_s


def _mean(*choices: Iterable[float]) -> float | None:
    """The mean of the first that is not empty."""
    return next((fmean(values) for choice in choices if (values := list(choice))), None)


def makespan(lengths: Iterable[float], at_a_time: int) -> float:
    """How long blocks of these lengths take in this order, `at_a_time` at once: a block starts when another ends."""
    free_at = [0.0] * max(1, at_a_time)
    for length in lengths:
        heapq.heappush(free_at, heapq.heappop(free_at) + length)
    return max(free_at)


def duration(seconds: float) -> str:
    """Seconds as h:mm:ss or m:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
