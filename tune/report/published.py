"""The report's lines on the replaced study: its figures beside ours, what each change is worth, its gate.

Arms of the replaced study are in no comparison with the baseline and get no verdict. The steps of the ablation
give ratios, which say how two arms differ and not which of them to use.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, median

from tune.common.published import NOT_ENFORCED, stored_rules
from tune.common.words import counted
from tune.report.comparisons import TrialsByArm, left_out_text, ratio_text, trial_results
from tune.stats.intervals import MIN_PAIRS
from tune.stats.pairs import compare_arms
from tune.tracking.reader import SweepRecord, TrialRecord

ABLATION_TAG = "ladder"  # of the sweep's run: its ablation steps as JSON
CACHE_REMARK = " (from the cache, key "  # begins the gate's remark on a result that it read instead of measuring
ABLATION_NOTE = (
    "What each change is worth: the first arm's seconds of an epoch of all training windows over the second's, in "
    "pairs; above 1 the second is faster. The study's own timer is of an epoch as it ran. An interval, which takes "
    f"{MIN_PAIRS} pairs, holds with 95 % by itself, not all together."
)


def published_notes(record: SweepRecord, arms: TrialsByArm, *, margin: float) -> list[str]:
    """A line for each arm of the replaced study that has figures, then one for each ablation step, if there are any."""
    lines = [line for arm, trials in arms.items() if (line := _arm_line(arm, trials))]
    if steps := _ablation(record):
        lines += [ABLATION_NOTE, *(_step_line(step, arms, margin) for step in steps)]
    return lines


def shown_as(trials: Sequence[TrialRecord]) -> str:
    """How far an arm is the replaced study's, in words; "" where it is an arm of ours."""
    return next((words for trial in trials if (words := stored_rules(trial.tags).shown_as)), "")


def _arm_line(arm: str, trials: Sequence[TrialRecord]) -> str:
    words = shown_as(trials)
    study_s, loading_s = (_mean(trials, f"published/{name}_s", fmean) for name in ("epoch", "data_loading"))
    ours = [_mean(trials, f"time/{name}_s", median) for name in ("train", "data_wait", "validation")]
    if not words or study_s is None or None in ours:
        return ""
    loading = "unknown" if loading_s is None else f"{loading_s:.4f} s"
    return (
        f"{arm} ({words}; {_gate(trials)}): {study_s:.3f} s an epoch by the study's timer, {loading} of it loading "
        "data; by ours {:.3f} s of training, {:.3f} s of it waiting for data, and {:.3f} s of validation.".format(*ours)
    )


def _mean(trials: Sequence[TrialRecord], metric: str, over_epochs: Callable[[list[float]], float]) -> float | None:
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


def _ablation(record: SweepRecord) -> list[dict[str, str]]:
    """The ablation steps that the sweep's run records; none where MLflow kept only the beginning of the tag."""
    try:
        return list(json.loads(record.tags.get(ABLATION_TAG, "[]")))
    except ValueError:
        return []


def _step_line(step: Mapping[str, str], arms: TrialsByArm, margin: float) -> str:
    before, after = step["before"], step["after"]
    first, second = (trial_results(arms.get(arm, ())) for arm in (before, after))
    comparison = compare_arms(first, {after: second}, margin=margin)[after]
    head, left_out = f"{step['change']} ({before} -> {after}): ", left_out_text(comparison)
    if comparison.ratio is None:
        reasons = _unfinished(arms, before, after) or ([left_out] if left_out else [])
        return head + "; ".join(["not measured", *reasons])
    line = f"{head}{ratio_text(comparison)} in {counted(comparison.count, comparison.unit)}"
    line += f" (left out: {left_out})" if left_out else ""
    study_s = [_mean(arms.get(arm, ()), "published/epoch_s", fmean) for arm in (before, after)]
    if study_s[0] is None or study_s[1] is None:
        return line
    return f"{line}; {study_s[0] / study_s[1]:.2f}x by the study's timer"


def _unfinished(arms: TrialsByArm, *names: str) -> list[str]:
    statuses = {arm: _status(arms, arm) for arm in names}
    return [f"{arm} is {status}" for arm, status in statuses.items() if status != "done"]


def _status(arms: TrialsByArm, arm: str) -> str:
    return "/".join(dict.fromkeys(trial.status for trial in arms.get(arm, ()))) or "missing"
