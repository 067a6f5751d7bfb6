"""Progress of a sweep: one line per event on stderr, with the time left."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from tune.common.statuses import MEASURED
from tune.console.eta import TimeLeft, duration, makespan
from tune.storage import steps_file
from tune.storage.steps_file import Steps

LOOK_S = 2.0  # between looks at how far epochs are
TELL_S = 30.0  # between lines that say it of one trial


@dataclass
class Progress:
    """Counts trials and epochs of one sweep and prints them. Silent if `quiet`."""

    total: int  # trials to run in this session
    epochs: int  # epochs of a trial, unless it says so itself
    quiet: bool = False
    stream: IO[str] = field(default_factory=lambda: sys.stderr)
    _ended: dict[str, str] = field(default_factory=dict)  # trial -> status, if it ended in this session
    _before: dict[str, str] = field(default_factory=dict)  # trial -> status, if it ended earlier or cannot run
    _blocks: Sequence[Sequence[str]] = ()
    _at_a_time: int = 1
    _running: set[str] = field(default_factory=set)
    _expected_until_s: float | None = None
    _until: str | None = None
    _epochs_done: dict[str, int] = field(default_factory=dict)  # by trial
    _looked_s: float = -math.inf
    _told_s: dict[str, float] = field(default_factory=dict)  # trial -> when a line told how far its epoch is
    clock: Callable[[], float] = field(default=lambda: time.monotonic(), kw_only=True)  # seconds, never going back

    def __post_init__(self) -> None:
        self._time_left = TimeLeft(self.epochs)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to close."""

    def expect(
        self, left: int, ended: Mapping[str, str] | None = None, *, at_a_time: int = 1, until: str | None = None
    ) -> None:
        """`left` trials are to run in this session, `at_a_time` at once. Their names are not known.

        ended: trial -> status of those that need not run any more.
        until: what comes after these trials, if they need not be the last ones: said with the time left.
        """
        self.total, self._blocks, self._at_a_time = len(self._ended) + left, (), at_a_time
        self._until = until
        self._before = {trial: status for trial, status in (ended or {}).items() if trial not in self._ended}

    def expect_blocks(
        self,
        blocks: Sequence[Sequence[str]],
        at_a_time: int,
        ended: Mapping[str, str] | None = None,
        *,
        weights: Mapping[str, float] | None = None,
        expected_s: float | None = None,
        until: str | None = None,
    ) -> None:
        """The trials of `blocks` are left. A block's trials run one after another, `at_a_time` blocks at once.

        weights: what an epoch of each arm takes relative to other arms, for arms that have not run yet. By the name
            that `tune.console.eta.arm_of` gives a trial's arm; the mean of the others where there is none.
        expected_s: what all of it takes from now on, as far as earlier sweeps say; it counts until an epoch is done.
        until: as for `expect`.
        """
        self.expect(sum(len(block) for block in blocks), ended, at_a_time=at_a_time, until=until)
        self._blocks = blocks
        self._time_left.weights = weights or {}
        self._expected_until_s = None if expected_s is None else self.clock() + expected_s

    def begin_stage(self) -> None:
        """From now on trials of another kind run: what the ones so far took says nothing of them."""
        self._time_left = TimeLeft(self.epochs)

    def say(self, text: str) -> None:
        if not self.quiet:
            print(text, file=self.stream, flush=True)

    def look_into_epochs(self, folder: Path) -> None:
        """Say how far running trials are in long epochs, by the files in `folder`. Most calls do nothing."""
        now_s = self.clock()
        if now_s - self._looked_s < LOOK_S:
            return
        self._looked_s = now_s
        for trial_id in sorted(self._running):
            steps = steps_file.read(folder / trial_id)
            if steps is not None and steps.epoch > self._epochs_done.get(trial_id, 0):
                self.within_epoch(trial_id, steps)

    def within_epoch(self, trial_id: str, steps: Steps) -> None:
        """A trial is so far in an epoch that takes long; a line of its own now and then."""
        if self.clock() - self._told_s.get(trial_id, -math.inf) < TELL_S:
            return
        self._told_s[trial_id] = self.clock()
        self.say(
            f"[{len(self._ended)}/{self.total} ended] {trial_id} epoch {steps.epoch}: "
            f"{steps.done:,} of {steps.steps:,} steps"
        )

    def started(self, trial_id: str, *, seed: int, epochs: int) -> None:
        self._began(trial_id)
        self.say(f"[{len(self._ended)}/{self.total} ended] {trial_id} started")

    def epoch(self, trial_id: str, epoch: int, metrics: dict[str, Any]) -> None:
        self._count_epoch(trial_id, epoch, metrics)
        self.say(
            f"[{len(self._ended)}/{self.total} ended] {trial_id} epoch {epoch}/{self.epochs}"
            f"  val MSE {metrics['loss/val_mse']:.4f}  train {metrics['time/train_s']:.2f} s"
            f"  {metrics['speed/windows_per_s']:,.0f} windows/s  ETA {self.eta()}"
        )

    def ended(self, trial_id: str, status: str, reason: str | None, *, compiled_s: float = 0.0) -> None:
        """compiled_s: what of the trial's time its arm's later trials will not need."""
        self._ended[trial_id] = status
        self._running.discard(trial_id)
        self._time_left.ended(trial_id, self.clock(), compiled_s)
        detail = f": {reason}" if reason else ""
        self.say(f"[{len(self._ended)}/{self.total} ended] {trial_id} {status}{detail}  ETA {self.eta()}")

    def _began(self, trial_id: str) -> None:
        self._running.add(trial_id)
        self._time_left.began(trial_id, self.clock())

    def _count_epoch(self, trial_id: str, epoch: int, metrics: Mapping[str, Any]) -> None:
        self._running.add(trial_id)
        self._epochs_done[trial_id] = epoch
        self._time_left.epoch(trial_id, self.clock(), metrics.get("time/epoch_s") or metrics["time/train_s"])

    def counts(self) -> str:
        """How many trials are done, failed, unsupported and left, earlier sessions included."""
        statuses = [*self._before.values(), *self._ended.values()]
        done, unsupported = sum(status in MEASURED for status in statuses), statuses.count("unsupported")
        failed = len(statuses) - done - unsupported
        left = self.total - len(self._ended)
        return f"{done} done, {failed} failed, {unsupported} unsupported, {left} left"

    def expected_s(self, trials: Sequence[str]) -> float | None:
        """Seconds that these trials take one after another, by those so far; None before any epoch."""
        left_s = self._time_left.left_s(trials, self.clock())
        return None if left_s is None else sum(left_s.values())

    def eta(self) -> str:
        """Time left, as far as `left_s` knows it."""
        left_s = self.left_s()
        if left_s is None:
            return "unknown"
        return duration(left_s) if self._until is None else f"{duration(left_s)} to {self._until}"

    def left_s(self) -> float | None:
        """Seconds until the last trial ends, by the trials so far; before any epoch what was expected, or None."""
        now_s = self.clock()
        if not self._blocks:
            unstarted = max(0, self.total - len(self._ended) - len(self._running))
            left_s = self._time_left.all_left_s(unstarted, now_s)
            return None if left_s is None else left_s / self._at_a_time
        by_trial = self._time_left.left_s([trial for block in self._blocks for trial in block], now_s)
        if by_trial is None:
            return None if self._expected_until_s is None else max(0.0, self._expected_until_s - now_s)
        lengths = [sum(by_trial.get(trial, 0.0) for trial in block) for block in self._blocks]
        return makespan(lengths, self._at_a_time)
