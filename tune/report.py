"""MLflow runs -> the table a reader sees. Every number comes from the MLflow store.

Ratios, intervals and verdicts are those of tune/pairs.py over the medians of an epoch's training time.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from tune.config import parse_params
from tune.environments import mixture
from tune.finalists import MARGIN
from tune.pairs import Comparison
from tune.report_cost import Price, cost_json, costs
from tune.report_pairs import TOTAL, accuracy_text, comparisons, moved_notes, pairing_notes, ratio_text
from tune.report_proof import kernel_list, proof_note
from tune.report_published import TAG, published_notes, shown_as
from tune.report_same_epochs import same_epochs, same_epochs_note
from tune.report_setting import setting_note
from tune.report_time import diagnoses, time_notes
from tune.tracking import SweepRecord, TrialRecord
from tune.verdict import headline

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


def notes(record: SweepRecord, rows: Sequence[ArmRow], *, margin: float = MARGIN) -> list[str]:
    """What a reader must know beside the table: what all trials share, naive errors, what did not run or is missing,
    what bounds each arm, what the ratio is.

    The last line is the sweep's result. `rows` and `margin` are those of `summarise`.
    """
    lines = setting_note(record) + _naive_note(record)
    lines += [f"{row.arm}: {row.status}: {row.reason}" for row in rows if row.reason]
    if unknown := [trial.trial_id for trial in record.trials if not _known(trial)]:
        lines.append(f"MLflow holds no arm or seed of {', '.join(unknown)}: the same command again sends them.")
    if "baseline" not in record.tags:
        lines.append("MLflow does not hold which arm is the baseline: there is no 'x baseline'.")
    epochs = {_arm(trial): trial.params.get("train.epochs", "?") for trial in record.trials}
    lines += [
        f"{row.arm} is the same computation as {row.same_as}: same removals at {epochs[row.arm]} epochs."
        for row in rows
        if row.same_as
    ]
    arms = by_arm(record)
    lines += [*proof_note(arms), *time_notes(arms), TIME_NOTE, *published_notes(record, arms, margin=margin)]
    lines += pairing_notes({row.arm: row.compared for row in rows if row.compared}, margin)
    baseline = record.tags.get("baseline")
    in_order = [trial for trials in arms.values() for trial in trials]
    lines += same_epochs_note(same_epochs(in_order, baseline, margin), baseline)
    lines += moved_notes(arms, baseline) + _environments_note(record)
    line = headline(record, rows)
    return [*lines, line] if line else lines


def _naive_note(record: SweepRecord) -> list[str]:
    finished = [trial for trial in record.trials if trial.status == "done" and _known(trial)]
    baseline = next((trial for trial in finished if _arm(trial) == record.tags.get("baseline")), None)
    if baseline is None or "final/test_mse" not in baseline.metrics:
        return []
    test_mse = baseline.metrics["final/test_mse"]
    naive = {name: baseline.metrics[key] for name, key in NAIVE.items() if key in baseline.metrics}
    if not naive:
        return []
    text = ", ".join(f"{name} {mse:.4f}" for name, mse in naive.items())
    verb = "beats" if all(test_mse < mse for mse in naive.values()) else "does not beat all of"
    who = f"'{baseline.tags['arm']}' with seed {baseline.tags['seed']}"
    return [f"Test MSE of {who}, {test_mse:.4f}, {verb} the naive forecasts: {text}."]


def _environments_note(record: SweepRecord) -> list[str]:
    """One line where --resume has gone on with other versions or code than some of the trials ran on."""
    texts = dict.fromkeys(trial.tags["environment"] for trial in record.trials if "environment" in trial.tags)
    found = mixture([one for text in texts if isinstance(one := _parsed(text), dict)])
    told = "its arms differ in more than what is compared where a pair has two of these"
    return [f"The sweep was resumed in another environment: {'; '.join(found)}; {told}."] if found else []


TIME_NOTE = (
    "Values are means over the seeds: 'val MSE' of a trial's best epoch, 'test MSE' of the same one, 'median train "
    "s/epoch' of the training part of an epoch, without validation. Of a pruned arm the epochs after its last head "
    "left count."
)
NAIVE = {"repeating the last value": "final/naive_last_value_mse", "repeating the last day": "final/naive_last_day_mse"}


def told(record: SweepRecord, tag: str) -> str:
    """What the sweep's run says under this tag, or that it says nothing."""
    return record.tags.get(tag, f"({tag} not recorded)")


def parent_metrics(record: SweepRecord) -> dict[str, float | None]:
    """Each arm's summary for the parent run, under prefixes that come before `final/`.

    The UI sorts its sections of charts by name, and those of a folded sweep's children are empty.
    """
    found: dict[str, float | None] = {}
    for row in summarise(record):
        arm = row.arm.replace("=", ":")  # which MLflow does not allow in the name of a metric
        found |= {
            f"arm_test_mse/{arm}": row.test_mse,
            f"arm_val_mse/{arm}": row.val_mse,
            f"arm_epoch_s/{arm}": row.median_epoch_s,
        }
        found |= _speedup("arm_speedup", row.compared, arm, row.is_baseline)
        found |= _speedup("arm_speedup_total", row.compared_total, arm, row.is_baseline)
    return found


def _speedup(name: str, compared: Comparison | None, arm: str, is_baseline: bool) -> dict[str, float | None]:
    ratio = compared.ratio if compared else None
    low, high = (compared and compared.interval) or (None, None)
    return {f"{name}/{arm}": 1.0 if is_baseline else ratio, f"{name}_low/{arm}": low, f"{name}_high/{arm}": high}


def as_json(record: SweepRecord, *, margin: float = MARGIN, price: Price | None = None) -> dict[str, Any]:
    """The machine-readable result: params by field name, as `--plan --json` writes them, metrics by metric name.

    What MLflow does not hold is None, as is a param that is None. `compare` reads this form.
    """
    rows = summarise(record, margin=margin)
    return {
        "sweep_id": record.sweep_id,
        "sweep": record.tags.get("sweep"),
        "baseline": record.tags.get("baseline"),
        "device": record.tags.get("device"),
        "environment": environment_of(record),
        "diagnoses": diagnoses(by_arm(record)),
        "comparisons": {row.arm: _comparison(row.compared) for row in rows if row.compared},
        "total_comparisons": {row.arm: _comparison(row.compared_total) for row in rows if row.compared_total},
        "cost": cost_json(costs(record, by_arm(record)), price),
        "trials": [
            {
                "trial_id": trial.trial_id,
                **{name: trial.tags.get(name) for name in TOLD_TAGS},
                "status": trial.status,
                "reason": trial.reason or None,
                "params": parse_params(trial.params),
                "metrics": trial.metrics,
                "kernels": kernel_list(trial),
            }
            for trial in record.trials
        ],
    }


TOLD_TAGS = ("arm", "seed", "stage", "timing_valid", "gpu_uuid", "device", "diagnosis", TAG)


def _comparison(found: Comparison) -> dict[str, Any]:
    told = asdict(found) | {"verdict": found.verdict}
    if found.accuracy is not None:
        told["accuracy"] |= {"verdict": found.accuracy.verdict}
    return told


def environment_of(record: SweepRecord) -> Any:
    """What the driver saved of the machine; its text as it is where MLflow kept only the beginning."""
    return _parsed(record.tags.get("environment"))


def _parsed(text: str | None) -> Any:
    try:
        return text and json.loads(text)
    except json.JSONDecodeError:
        return text
