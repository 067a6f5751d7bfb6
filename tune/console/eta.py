"""The time left for a sweep, estimated from the trials that ran.

A trial has a gap before it (nothing runs on its device), a head (from its start to its first epoch: process, data,
compiled code), epochs, and an end (test set, model). Gaps and ends are much the same in all arms, so their mean over
all trials serves. Epochs and heads differ between arms; of an arm that has not run, what the others show is expected.
An arm's first trial may have a longer head, as the gate and the compilation run in it.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import fmean, median, median_low


def arm_of(trial_id: str) -> str:
    """The arm of a trial: its name without the seed."""
    return trial_id.rpartition("-s")[0] or trial_id


def compiled_s(metrics: Mapping[str, float | None], tags: Mapping[str, str]) -> float:
    """What of a trial's time its arm's others will not need: gate and compiling. By its final metrics and tags."""
    needed = [metrics.get("final/rehearsal_s")]
    if tags.get("gate_verdict") == "measured":
        needed.append(metrics.get("final/gate_s"))
    if tags.get("compiled_afresh") == "true":
        needed.append(metrics.get("final/compile_s"))
    return sum(seconds or 0.0 for seconds in needed)


@dataclass
class _Run:
    """What is known of one trial. Times are seconds of one monotonic clock."""

    began_s: float
    gap_s: float | None = None  # since the trial before it ended; None: there was none
    reports_s: list[float] = field(default_factory=list)  # when each epoch of this session was reported
    first_epoch_s: float = 0.0  # what the first of them took, by its own measure
    ended_s: float | None = None
    compiled_s: float = 0.0  # of its head, what its arm's later trials will not need

    @property
    def head_s(self) -> float | None:
        """From its start to its first epoch."""
        return max(0.0, self.reports_s[0] - self.began_s - self.first_epoch_s) if self.reports_s else None

    @property
    def epochs_s(self) -> list[float]:
        """What each epoch took, with what lies between two; the first by its own measure."""
        later = [end - begin for begin, end in zip(self.reports_s, self.reports_s[1:], strict=False)]
        return [self.first_epoch_s, *later] if self.reports_s else []


@dataclass(frozen=True, kw_only=True)
class _Usual:
    """Means over the trials so far, in seconds; what is unknown is 0."""

    gap_s: float
    first_head_s: float  # of an arm's first trial
    later_head_s: float  # of an arm without any
    own_head_s: Mapping[str, float]  # arm -> of its later trials; the lower one of two: a session's first trial is cold
    end_s: float

    def head_s(self, arm: str, *, first: bool) -> float:
        return self.first_head_s if first else self.own_head_s.get(arm, self.later_head_s)


@dataclass
class TimeLeft:
    """Is told of the events of one session's trials."""

    epochs: int  # of a trial
    weights: Mapping[str, float] = field(default_factory=dict)  # arm -> an epoch's time relative to other arms'
    _runs: dict[str, _Run] = field(default_factory=dict)
    _free_s: list[float] = field(default_factory=list)  # when each device that waits for a trial became free

    def began(self, trial: str, now_s: float) -> None:
        if trial not in self._runs:
            gap_s = now_s - self._free_s.pop() if self._free_s else None
            self._runs[trial] = _Run(began_s=now_s, gap_s=gap_s)

    def epoch(self, trial: str, now_s: float, epoch_s: float) -> None:
        self.began(trial, now_s)
        run = self._runs[trial]
        if not run.reports_s:
            run.first_epoch_s = epoch_s
        run.reports_s.append(now_s)

    def ended(self, trial: str, now_s: float, compiled_s: float = 0.0) -> None:
        """compiled_s: what of the trial's time later trials of its arm will not need."""
        self.began(trial, now_s)
        if self._runs[trial].ended_s is None:
            self._runs[trial].ended_s = now_s
            self._runs[trial].compiled_s = compiled_s
            self._free_s.append(now_s)

    def left_s(self, trials: Iterable[str], now_s: float) -> dict[str, float] | None:
        """Seconds left for each of `trials` that has not ended, given in the order of their runs; None if unknown."""
        left = [trial for trial in trials if trial not in self._runs or self._runs[trial].ended_s is None]
        if not left:
            return {}
        usual, usual_epochs_s = self._usual(), self._usual_epochs_s()
        if usual_epochs_s is None:
            return None
        known = {arm_of(trial) for trial in self._runs}
        left_s, waited_s = {}, [max(0.0, now_s - free_s) for free_s in self._free_s]
        for trial in left:
            arm = arm_of(trial)
            if run := self._runs.get(trial):
                left_s[trial] = self._rest_s(run, arm, now_s, usual, usual_epochs_s)
                continue
            gap_s = max(0.0, usual.gap_s - (waited_s.pop() if waited_s else 0.0))
            head_s = usual.head_s(arm, first=arm not in known)
            left_s[trial] = gap_s + head_s + self._epochs_left_s(arm, 0, usual_epochs_s) + usual.end_s
            known.add(arm)
        return left_s

    def all_left_s(self, unstarted: int, now_s: float) -> float | None:
        """Seconds left for the trials that run and `unstarted` more of which no name is known; None if unknown."""
        running = [trial for trial, run in self._runs.items() if run.ended_s is None]
        usual, epoch_s = self._usual(), self._usual_epochs_s()
        if (left_s := self.left_s(running, now_s)) is None or (unstarted and epoch_s is None):
            return None
        took_s = [run.ended_s - run.began_s - run.compiled_s for run in self._runs.values() if run.ended_s is not None]
        each_s = usual.later_head_s + (epoch_s or 0.0) * self.epochs + usual.end_s
        return sum(left_s.values()) + unstarted * (usual.gap_s + (fmean(took_s) if took_s else each_s))

    def _rest_s(self, run: _Run, arm: str, now_s: float, usual: _Usual, usual_epochs_s: float) -> float:
        """Of a trial that runs. What it should have passed by now takes no negative time."""
        done = len(run.reports_s)
        epochs_s = self._epochs_left_s(arm, done, usual_epochs_s)
        if not done:
            first = not any(arm_of(other) == arm for other, it in self._runs.items() if it is not run)
            return max(0.0, usual.head_s(arm, first=first) - (now_s - run.began_s)) + epochs_s + usual.end_s
        since_s, left = now_s - run.reports_s[-1], self.epochs - done
        if left <= 0:
            return max(0.0, usual.end_s - since_s)
        return epochs_s - min(since_s, epochs_s / left) + usual.end_s

    def _epochs_left_s(self, arm: str, done: int, usual_epochs_s: float) -> float:
        """The epochs after the first `done`. Trials of the arm that came further say most: pruning changes epochs."""
        if self.epochs <= done:
            return 0.0
        own = [run.epochs_s for trial, run in self._runs.items() if arm_of(trial) == arm]
        further = [epochs_s[done:] for epochs_s in own if len(epochs_s) == self.epochs]
        if further:
            return fmean(sum(epochs_s) for epochs_s in further)
        if any(own):
            return median([epoch_s for epochs_s in own for epoch_s in epochs_s]) * (self.epochs - done)
        return usual_epochs_s * self._weight(arm) * (self.epochs - done)

    def _weight(self, arm: str) -> float:
        """Of an arm without one: the mean of the others."""
        return self.weights.get(arm) or _mean(self.weights.values()) or 1.0

    def _usual_epochs_s(self) -> float | None:
        """An epoch of an arm of weight 1, from all arms that have one; 0 where trials ended before; None: unknown."""
        by_arm: dict[str, list[float]] = {}
        for trial, run in self._runs.items():
            by_arm.setdefault(arm_of(trial), []).extend(run.epochs_s)
        per_weight = [median(epochs_s) / self._weight(arm) for arm, epochs_s in by_arm.items() if epochs_s]
        if per_weight:
            return fmean(per_weight)
        took_s = [run.ended_s - run.began_s for run in self._runs.values() if run.ended_s is not None]
        return fmean(took_s) / self.epochs if took_s else None

    def _usual(self) -> _Usual:
        seen: set[str] = set()
        first, later, without = list[float](), list[float](), list[float]()  # heads of an arm's first trial, the others
        own: dict[str, list[float]] = {}
        for trial, run in self._runs.items():
            arm, again = arm_of(trial), arm_of(trial) in seen
            seen.add(arm)
            if (head_s := run.head_s) is None:
                continue
            (later if again else first).append(head_s)
            if again or run.ended_s is not None:  # else what was compiled in it is not known yet
                without.append(max(0.0, head_s - run.compiled_s))
                own.setdefault(arm, []).append(without[-1])
        ends = [
            run.ended_s - run.reports_s[-1]
            for run in self._runs.values()
            if run.ended_s is not None and len(run.reports_s) >= 1
        ]
        gaps = [run.gap_s for run in self._runs.values() if run.gap_s is not None]
        return _Usual(
            gap_s=_mean(gaps),
            first_head_s=_mean(first, later),
            later_head_s=_mean(later, without, first),
            own_head_s={arm: median_low(heads_s) for arm, heads_s in own.items()},
            end_s=_mean(ends),
        )


def _mean(*choices: Iterable[float]) -> float:
    """The mean of the first that is not empty; 0 if all are."""
    return next((fmean(values) for choice in choices if (values := list(choice))), 0.0)


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
