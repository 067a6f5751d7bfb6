"""The report's lines on the replaced study: its figures beside ours, what each of its unfairnesses was worth, its gate.

Arms with the tag `as_published` are in no comparison with the baseline and get no verdict; their rungs of the ladder
give a ratio, which says how two arms differ and not which one to use.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from statistics import fmean, median
from typing import Any

from tune.common.published import NOT_ENFORCED, stored_rules
from tune.report.comparisons import ratio_text, runs_of
from tune.stats.intervals import ENOUGH
from tune.stats.pairs import Run, compare_arms, counted
from tune.tracking.reader import SweepRecord, TrialRecord

Arms = Mapping[str, Sequence[TrialRecord]]
CACHE_REMARK = " (from the cache, key "  # begins what the gate says of a verdict that it has not measured itself


def published_notes(record: SweepRecord, arms: Arms, *, margin: float) -> list[str]:
    """A line for each arm of the replaced study that has figures, then one for each rung; none in other sweeps."""
    return [
        *(line for arm, trials in arms.items() if (line := _arm_line(arm, trials))),
        *_ladder_lines(record, arms, margin),
    ]


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


def _mean(trials: Sequence[TrialRecord], metric: str, over_epochs: Any) -> float | None:
    """Mean over the finished trials of the mean or median over epochs; None where no trial has the metric."""
    done = [trial.history.get(metric) for trial in trials if trial.status == "done"]
    values = [over_epochs([value for _, value in history]) for history in done if history]
    return fmean(values) if values else None


def _gate(trials: Sequence[TrialRecord]) -> str:
    told = [trial.tags["gate"] for trial in trials if "gate" in trial.tags]
    if not told:
        return "gate not recorded"
    problem = next((tag.removeprefix(NOT_ENFORCED) for tag in told if tag.startswith(NOT_ENFORCED)), None)
    problem = problem and problem.partition(CACHE_REMARK)[0]  # whose path means nothing to who reads a report
    found = "passes the gate"
    if problem is not None:
        found = f"would fail the gate, which is not enforced here: {problem}"
    if all(stored_rules(trial.tags, trial.params).zeroing is None for trial in trials):
        return found
    return f"its model before zeroing {found}; zeroing itself is not gated"  # the gate builds a model without it


def _ladder_lines(record: SweepRecord, arms: Arms, margin: float) -> list[str]:
    rungs = _rungs(record)
    if not rungs:
        return []
    return [LADDER_NOTE, *(_rung_line(rung, arms, margin) for rung in rungs)]


LADDER_NOTE = (
    "What each change is worth: the first arm's median training time of an epoch over the second's, in pairs; above 1 "
    f"the second is faster. An interval, which takes {ENOUGH} pairs, holds with 95 % by itself, not all together."
)


def _rungs(record: SweepRecord) -> list[dict[str, str]]:
    """What the sweep's run says of its ladder; nothing where it says none, or MLflow kept only the beginning."""
    try:
        return list(json.loads(record.tags.get("ladder", "[]")))
    except ValueError:
        return []


def _rung_line(rung: Mapping[str, str], arms: Arms, margin: float) -> str:
    before, after = rung["before"], rung["after"]
    found = compare_arms(_runs(arms, before), {after: _runs(arms, after)}, margin=margin)[after]
    head = f"{rung['change']} ({before} -> {after}): "
    left_out = [f"{count} {why}" for why, count in sorted(found.left_out.items())]
    if found.ratio is None:
        return head + "; ".join(["not measured", *(_unfinished(arms, rung) or left_out)])
    study_s = [_mean(arms.get(arm, ()), "published/epoch_s", fmean) for arm in (before, after)]
    told = f"{ratio_text(found)} in {counted(found.count, found.unit)}"
    told += f" (left out: {', '.join(left_out)})" if left_out else ""
    if study_s[0] is None or study_s[1] is None:
        return head + told
    return f"{head}{told}; {study_s[0] / study_s[1]:.2f}x by the study's timer"


def _runs(arms: Arms, arm: str) -> list[Run]:
    return runs_of(arms.get(arm, ()))


def _unfinished(arms: Arms, rung: Mapping[str, str]) -> list[str]:
    statuses = {arm: _status(arms, arm) for arm in (rung["before"], rung["after"])}
    return [f"{arm} is {status}" for arm, status in statuses.items() if status != "done"]


def _status(arms: Arms, arm: str) -> str:
    return "/".join(dict.fromkeys(trial.status for trial in arms.get(arm, ()))) or "missing"
