"""A faster arm that keeps the validation error but not the test error gets a warning, and only such an arm."""

from __future__ import annotations

import pytest
from report_kit import sweep, trial

from tune.report.arms import arm_rows
from tune.report.notes import notes
from tune.tracking.reader import TrialRecord


def _trials(arm: str, s: float, test: float, *, validation: float = 0.3, seeds: int = 4) -> list[TrialRecord]:
    """Errors that differ a little from seed to seed, alike in every arm."""
    return [
        trial(arm, seed, s=s, metrics={"final/val_mse": validation + seed / 1e4, "final/test_mse": test + seed / 1e4})
        for seed in range(seeds)
    ]


def _warnings(*arms: list[TrialRecord]) -> list[str]:
    record = sweep(*_trials("none", 2.0, 0.4), *(one for arm in arms for one in arm))
    return [line for line in notes(record, arm_rows(record)) if line.startswith("Careful")]


def test_an_arm_that_is_worse_on_the_test_set_is_warned_of_with_the_difference_and_its_bound() -> None:
    (line,) = _warnings(_trials("fast", 1.0, 0.42), _trials("other", 1.5, 0.44))
    assert line.startswith(
        "Careful: not worse than none in validation MSE, but in test MSE fast is worse (+5 %, at least"
    )
    assert "; other is worse (+10 %" in line and "no choice is made on test data" in line


def test_the_answer_stays_the_last_line_and_the_choice_of_validation_data() -> None:
    record = sweep(*_trials("none", 2.0, 0.4), *_trials("fast", 1.0, 0.42))
    assert notes(record, arm_rows(record))[-1].startswith("Answer: fast")


@pytest.mark.parametrize(
    ("s", "test", "validation"),
    [(1.0, 0.4, 0.3), (1.0, 0.402, 0.3), (2.0, 0.42, 0.3), (1.0, 0.42, 0.33)],
    ids=["as good", "within the margin", "not faster", "worse in validation too"],
)
def test_other_arms_get_no_warning(s: float, test: float, validation: float) -> None:
    assert _warnings(_trials("fast", s, test, validation=validation)) == []


def test_trials_without_a_test_error_get_no_warning() -> None:
    record = sweep(*_trials("none", 2.0, 0.4), *_trials("fast", 1.0, 0.42))
    for each in record.trials:
        del each.metrics["final/test_mse"]
    assert not [line for line in notes(record, arm_rows(record)) if line.startswith("Careful")]
