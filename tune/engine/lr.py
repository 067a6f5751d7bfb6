"""LR_SCHEDULES: learning rate and Adam's beta1 of every training step. A new schedule is one function and one line.

Planning-safe. A schedule is a pure function of the step's number, so that a trial that was interrupted goes on exactly.
`one_cycle` and `type3` are those of the official PatchTST code (github.com/yuqinie98/PatchTST, PatchTST_supervised:
exp/exp_main.py, utils/tools.py), which always builds torch's OneCycleLR, for `type3` too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol

BETA1 = 0.9  # of Adam, torch's default
# Defaults of torch.optim.lr_scheduler.OneCycleLR: two cosine phases, beta1 moving against the learning rate.
DIV_FACTOR, FINAL_DIV_FACTOR = 25.0, 1e4
BASE_BETA1, MAX_BETA1 = 0.85, 0.95


class Rate(NamedTuple):
    """What a step trains with."""

    learning_rate: float
    beta1: float


@dataclass(frozen=True, kw_only=True)
class ScheduleSpan:
    """What a schedule depends on beside the step's number."""

    learning_rate: float  # the highest
    steps_per_epoch: int
    epochs: int
    pct_start: float = 0.3  # one_cycle: share of all steps in which the rate rises


class Schedule(Protocol):
    """(number of the step from 0 over the whole training, course) -> rate."""

    def __call__(self, step: int, course: ScheduleSpan) -> Rate: ...


def constant(step: int, course: ScheduleSpan) -> Rate:
    """The same rate in every step."""
    return Rate(course.learning_rate, BETA1)


def type3(step: int, course: ScheduleSpan) -> Rate:
    """As `--lradj type3` of the official code trains: epoch 1 at rate / 25, 2 to 4 at the rate, then x 0.9 in each.

    Its `adjust_learning_rate` first acts after epoch 1. Until then what building OneCycleLR has set is in force; the
    beta1 of 0.95 that was set with it stays.
    """
    epoch = step // course.steps_per_epoch + 1
    if epoch == 1:
        return one_cycle(0, course)
    return Rate(course.learning_rate * 0.9 ** max(epoch - 4, 0), MAX_BETA1)


def one_cycle(step: int, course: ScheduleSpan) -> Rate:
    """torch's OneCycleLR with its defaults: up from a 25th of the rate, then down to a 250,000th; beta1 down and up."""
    low, high = course.learning_rate / DIV_FACTOR, course.learning_rate
    last = course.epochs * course.steps_per_epoch - 1
    top = course.pct_start * (last + 1) - 1
    if step <= top:
        done = step / top if top else 1.0
        return Rate(_cosine(low, high, done), _cosine(MAX_BETA1, BASE_BETA1, done))
    done = (step - top) / (last - top)
    return Rate(_cosine(high, low / FINAL_DIV_FACTOR, done), _cosine(BASE_BETA1, MAX_BETA1, done))


def _cosine(start: float, end: float, done: float) -> float:
    return end + (start - end) / 2.0 * (math.cos(math.pi * done) + 1)


LR_SCHEDULES: dict[str, Schedule] = {"constant": constant, "type3": type3, "one_cycle": one_cycle}


@dataclass(frozen=True, kw_only=True)
class Rates:
    """A named schedule as a function of the step's number alone."""

    schedule: str  # a name in LR_SCHEDULES
    course: ScheduleSpan

    def __call__(self, step: int) -> Rate:
        """The step's rate; the last step's for every later one, which only a rehearsal takes."""
        return LR_SCHEDULES[self.schedule](min(step, self._last), self.course)

    @property
    def _last(self) -> int:
        return self.course.epochs * self.course.steps_per_epoch - 1

    @property
    def beta1_moves(self) -> bool:
        """Whether beta1 is not the same in all steps."""
        first = self(0).beta1
        return any(self(step).beta1 != first for step in range(self._last + 1))
