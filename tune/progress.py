"""What a person sees while a sweep runs: one line per event on stderr, with an estimate of the time left."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from typing import IO, Any


@dataclass
class Progress:
    """Counts trials and epochs of one sweep and prints them. Silent if `quiet`."""

    total: int  # trials to run in this session
    epochs: int  # epochs of a trial
    quiet: bool = False
    stream: IO[str] = field(default_factory=lambda: sys.stderr)
    _began_s: float = field(default_factory=time.monotonic)
    _done_here: dict[str, int] = field(default_factory=dict)  # epochs of a trial reported in this session
    _ended: set[str] = field(default_factory=set)

    def expect(self, left: int) -> None:
        """So many trials are left to run in this session."""
        self.total = len(self._ended) + left

    def say(self, text: str) -> None:
        if not self.quiet:
            print(text, file=self.stream, flush=True)

    def started(self, trial_id: str) -> None:
        self.say(f"[{len(self._ended)}/{self.total} done] {trial_id} started")

    def epoch(self, trial_id: str, epoch: int, metrics: dict[str, Any]) -> None:
        self._done_here[trial_id] = self._done_here.get(trial_id, 0) + 1
        self.say(
            f"[{len(self._ended)}/{self.total} done] {trial_id} epoch {epoch}/{self.epochs}"
            f"  val MSE {metrics['loss/val_mse']:.4f}  train {metrics['time/train_s']:.2f} s"
            f"  {metrics['speed/windows_per_s']:,.0f} windows/s  ETA {self.eta()}"
        )

    def ended(self, trial_id: str, status: str, reason: str | None) -> None:
        self._ended.add(trial_id)
        detail = f": {reason}" if reason else ""
        self.say(f"[{len(self._ended)}/{self.total} done] {trial_id} {status}{detail}  ETA {self.eta()}")

    def eta(self) -> str:
        """Time left, from the mean time per finished share of the work; "unknown" before any epoch."""
        work = len(self._ended) + sum(
            epochs / self.epochs for trial, epochs in self._done_here.items() if trial not in self._ended
        )
        if work <= 0:
            return "unknown"
        left_s = (time.monotonic() - self._began_s) / work * (self.total - work)
        return duration(max(0.0, left_s))


def duration(seconds: float) -> str:
    """Seconds as h:mm:ss or m:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
