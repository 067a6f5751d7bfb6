"""LR_SCHEDULES: learning rate and Adam's beta1 of every training step. A new schedule is one function and one line.

Planning-safe. A schedule is a pure function of the step's number, so an interrupted trial continues exactly.
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
    """What one step trains with."""

    learning_rate: float
    beta1: float


@dataclass(frozen=True, kw_only=True)
class ScheduleSpan:
    """What a schedule depends on besides the step's number."""

    learning_rate: float  # the highest
    steps_per_epoch: int
    epochs: int
    pct_start: float = 0.3  # one_cycle: share of all steps in which the rate rises


class Schedule(Protocol):
    """(number of the step, from 0 over all epochs; span) -> rate."""

    def __call__(self, step: int, span: ScheduleSpan) -> Rate: ...


def constant(step: int, span: ScheduleSpan) -> Rate:
    """The same rate in every step."""
    return Rate(span.learning_rate, BETA1)


def type3(step: int, span: ScheduleSpan) -> Rate:
    """`--lradj type3` of the official code: epoch 1 at rate / 25, epochs 2 to 4 at the rate, then x 0.9 in each.

    Its `adjust_learning_rate` first acts after epoch 1. Until then the values that OneCycleLR sets when it is built
    apply, and its beta1 of 0.95 stays.
    """
    epoch = step // span.steps_per_epoch + 1
    if epoch == 1:
        return one_cycle(0, span)
    return Rate(span.learning_rate * 0.9 ** max(epoch - 4, 0), MAX_BETA1)


def one_cycle(step: int, span: ScheduleSpan) -> Rate:
    """torch's OneCycleLR with its defaults: up from a 25th of the rate, then down to a 250,000th; beta1 down and up."""
    low, high = span.learning_rate / DIV_FACTOR, span.learning_rate
    last = span.epochs * span.steps_per_epoch - 1
    top = span.pct_start * (last + 1) - 1
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
    span: ScheduleSpan

    def __call__(self, step: int) -> Rate:
        """The step's rate. Steps beyond the last, which only a warm-up takes, have the last step's rate."""
        return LR_SCHEDULES[self.schedule](min(step, self._last), self.span)

    @property
    def _last(self) -> int:
        return self.span.epochs * self.span.steps_per_epoch - 1

    @property
    def beta1_moves(self) -> bool:
        """Whether beta1 differs between steps."""
        first = self(0).beta1
        return any(self(step).beta1 != first for step in range(self._last + 1))
