"""The report's lines on the replaced study: its figures beside ours, and its gate.

Arms of the replaced study are in no comparison with the baseline and get no verdict.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean, median

from tune.common.published import NOT_ENFORCED, stored_rules
from tune.report.comparisons import TrialsByArm
from tune.tracking.reader import TrialRecord

CACHE_REMARK = " (from the cache, key "  # begins the gate's remark on a result that it read instead of measuring


def published_notes(arms: TrialsByArm) -> list[str]:
    """A line for each arm of the replaced study that has figures."""
    return [line for arm, trials in arms.items() if (line := _arm_line(arm, trials))]


def shown_as(trials: Sequence[TrialRecord]) -> str:
    """How far an arm is the replaced study's, in words; "" where it is an arm of ours."""
    return next((words for trial in trials if (words := stored_rules(trial.tags).shown_as)), "")


def _arm_line(arm: str, trials: Sequence[TrialRecord]) -> str:
    words = shown_as(trials)
    study_s, loading_s = (mean_of_history(trials, f"published/{name}_s", fmean) for name in ("epoch", "data_loading"))
    ours = [mean_of_history(trials, f"time/{name}_s", median) for name in ("train", "data_wait", "validation")]
    if not words or study_s is None or None in ours:
        return ""
    loading = "unknown" if loading_s is None else f"{loading_s:.4f} s"
    return (
        f"{arm} ({words}; {_gate(trials)}): {study_s:.3f} s an epoch by the study's timer, {loading} of it loading "
        "data; by ours {:.3f} s of training, {:.3f} s of it waiting for data, and {:.3f} s of validation.".format(*ours)
    )


def mean_of_history(
    trials: Sequence[TrialRecord], metric: str, over_epochs: Callable[[list[float]], float]
) -> float | None:
    """Mean over the done trials of the mean or median over epochs; None where no trial has the metric."""
    histories = [trial.history.get(metric) for trial in trials if trial.status == "done"]
    values = [over_epochs([value for _, value in history]) for history in histories if history]
    return fmean(values) if values else None


def _gate(trials: Sequence[TrialRecord]) -> str:
    tags = [trial.tags["gate"] for trial in trials if "gate" in trial.tags]
    if not tags:
        return "gate not recorded"
    problem = next((tag.removeprefix(NOT_ENFORCED) for tag in tags if tag.startswith(NOT_ENFORCED)), None)
    result = "passes the gate"
    if problem is not None:  # the path of the cache means nothing to a reader of the report
        problem = problem.partition(CACHE_REMARK)[0]
        result = f"would fail the gate, which is not enforced here: {problem}"
    if all(stored_rules(trial.tags, trial.params).zeroing is None for trial in trials):
        return result
    return f"its model before zeroing {result}; zeroing itself is not gated"  # the gate builds a model without it
