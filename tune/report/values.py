"""The report as numbers: JSON, and metrics of the sweep's run."""

from __future__ import annotations

from typing import Any

from tune.common.published import TAG
from tune.config.trial_config import parse_params
from tune.measure import series_errors
from tune.report import pareto, table
from tune.report.ablation import ablation_json
from tune.report.accounts import accounts, accounts_json, accounts_metrics
from tune.report.arms import REPEATS, arm_rows, environment_of, trained_by_arm, trials_by_arm
from tune.report.bottlenecks import diagnoses
from tune.report.comparisons import comparison_json
from tune.report.cost import Price, cost_json, costs
from tune.report.data import protocol_of_sweep, protocols_of_sweep
from tune.report.looks import look_tags
from tune.report.proof import kernel_list
from tune.report.setting import whether_tested
from tune.report.work import REFUSED, with_work
from tune.stats.pairs import MARGIN, Comparison
from tune.tracking.reader import SweepRecord, TrialRecord

# tags that the JSON holds of a trial
TRIAL_TAGS = ("arm", "seed", "stage", "timing_valid", "gpu_uuid", "device", "diagnosis", "layers_path", TAG, REFUSED)


def parent_metrics(record: SweepRecord) -> dict[str, float | None]:
    """Each arm's summary for the parent run, and where the wall time went.

    The arms' prefixes come before `final/`: the UI sorts its sections of charts by name, and those of a folded sweep's
    children are empty.
    """
    metrics: dict[str, float | None] = {**accounts_metrics(accounts(record))}
    for row in arm_rows(record):
        arm = row.arm.replace("=", ":")  # which MLflow does not allow in the name of a metric
        metrics |= {
            f"arm_test_mse/{arm}": row.test_mse,
            f"arm_val_mse/{arm}": row.val_mse,
            f"arm_epoch_s/{arm}": row.epoch_s,
        }
        metrics |= _speedup("arm_speedup", row.comparison, arm, row.is_baseline)
        metrics |= _speedup("arm_speedup_total", row.total_comparison, arm, row.is_baseline)
    return metrics


def parent_tags(record: SweepRecord) -> dict[str, str]:
    """What the looks of `--repeats auto` made of each arm; none of another sweep."""
    return look_tags({row.arm: row.comparison for row in arm_rows(record) if row.comparison})


def _speedup(name: str, comparison: Comparison | None, arm: str, is_baseline: bool) -> dict[str, float | None]:
    ratio = comparison.ratio if comparison else None
    low, high = (comparison and comparison.interval) or (None, None)
    return {f"{name}/{arm}": 1.0 if is_baseline else ratio, f"{name}_low/{arm}": low, f"{name}_high/{arm}": high}


def _by_series(trial: TrialRecord) -> dict[str, Any]:
    """The test errors of series, if the file holds several."""
    content = series_errors.read_tag(trial.tags.get(series_errors.TAG))
    return {} if content is None else {series_errors.TAG: content}


def _table(record: SweepRecord) -> dict[str, Any]:
    """The cells of a table, and how the data of each were read; nothing of another sweep."""
    if not table.is_table(record):
        return {}
    data = {protocol["dataset"]: protocol for protocol in protocols_of_sweep(record)}
    return {"table": {"cells": [table.as_json(cell) for cell in table.cells(record)], "data": data}}


def as_json(record: SweepRecord, *, margin: float = MARGIN, price: Price | None = None) -> dict[str, Any]:
    """The machine-readable result: params by field name, as `--plan --json` writes them, metrics by metric name.

    What MLflow does not hold is None, as is a param that is None. `compare` reads this form. Metrics of an earlier
    version's trials have the work of their epochs beside them; `refused` says why a trial is in no comparison.
    """
    rows, arms = arm_rows(record, margin=margin), trials_by_arm(record)
    return {
        "sweep_id": record.sweep_id,
        "sweep": record.tags.get("sweep"),
        "baseline": record.tags.get("baseline"),
        "repeats": record.tags.get(REPEATS),
        "device": record.tags.get("device"),
        "test_set": whether_tested(record),
        "default_batch": record.tags.get("default_batch"),
        "environment": environment_of(record),
        "data": protocol_of_sweep(record),
        "diagnoses": diagnoses(trained_by_arm(record)),
        "comparisons": {row.arm: comparison_json(row.comparison) for row in rows if row.comparison},
        "total_comparisons": {row.arm: comparison_json(row.total_comparison) for row in rows if row.total_comparison},
        "changes": ablation_json(record),
        "accounts": accounts_json(accounts(record)),
        "search": pareto.as_json(record),
        **_table(record),
        "cost": cost_json(costs(record, arms), price),
        "trials": [
            {
                "trial_id": trial.trial_id,
                **{name: trial.tags.get(name) for name in TRIAL_TAGS},
                "status": trial.status,
                "reason": trial.reason or None,
                "params": parse_params(trial.params, record.format),
                "metrics": trial.metrics,
                "kernels": kernel_list(trial),
                **_by_series(trial),
            }
            for trial in with_work(record.trials)
        ],
    }
