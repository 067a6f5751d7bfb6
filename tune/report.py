"""MLflow runs -> the table a reader sees. Every number comes from the MLflow store.

A ratio is the geometric mean, over pairs of the same seed, of baseline over arm in median epoch time. It carries no
interval yet and is therefore no verdict, and says so.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import fmean, geometric_mean
from typing import IO, Any

from tune.tracking import SweepRecord, TrialRecord

UNFINISHED = ("planned", "running")


@dataclass(frozen=True, kw_only=True)
class ArmRow:
    """One arm over its seeds. Means over the finished trials; None where no trial gave the value."""

    arm: str
    status: str  # "done", or each status with its count where they differ
    reason: str
    trials: int
    heads: float | None
    parameters: float | None
    val_mse: float | None
    test_mse: float | None
    median_epoch_s: float | None
    speedup: float | None  # over the baseline; None without a valid pair
    train_total_s: float | None
    timing_valid: bool


def summarise(record: SweepRecord) -> list[ArmRow]:
    """One row per arm, in the order of the sweep's definition where known, else of planning."""
    arms: dict[str, list[TrialRecord]] = {}
    for trial in sorted(record.trials, key=lambda trial: _definition_order(record, trial)):
        arms.setdefault(trial.tags["arm"], []).append(trial)
    baseline = {trial.tags["seed"]: trial for trial in arms.get(record.tags["baseline"], [])}
    return [_row(arm, trials, baseline) for arm, trials in arms.items()]


def _definition_order(record: SweepRecord, trial: TrialRecord) -> int:
    order = record.tags.get("arms", "").split(",")
    arm = trial.tags["arm"]
    return order.index(arm) if arm in order else len(order)


def _row(arm: str, trials: list[TrialRecord], baseline: Mapping[str, TrialRecord]) -> ArmRow:
    statuses = [trial.status for trial in trials]
    kinds = sorted(set(statuses))
    done = [trial for trial in trials if trial.status == "done"]
    ratios = [ratio for trial in done if (ratio := _ratio(baseline.get(trial.tags["seed"]), trial)) is not None]

    def mean(metric: str) -> float | None:
        values = [trial.metrics[metric] for trial in done if metric in trial.metrics]
        return fmean(values) if values else None

    return ArmRow(
        arm=arm,
        status=kinds[0] if len(kinds) == 1 else ", ".join(f"{kind} {statuses.count(kind)}" for kind in kinds),
        reason=next((trial.reason for trial in trials if trial.reason), ""),
        trials=len(done),
        heads=mean("final/heads"),
        parameters=mean("final/parameters"),
        val_mse=mean("final/val_mse"),
        test_mse=mean("final/test_mse"),
        median_epoch_s=mean("final/median_epoch_s"),
        speedup=geometric_mean(ratios) if ratios else None,
        train_total_s=mean("final/train_total_s"),
        timing_valid=all(trial.tags.get("timing_valid") == "true" for trial in done),
    )


def _ratio(baseline: TrialRecord | None, trial: TrialRecord) -> float | None:
    """Baseline's over the trial's median epoch time; None unless both are done, timed alone and on the same device."""
    if baseline is None or baseline.status != "done":
        return None
    pair = (baseline, trial)
    if any(one.tags.get("timing_valid") != "true" for one in pair) or baseline.tags["device"] != trial.tags["device"]:
        return None
    times = [one.metrics.get("final/median_epoch_s") for one in pair]
    if times[0] is None or not times[1] or not all(time and math.isfinite(time) for time in times):
        return None
    return times[0] / times[1]


Column = tuple[str, Callable[[ArmRow], str]]


def _number(form: str, value: float | None) -> str:
    return "-" if value is None else format(value, form)


COLUMNS: tuple[Column, ...] = (
    ("arm", lambda row: row.arm),
    ("status", lambda row: row.status),
    ("heads", lambda row: _number("g", row.heads)),
    ("parameters", lambda row: _number(",.0f", row.parameters)),
    ("val MSE", lambda row: _number(".4f", row.val_mse)),
    ("test MSE", lambda row: _number(".4f", row.test_mse)),
    ("median epoch s", lambda row: _number(".3f", row.median_epoch_s) + ("" if row.timing_valid else " (shared)")),
    ("x baseline", lambda row: _number(".2f", row.speedup)),
    ("train total s", lambda row: _number(".2f", row.train_total_s)),
)


def notes(record: SweepRecord) -> list[str]:
    """What a reader must know beside the table: naive errors, what did not run, what the ratio is."""
    lines = []
    baseline = next((t for t in record.trials if t.tags["arm"] == record.tags["baseline"] and t.status == "done"), None)
    if baseline is not None:
        naive = {name: baseline.metrics[key] for name, key in NAIVE.items() if key in baseline.metrics}
        test_mse = baseline.metrics["final/test_mse"]
        if naive:
            text = ", ".join(f"{name} {mse:.4f}" for name, mse in naive.items())
            verb = "beats" if all(test_mse < mse for mse in naive.values()) else "does not beat all of"
            lines.append(f"Test MSE of '{baseline.tags['arm']}' {test_mse:.4f} {verb} the naive forecasts: {text}.")
    lines += [f"{row.arm}: {row.status}: {row.reason}" for row in summarise(record) if row.reason]
    lines.append(
        "Times are of the training part of an epoch, the median over the epochs after the last head left. "
        "'x baseline' pairs equal seeds and has no interval: it is no verdict."
    )
    return lines


NAIVE = {"repeating the last value": "final/naive_last_value_mse", "repeating the last day": "final/naive_last_day_mse"}


def print_report(record: SweepRecord, stream: IO[str]) -> None:
    """The table and its notes, for a terminal or a pipe."""
    from rich.console import Console
    from rich.table import Table

    console = Console(file=stream, width=None if stream.isatty() else 140, highlight=False)
    table = Table(title=f"{record.sweep_id} on {record.tags['device']}")
    for index, (name, _) in enumerate(COLUMNS):
        table.add_column(name, justify="left" if index < 2 else "right", no_wrap=True)
    for row in summarise(record):
        table.add_row(*(cell(row) for _, cell in COLUMNS))
    console.print(table)
    for line in notes(record):
        console.print(line, soft_wrap=True, markup=False)


def markdown(record: SweepRecord) -> str:
    """The same as a Markdown document."""
    head = [name for name, _ in COLUMNS]
    lines = [f"# {record.sweep_id}", "", record.tags["question"], "", f"Device: {record.tags['device']}", ""]
    lines += ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(cell(row) for _, cell in COLUMNS) + " |" for row in summarise(record)]
    return "\n".join([*lines, "", *notes(record), ""])


def parent_metrics(record: SweepRecord) -> dict[str, float | None]:
    """Each arm's summary for the parent run, so that its charts are not empty."""
    found: dict[str, float | None] = {}
    for row in summarise(record):
        found |= {
            f"test_mse/{row.arm}": row.test_mse,
            f"val_mse/{row.arm}": row.val_mse,
            f"median_epoch_s/{row.arm}": row.median_epoch_s,
            f"speedup/{row.arm}": row.speedup,
        }
    return found


def as_json(record: SweepRecord) -> dict[str, Any]:
    """The machine-readable result: params by field name, metrics by metric name."""
    return {
        "sweep_id": record.sweep_id,
        "sweep": record.tags["sweep"],
        "environment": json.loads(record.tags["environment"]),
        "trials": [
            {
                "trial_id": trial.trial_id,
                "status": trial.status,
                "reason": trial.reason or None,
                "params": trial.params,
                "metrics": trial.metrics,
            }
            for trial in record.trials
        ],
    }
