"""What may begin within `--minutes`."""

from __future__ import annotations

import math

from tune.driver.budget import Budget


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_without_a_limit_everything_may_begin() -> None:
    budget = Budget()
    assert budget.left_s() == math.inf and budget.allows(1e9) and not budget.used_up


def test_what_is_expected_to_take_longer_than_what_is_left_does_not_begin() -> None:
    clock = Clock()
    budget = Budget(2.0, clock=clock)
    assert budget.left_s() == 120.0 and budget.allows(120.0)
    clock.now_s += 30.0
    assert budget.allows(90.0) and not budget.used_up
    assert not budget.allows(90.5) and budget.used_up


def test_what_nobody_can_estimate_begins_while_any_time_is_left() -> None:
    clock = Clock()
    budget = Budget(1.0, clock=clock)
    clock.now_s += 59.0
    assert budget.allows()
    clock.now_s += 1.5
    assert not budget.allows()
