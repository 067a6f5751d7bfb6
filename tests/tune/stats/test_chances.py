"""The chance that the last look decides an open question."""

from __future__ import annotations

import pytest

from tune.stats.chances import accuracy_chance, likely_scatter, speed_chance
from tune.stats.intervals import Mean, mean_of

ALPHA, MARGIN = 0.025, 0.01


def _mean(value: float, scatter: float, count: int = 5) -> Mean:
    return Mean(value=value, error=scatter / count**0.5, freedom=count - 1, count=count)


def test_a_clear_mean_is_sure_to_be_decided_and_a_mean_between_is_not() -> None:
    assert speed_chance(_mean(0.05, 0.002), 0.002, ALPHA, 3, MARGIN) == pytest.approx(1.0)
    assert speed_chance(_mean(0.0, 0.002), 0.002, ALPHA, 3, MARGIN) == pytest.approx(1.0)  # within the margin
    assert speed_chance(_mean(0.0, 0.05), 0.05, ALPHA, 3, MARGIN) < 0.05
    assert accuracy_chance(_mean(0.0, 0.002), 0.002, ALPHA, 3, MARGIN) == pytest.approx(1.0)
    assert accuracy_chance(_mean(0.005, 0.05), 0.05, ALPHA, 3, MARGIN) < 0.1


def test_too_few_pairs_say_nothing_and_no_pair_has_no_chance() -> None:
    assert speed_chance(mean_of([0.0, 0.1]), 0.01, ALPHA, 1, MARGIN) == 1.0
    assert speed_chance(None, 0.01, ALPHA, 1, MARGIN) == accuracy_chance(None, 0.01, ALPHA, 1, MARGIN) == 0.0


def test_the_likely_scatter_is_not_moved_by_one_noisy_arm() -> None:
    quiet = [_mean(0.0, 0.01), _mean(0.1, 0.01)]
    assert likely_scatter([*quiet, _mean(0.0, 9.0)]) == pytest.approx(0.01)
    assert likely_scatter([None, mean_of([1.0, 2.0])]) is None


def test_without_any_scatter_the_present_mean_decides() -> None:
    assert speed_chance(_mean(0.03, 0.0), 0.0, ALPHA, 1, MARGIN) == 1.0
