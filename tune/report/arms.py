"""The table of arms, from MLflow's records. Every number comes from the MLflow store.

Ratios, intervals and verdicts are those of tune/stats/pairs.py, over the training time of an epoch of all training
windows (tune/report/work.py).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from tune.config.repeats import AUTO
from tune.report.comparisons import accuracy_text, comparisons, ratio_text, refusal, speed_text
from tune.report.published import shown_as
from tune.report.work import EPOCH, STEPS, TOTAL, WINDOWS, total_s, with_work
from tune.stats.pairs import MARGIN, Comparison
from tune.tracking.reader import SweepRecord, TrialRecord

REPEATS = "repeats"  # tag of the sweep's run: a number, or AUTO
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
    epoch_s: float | None  # of the training part, for all training windows
    windows_per_epoch: float | None  # that an epoch trained
    steps_per_epoch: float | None
    comparison: Comparison | None  # with the baseline; None for the baseline itself and for what is in no pairs
    is_baseline: bool
    train_total_s: float | None  # all training epochs together, for all training windows
    total_comparison: Comparison | None  # the same for train_total_s
    timing_valid: str  # a key of TIMING_REMARKS: "true" only if every finished trial had its device to itself
    same_as: str  # the arm whose heads leave at the same epochs; "" where there is none
    shown_as: str  # how far the arm is the replaced study's; "" where it is an arm of ours
    refused: str  # why the arm is in no comparison, by the windows that it trained; "" where it may be


def arm_rows(record: SweepRecord, *, margin: float = MARGIN) -> list[ArmRow]:
    """One row per arm, in the order of the sweep's definition where known, else in the order of the plan.

    A probe has no row: it trains nothing. A trial of which MLflow knows no arm gets a row of its own, under its id.
    `margin`: how much larger an error may be, relative to the baseline's, and still count as equal to it.
    """
    arms, baseline = trained_by_arm(record), record.tags.get("baseline")
    looks = has_looks(record)
    epoch, total = (comparisons(arms, baseline, margin, time=time, looks=looks) for time in (EPOCH, TOTAL))
    return [_row(arm, trials, epoch.get(arm), total.get(arm), arm == baseline) for arm, trials in arms.items()]


def has_looks(record: SweepRecord) -> bool:
    """Whether the sweep ran with `--repeats auto`."""
    return record.tags.get(REPEATS) == AUTO


def trials_by_arm(record: SweepRecord) -> dict[str, list[TrialRecord]]:
    """The trials of each arm, arms in the order of `arm_rows`, with the work of their epochs (tune.report.work)."""
    arms: dict[str, list[TrialRecord]] = {}
    for trial in sorted(with_work(record.trials), key=lambda trial: _definition_order(record, trial)):
        arms.setdefault(arm_of(trial), []).append(trial)
    return arms


def trained_by_arm(record: SweepRecord) -> dict[str, list[TrialRecord]]:
    """As `trials_by_arm`, without the probes of a search, which train nothing."""
    arms = trials_by_arm(record).items()
    return {arm: trials for arm, trials in arms if trials[0].tags.get("stage") != "probe"}


def has_arm_and_seed(trial: TrialRecord) -> bool:
    """Whether MLflow has what the driver records of a planned trial. It lacks this if the driver died before."""
    return {"arm", "seed"} <= trial.tags.keys()


def arm_of(trial: TrialRecord) -> str:
    """The trial's arm; its id where MLflow does not know the arm."""
    return trial.tags["arm"] if has_arm_and_seed(trial) else trial.trial_id


def _definition_order(record: SweepRecord, trial: TrialRecord) -> int:
    order = record.tags.get("arms", "").split(",")
    arm = arm_of(trial)
    return order.index(arm) if arm in order else len(order)


def _row(
    arm: str,
    trials: list[TrialRecord],
    comparison: Comparison | None,
    total_comparison: Comparison | None,
    is_baseline: bool,
) -> ArmRow:
    statuses = [trial.status for trial in trials]
    distinct = sorted(set(statuses))
    measured = [trial for trial in trials if trial.status in ("done", "stopped")]

    def mean(metric: str) -> float | None:
        return _mean(trial.metrics.get(metric) for trial in measured)

    return ArmRow(
        arm=arm,
        status=distinct[0] if len(distinct) == 1 else ", ".join(f"{each} {statuses.count(each)}" for each in distinct),
        reason=next((trial.reason for trial in trials if trial.reason), ""),
        trials=statuses.count("done"),
        heads=mean("final/heads"),
        parameters=mean("final/parameters"),
        val_mse=mean("final/val_mse"),
        test_mse=mean("final/test_mse"),
        epoch_s=mean(EPOCH),
        windows_per_epoch=mean(WINDOWS),
        steps_per_epoch=mean(STEPS),
        comparison=comparison,
        is_baseline=is_baseline,
        train_total_s=_mean(total_s(trial.metrics) for trial in measured),
        total_comparison=total_comparison,
        timing_valid=_all_alone([trial.tags.get("timing_valid", "unknown") for trial in measured]),
        same_as=next((trial.tags["same_as"] for trial in trials if "same_as" in trial.tags), ""),
        shown_as=shown_as(trials),
        refused=refusal(trials),
    )


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _all_alone(tags: list[str]) -> str:
    if "false" in tags:
        return "false"
    return "true" if all(tag == "true" for tag in tags) else "unknown"


Column = tuple[str, Callable[[ArmRow], str]]


def _number(form: str, value: float | None) -> str:
    return "-" if value is None else format(value, form)


def epoch_text(row: ArmRow) -> str:
    """Seconds of a training epoch of all training windows; a remark follows unless every trial had its device alone."""
    return _number(".3f", row.epoch_s) + TIMING_REMARKS[row.timing_valid]


def total_text(row: ArmRow) -> str:
    """Seconds of all training epochs, for all training windows."""
    return _number(".2f", row.train_total_s)


def _speed_text(row: ArmRow) -> str:
    if row.shown_as or row.refused:
        return row.shown_as or "refused"
    return speed_text(row.comparison) if row.comparison and row.trials else "-"


COLUMNS: tuple[Column, ...] = (
    ("arm", lambda row: row.arm),
    ("status", lambda row: row.status),
    ("heads", lambda row: _number("g", row.heads)),
    ("parameters", lambda row: _number(",.0f", row.parameters)),
    ("val MSE", lambda row: _number(".4f", row.val_mse)),
    ("test MSE", lambda row: _number(".4f", row.test_mse)),
    ("windows/epoch", lambda row: _number(",.0f", row.windows_per_epoch)),
    ("steps/epoch", lambda row: _number(",.0f", row.steps_per_epoch)),
    ("all windows s/epoch", epoch_text),
    ("x baseline", lambda row: "baseline" if row.is_baseline else ratio_text(row.comparison)),
    ("speed", lambda row: _speed_text(row)),
    ("accuracy", lambda row: accuracy_text(row.comparison.accuracy if row.comparison else None)),
    ("train total s", total_text),
    ("x baseline, total", lambda row: "baseline" if row.is_baseline else ratio_text(row.total_comparison)),
)


def tag_text(record: SweepRecord, tag: str) -> str:
    """The tag of the sweep's run, or words that say that it was not recorded."""
    return record.tags.get(tag, f"({tag} not recorded)")


def environment_of(record: SweepRecord) -> Any:
    """What the driver saved of the machine; a text where MLflow kept only its beginning."""
    return json_or_text(record.tags.get("environment"))


def json_or_text(text: str | None) -> Any:
    """The content of the JSON; the text itself where it is no JSON."""
    try:
        return text and json.loads(text)
    except json.JSONDecodeError:
        return text
