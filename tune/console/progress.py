"""Progress of a sweep: one line per event on stderr, with the time left."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import IO, Any

from tune.common.statuses import MEASURED
from tune.console.eta import TimeLeft, duration, makespan


@dataclass
class Progress:
    """Counts trials and epochs of one sweep and prints them. Silent if `quiet`."""

    total: int  # trials to run in this session
    epochs: int  # epochs of a trial
    quiet: bool = False
    stream: IO[str] = field(default_factory=lambda: sys.stderr)
    _began_s: float = field(default_factory=time.monotonic)
    _done_here: dict[str, int] = field(default_factory=dict)  # trial -> its epochs of this session
    _ended: dict[str, str] = field(default_factory=dict)  # trial -> status, if it ended in this session
    _before: dict[str, str] = field(default_factory=dict)  # trial -> status, if it ended earlier or cannot run
    _blocks: Sequence[Sequence[str]] = ()
    _at_a_time: int = 1

    def __post_init__(self) -> None:
        self._time_left = TimeLeft(self.epochs)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to close."""

    def expect(self, left: int, ended: Mapping[str, str] | None = None) -> None:
        """`left` trials are to run in this session. `ended`: trial -> status of those that need not run any more."""
        self.total = len(self._ended) + left
        self._before = {trial: status for trial, status in (ended or {}).items() if trial not in self._ended}

    def expect_blocks(
        self, blocks: Sequence[Sequence[str]], at_a_time: int, ended: Mapping[str, str] | None = None
    ) -> None:
        """The trials of `blocks` are left. A block's trials run one after another, `at_a_time` blocks at once."""
        self.expect(sum(len(block) for block in blocks), ended)
        self._blocks, self._at_a_time = blocks, at_a_time

    def say(self, text: str) -> None:
        if not self.quiet:
            print(text, file=self.stream, flush=True)

    def started(self, trial_id: str, *, seed: int, epochs: int) -> None:
        self._began(trial_id)
        self.say(f"[{len(self._ended)}/{self.total} ended] {trial_id} started")

    def epoch(self, trial_id: str, epoch: int, metrics: dict[str, Any]) -> None:
        self._count_epoch(trial_id, metrics)
        self.say(
            f"[{len(self._ended)}/{self.total} ended] {trial_id} epoch {epoch}/{self.epochs}"
            f"  val MSE {metrics['loss/val_mse']:.4f}  train {metrics['time/train_s']:.2f} s"
            f"  {metrics['speed/windows_per_s']:,.0f} windows/s  ETA {self.eta()}"
        )

    def ended(self, trial_id: str, status: str, reason: str | None) -> None:
        self._ended[trial_id] = status
        self._time_left.ended(trial_id, time.monotonic())
        detail = f": {reason}" if reason else ""
        self.say(f"[{len(self._ended)}/{self.total} ended] {trial_id} {status}{detail}  ETA {self.eta()}")

    def _began(self, trial_id: str) -> None:
        self._time_left.began(trial_id, time.monotonic())

    def _count_epoch(self, trial_id: str, metrics: Mapping[str, Any]) -> None:
        self._done_here[trial_id] = self._done_here.get(trial_id, 0) + 1
        self._time_left.epoch(trial_id, time.monotonic(), metrics.get("time/epoch_s") or metrics["time/train_s"])

    def counts(self) -> str:
        """How many trials are done, failed, unsupported and left, earlier sessions included."""
        statuses = [*self._before.values(), *self._ended.values()]
        done, unsupported = sum(status in MEASURED for status in statuses), statuses.count("unsupported")
        failed = len(statuses) - done - unsupported
        left = self.total - len(self._ended)
        return f"{done} done, {failed} failed, {unsupported} unsupported, {left} left"

    def eta(self) -> str:
        """Time left, by the duration of trials so far; "unknown" before any epoch."""
        if self._blocks:
            left_s = self._time_left.left_s([trial for block in self._blocks for trial in block], time.monotonic())
            if left_s is None:
                return "unknown"
            lengths = [sum(left_s.get(trial, 0.0) for trial in block) for block in self._blocks]
            return duration(makespan(lengths, self._at_a_time))
        shares = {trial: epochs / self.epochs for trial, epochs in self._done_here.items()}
        work = sum((shares | dict.fromkeys(self._ended, 1.0)).values())
        if work <= 0:
            return "unknown"
        return duration(max(0.0, (time.monotonic() - self._began_s) / work * (self.total - work)))
