"""A warning where the test error contradicts the validation error that an arm was judged by.

Choices are made on validation data, and the test set changes none (design rule 9). But validation and test are other
spans of time, so an arm can be not worse in one and worse in the other. A reader must know that before using it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from tune.report.comparisons import TrialsByArm, accuracy_text, trial_result
from tune.stats.pairs import Comparison, TrialResult, compare_arms
from tune.stats.verdicts import FASTER, NOT_WORSE
from tune.tracking.reader import TrialRecord


def errors_on_test_notes(
    arms: TrialsByArm, baseline: str | None, by_arm: Mapping[str, Comparison], margin: float
) -> list[str]:
    """One line on the arms that are faster, not worse on validation data, and worse by more than the margin on test.

    arms: trained trials by arm. by_arm: their comparisons with the baseline. margin: 0.01 is 1 %.
    """
    good = [arm for arm, each in by_arm.items() if each.verdict == FASTER and _is_not_worse(each)]
    if baseline is None or not good or baseline not in arms:
        return []
    sides = {arm: _by_test_error(arms[arm]) for arm in good if arm in arms}
    found = compare_arms(_by_test_error(arms[baseline]), sides, margin=margin)
    errors = {arm: each.accuracy for arm, each in found.items() if each.accuracy and each.accuracy.difference > margin}
    if not errors:
        return []
    texts = "; ".join(f"{arm} is {accuracy_text(accuracy)}" for arm, accuracy in errors.items())
    return [
        f"Careful: not worse than {baseline} in validation MSE, but in test MSE {texts}. Verdicts go by validation "
        "data, and no choice is made on test data: look at both spans of time, or validate on a longer one."
    ]


def _is_not_worse(comparison: Comparison) -> bool:
    return comparison.accuracy is not None and comparison.accuracy.verdict == NOT_WORSE


def _by_test_error(trials: Sequence[TrialRecord]) -> list[TrialResult]:
    """Trials as results whose error is that of the test set."""
    results = []
    for trial in trials:
        result, mse = trial_result(trial.status, trial.tags, trial.metrics), trial.metrics.get("final/test_mse")
        results.append(replace(result, mse=mse if result.mse is not None and mse is not None and mse > 0 else None))
    return results
