"""How long a sweep's trials still take, learned from those that ran: an arm's first trial is slow to begin.

A trial is its head, from its start to the end of its first epoch, and its tail, the rest. The head of an arm's first
trial holds what is measured and compiled once; tails differ between arms.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import fmean


def arm_of(trial_id: str) -> str:
    """Trials whose names differ in the seed only are of one arm."""
    return trial_id.rpartition("-s")[0] or trial_id


@dataclass
class Pace:
    """Told what happens to the trials of one session. Times are seconds of one monotonic clock."""

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

    def left_s(self, trial: str, now_s: float) -> float | None:
        """None before anything is known: the first epoch of a session, or a trial's end."""
        if trial in self._ended_s:
            return 0.0
        tail_s = self._tail_s(arm_of(trial))
        if tail_s is None:
            return None
        if trial in self._first_s:
            left = self.epochs - self._done[trial]
            return tail_s * max(0, left) / max(1, self.epochs - 1)
        spent_s = now_s - self._began_s[trial] if trial in self._began_s else 0.0
        return max(0.0, self._head_s(trial) - spent_s) + tail_s

    def _tail_s(self, arm: str) -> float | None:
        """Of the arm's own trials where one has ended, else of all; until then by the epochs so far."""
        tails = {
            trial: end_s - self._first_s[trial] for trial, end_s in self._ended_s.items() if trial in self._first_s
        }
        own = [tail_s for trial, tail_s in tails.items() if arm_of(trial) == arm]
        epochs_s = [(self.epochs - 1) * epoch_s for epoch_s in self._epoch_s.values()]
        wholes = [end_s - self._began_s[trial] for trial, end_s in self._ended_s.items()]  # none came to an epoch
        return _mean(own, tails.values(), epochs_s, wholes)

    def _head_s(self, trial: str) -> float:
        """Of first trials of their arms where it is one, else of the others; while that is not known, an epoch."""
        heads: dict[bool, list[float]] = {True: [], False: []}
        seen: set[str] = set()
        for one in self._began_s:
            if one == trial:
                break
            if one in self._first_s:
                heads[arm_of(one) not in seen].append(self._first_s[one] - self._began_s[one])
            seen.add(arm_of(one))
        is_first = arm_of(trial) not in seen
        later = _mean(heads[False], self._epoch_s.values()) or 0.0
        return (_mean(heads[True]) or later) if is_first else later


def _mean(*choices: Iterable[float]) -> float | None:
    """Of the first that holds anything."""
    return next((fmean(values) for choice in choices if (values := list(choice))), None)
