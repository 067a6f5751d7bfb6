"""The report as numbers: JSON, and metrics of the sweep's run."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from tune.common.published import TAG
from tune.config.trial_config import parse_params
from tune.report.arms import by_arm, environment_of, summarise
from tune.report.bottlenecks import diagnoses
from tune.report.cost import Price, cost_json, costs
from tune.report.proof import kernel_list
from tune.stats.pairs import MARGIN, Comparison
from tune.tracking.reader import SweepRecord


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
                "params": parse_params(trial.params, record.format),
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
