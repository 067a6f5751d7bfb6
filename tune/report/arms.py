"""MLflow runs -> the table a reader sees. Every number comes from the MLflow store.

Ratios, intervals and verdicts are those of tune/stats/pairs.py over the medians of an epoch's training time.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from tune.report.comparisons import TOTAL, accuracy_text, comparisons, ratio_text
from tune.report.published import shown_as
from tune.stats.pairs import MARGIN, Comparison
from tune.tracking.reader import SweepRecord, TrialRecord

TIMING_REMARKS = {"true": "", "false": " (shared)", "unknown": " (not known to be alone)"}


@dataclass(frozen=True, kw_only=True)
class ArmRow:
    """One arm over its seeds. Means over the trials that are done or stopped; None where no trial gave the value."""

    arm: str
    status: str  # "done", or each status with its count where they differ
    reason: str
    trials: int
    heads: float | None
    parameters: float | None
    val_mse: float | None
    test_mse: float | None
    median_epoch_s: float | None  # of the training part
    compared: Comparison | None  # with the baseline; None for the baseline itself and for what is in no pairs
    is_baseline: bool
    train_total_s: float | None  # all training epochs together
    compared_total: Comparison | None  # the same for train_total_s
    timing_valid: str  # a key of TIMING_REMARKS: "true" only if every finished trial had its device to itself
    same_as: str  # the arm whose heads leave at the same epochs; "" where there is none
    shown_as: str  # how far the arm is the replaced study's; "" where it is an arm of ours


def summarise(record: SweepRecord, *, margin: float = MARGIN) -> list[ArmRow]:
    """One row per arm, in the order of the sweep's definition where known, else of planning.

    A trial that MLflow knows no arm of gets a row of its own under its id. `margin`: how much larger an error may be,
    relative to the baseline's, and count as equal to it.
    """
    arms, baseline = by_arm(record), record.tags.get("baseline")
    found, total = (comparisons(arms, baseline, margin, **what) for what in ({}, {"time": TOTAL}))
    return [_row(arm, trials, found.get(arm), total.get(arm), arm == baseline) for arm, trials in arms.items()]


def by_arm(record: SweepRecord) -> dict[str, list[TrialRecord]]:
    """The trials of each arm, arms as `summarise` orders them."""
    arms: dict[str, list[TrialRecord]] = {}
    for trial in sorted(record.trials, key=lambda trial: _definition_order(record, trial)):
        arms.setdefault(_arm(trial), []).append(trial)
    return arms


def _known(trial: TrialRecord) -> bool:
    """Whether MLflow has what the driver said of this trial when it planned it; it may have died before."""
    return {"arm", "seed"} <= trial.tags.keys()


def _arm(trial: TrialRecord) -> str:
    return trial.tags["arm"] if _known(trial) else trial.trial_id


def _definition_order(record: SweepRecord, trial: TrialRecord) -> int:
    order = record.tags.get("arms", "").split(",")
    arm = _arm(trial)
    return order.index(arm) if arm in order else len(order)


def _row(
    arm: str,
    trials: list[TrialRecord],
    compared: Comparison | None,
    compared_total: Comparison | None,
    is_baseline: bool,
) -> ArmRow:
    statuses = [trial.status for trial in trials]
    kinds = sorted(set(statuses))
    measured = [trial for trial in trials if trial.status in ("done", "stopped")]

    def mean(metric: str) -> float | None:
        values = [trial.metrics[metric] for trial in measured if metric in trial.metrics]
        return fmean(values) if values else None

    return ArmRow(
        arm=arm,
        status=kinds[0] if len(kinds) == 1 else ", ".join(f"{kind} {statuses.count(kind)}" for kind in kinds),
        reason=next((trial.reason for trial in trials if trial.reason), ""),
        trials=statuses.count("done"),
        heads=mean("final/heads"),
        parameters=mean("final/parameters"),
        val_mse=mean("final/val_mse"),
        test_mse=mean("final/test_mse"),
        median_epoch_s=mean("final/median_epoch_s"),
        compared=compared,
        is_baseline=is_baseline,
        train_total_s=mean(TOTAL),
        compared_total=compared_total,
        timing_valid=_timing([trial.tags.get("timing_valid", "unknown") for trial in measured]),
        same_as=next((trial.tags["same_as"] for trial in trials if "same_as" in trial.tags), ""),
        shown_as=shown_as(trials),
    )


def _timing(tags: list[str]) -> str:
    if "false" in tags:
        return "false"
    return "true" if all(tag == "true" for tag in tags) else "unknown"


Column = tuple[str, Callable[[ArmRow], str]]


def _number(form: str, value: float | None) -> str:
    return "-" if value is None else format(value, form)


def epoch_text(row: ArmRow) -> str:
    """Seconds of a training epoch, with a remark unless the arm is known to have had its device to itself."""
    return _number(".3f", row.median_epoch_s) + TIMING_REMARKS[row.timing_valid]


def total_text(row: ArmRow) -> str:
    """Seconds of all training epochs."""
    return _number(".2f", row.train_total_s)


COLUMNS: tuple[Column, ...] = (
    ("arm", lambda row: row.arm),
    ("status", lambda row: row.status),
    ("heads", lambda row: _number("g", row.heads)),
    ("parameters", lambda row: _number(",.0f", row.parameters)),
    ("val MSE", lambda row: _number(".4f", row.val_mse)),
    ("test MSE", lambda row: _number(".4f", row.test_mse)),
    ("median train s/epoch", lambda row: epoch_text(row)),
    ("x baseline", lambda row: "baseline" if row.is_baseline else ratio_text(row.compared)),
    ("speed", lambda row: row.shown_as or (row.compared.verdict if row.compared and row.trials else "-")),
    ("accuracy", lambda row: accuracy_text(row.compared.accuracy if row.compared else None)),
    ("train total s", lambda row: total_text(row)),
    ("x baseline, total", lambda row: "baseline" if row.is_baseline else ratio_text(row.compared_total)),
)


def told(record: SweepRecord, tag: str) -> str:
    """What the sweep's run says under this tag, or that it says nothing."""
    return record.tags.get(tag, f"({tag} not recorded)")


def environment_of(record: SweepRecord) -> Any:
    """What the driver saved of the machine; its text as it is where MLflow kept only the beginning."""
    return _parsed(record.tags.get("environment"))


def _parsed(text: str | None) -> Any:
    try:
        return text and json.loads(text)
    except json.JSONDecodeError:
        return text
