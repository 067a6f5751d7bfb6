"""What each change of a sweep is worth: pairs of arms that differ in one thing, compared beside the baseline.

The steps are in a tag of the sweep's run. A step is shown in time, as a ratio, or in validation error. It says how two
arms differ and not which of them to use.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from tune.common.words import counted
from tune.report.arms import trained_by_arm
from tune.report.comparisons import TrialsByArm, left_out_text, percent_text, ratio_text, trial_results
from tune.report.published import mean_of_history
from tune.stats.intervals import ALPHA, MIN_PAIRS, Bounds, mean_of
from tune.stats.pairs import compare_arms, excess
from tune.tracking.reader import SweepRecord

TAG = "ladder"  # of the sweep's run: its ablation steps as JSON
TIME_NOTE = (
    "What each change is worth: the first arm's seconds of an epoch of all training windows over the second's, in "
    "pairs; above 1 the second is faster. The study's own timer is of an epoch as it ran. An interval, which takes "
    f"{MIN_PAIRS} pairs, holds with 95 % by itself, not all together."
)
ERROR_NOTE = (
    "What each change is worth: the second arm's validation MSE relative to the first's, seed by seed; below 0 the "
    f"change lowers it. An interval, which takes {MIN_PAIRS} pairs, holds with 95 % by itself, not all together."
)
Step = Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class ErrorStep:
    """What a change does to the validation error, relative to the arm before it: 0.01 is 1 % more."""

    change: str
    before: str
    after: str
    difference: float | None  # None without a pair
    bounds: Bounds | None  # a two-sided 95 % t interval; None with too few pairs
    pairs: int

    @property
    def effect(self) -> str | None:
        """lowers, raises or undecided; None with too few pairs."""
        if self.bounds is None:
            return None
        low, high = self.bounds
        return "lowers" if high < 0 else "raises" if low > 0 else "undecided"


def ablation_notes(record: SweepRecord, arms: TrialsByArm, *, margin: float) -> list[str]:
    """What the steps are, and a line for each of them; none in a sweep without steps."""
    of_time = [step for step in _steps(record) if step.get("of", "time") == "time"]
    lines = [TIME_NOTE, *(_time_line(step, arms, margin) for step in of_time)] if of_time else []
    errors = error_steps(record, arms)
    return lines + ([ERROR_NOTE, *map(_error_line, errors)] if errors else [])


def error_steps(record: SweepRecord, arms: TrialsByArm | None = None) -> list[ErrorStep]:
    """The steps that are shown in error. arms: `trained_by_arm` of the record."""
    steps = [step for step in _steps(record) if step.get("of") == "error"]
    by_arm = trained_by_arm(record) if steps and arms is None else arms or {}
    return [_error_step(step, by_arm) for step in steps]


def error_sentences(record: SweepRecord) -> list[str]:
    """The answer of a sweep that asks for errors, by sentence; none of any other sweep."""
    steps = error_steps(record)
    if not steps:
        return []
    if not any(step.bounds for step in steps):
        most = max(step.pairs for step in steps)
        return [f"Answer: none yet, too few pairs ({most}, {MIN_PAIRS} needed)."]
    found = {
        effect: "; ".join(f"{step.change} ({_values(step)})" for step in steps if step.effect == effect)
        for effect in ("lowers", "raises", "undecided")
    }
    lowers = found["lowers"] or "no change is shown to"
    lines = [f"Answer: what lowers the validation error: {lowers}."]
    lines += [f"What raises it: {found['raises']}."] if found["raises"] else []
    return lines + ([f"Undecided: {found['undecided']}."] if found["undecided"] else [])


def ablation_json(record: SweepRecord) -> list[dict[str, Any]]:
    """The steps that are shown in error, as the machine-readable result holds them."""
    return [
        {
            "change": step.change,
            "before": step.before,
            "after": step.after,
            "difference": step.difference,
            "low": step.bounds[0] if step.bounds else None,
            "high": step.bounds[1] if step.bounds else None,
            "pairs": step.pairs,
            "effect": step.effect,
        }
        for step in error_steps(record)
    ]


def _steps(record: SweepRecord) -> list[Step]:
    """Those that the sweep's run records; none where MLflow kept only the beginning of the tag."""
    try:
        return list(json.loads(record.tags.get(TAG, "[]")))
    except ValueError:
        return []


def _error_step(step: Step, arms: TrialsByArm) -> ErrorStep:
    first, second = (trial_results(arms.get(step[side], ())) for side in ("before", "after"))
    mean = mean_of(list(excess(first, second).values()))
    enough = mean is not None and mean.count >= MIN_PAIRS
    return ErrorStep(
        change=step["change"],
        before=step["before"],
        after=step["after"],
        difference=mean.value if mean else None,
        bounds=(mean.value - mean.reach(ALPHA / 2), mean.value + mean.reach(ALPHA / 2)) if mean and enough else None,
        pairs=mean.count if mean else 0,
    )


def _error_line(step: ErrorStep) -> str:
    head = f"{step.change} ({step.before} -> {step.after}): "
    if step.difference is None:
        return head + "not measured"
    return f"{head}{_values(step)} in {counted(step.pairs, 'pair')}, {step.effect or 'too few pairs'}"


def _values(step: ErrorStep) -> str:
    assert step.difference is not None
    text = percent_text(step.difference)
    return text if step.bounds is None else f"{text}, {percent_text(step.bounds[0])} to {percent_text(step.bounds[1])}"


def _time_line(step: Step, arms: TrialsByArm, margin: float) -> str:
    before, after = step["before"], step["after"]
    first, second = (trial_results(arms.get(arm, ())) for arm in (before, after))
    comparison = compare_arms(first, {after: second}, margin=margin)[after]
    head, left_out = f"{step['change']} ({before} -> {after}): ", left_out_text(comparison)
    if comparison.ratio is None:
        reasons = _unfinished(arms, before, after) or ([left_out] if left_out else [])
        return head + "; ".join(["not measured", *reasons])
    line = f"{head}{ratio_text(comparison)} in {counted(comparison.count, comparison.unit)}"
    line += f" (left out: {left_out})" if left_out else ""
    study_s = [mean_of_history(arms.get(arm, ()), "published/epoch_s", fmean) for arm in (before, after)]
    if study_s[0] is None or study_s[1] is None:
        return line
    return f"{line}; {study_s[0] / study_s[1]:.2f}x by the study's timer"


def _unfinished(arms: TrialsByArm, *names: str) -> list[str]:
    statuses = {arm: _status(arms, arm) for arm in names}
    return [f"{arm} is {status}" for arm, status in statuses.items() if status != "done"]


def _status(arms: TrialsByArm, arm: str) -> str:
    return "/".join(dict.fromkeys(trial.status for trial in arms.get(arm, ()))) or "missing"
