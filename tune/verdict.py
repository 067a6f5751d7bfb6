"""What a finished search says to use: one line, from the pairs of its final only.

It compares validation errors of equal seeds, never the test set's. A ratio has no interval here, and the line says so.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from tune.finalists import MARGIN

if TYPE_CHECKING:
    from tune.mlflow_reader import SweepRecord
    from tune.report import ArmRow

PAIRS = 3  # fewer are no verdict


def as_settings(changes: Mapping[str, Any]) -> str:
    """Fields as the command line takes them."""
    texts = {
        name: value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
        for name, value in changes.items()
    }
    return " ".join(f"--set {name}={text}" for name, text in texts.items())


@dataclass(frozen=True, kw_only=True)
class _Compared:
    """An arm of the final beside the baseline, over the seeds that both have finished."""

    arm: str
    speedup: float
    pairs: int  # that `speedup` is the mean of: equal seeds on one GPU
    excess: float  # mean over the common seeds of (validation MSE - baseline's) / baseline's, whatever GPU they ran on
    val_mse: float  # means over the same seeds
    baseline_mse: float

    @property
    def is_as_good(self) -> bool:
        return self.excess <= MARGIN

    def __str__(self) -> str:
        return (
            f"{self.speedup:.2f}x the baseline's epoch speed, a ratio without an interval, validation MSE "
            f"{self.val_mse:.4f} against {self.baseline_mse:.4f}; {_pairs(self.pairs)}"
        )


def verdict(record: SweepRecord, rows: Sequence[ArmRow]) -> str | None:
    """The line under the table of a search with a final; None for any other sweep."""
    settings = {
        trial.tags["arm"]: trial.tags.get("settings", "")
        for trial in record.trials
        if trial.tags.get("stage") == "final" and "arm" in trial.tags
    }
    if not settings:
        return None
    errors, baseline = _errors(record), record.tags.get("baseline", "")
    if baseline not in errors:
        return "no verdict: the baseline has not finished"
    final = [row for row in rows if row.arm in settings and row.arm != baseline]
    timed = [one for row in final if (one := _compare(row, errors.get(row.arm, {}), errors[baseline]))]
    if not timed:
        return "no verdict: no arm of the final has a pair with the baseline"
    sure = [one for one in timed if one.pairs >= PAIRS]
    if not sure:
        most = max(one.pairs for one in timed)
        return f"no verdict, {_pairs(most)} only, {PAIRS} are needed: --repeats {PAIRS} or more"
    best = max(sure, key=lambda one: (one.is_as_good, one.speedup))
    if best.is_as_good and best.speedup > 1:
        return f"use this: {settings[best.arm]} ({best}){_more_accurate(best.excess, sure)}"
    why = "no faster arm keeps its accuracy" if best.speedup > 1 else "no arm that keeps its accuracy is faster"
    return f"use this: {settings[baseline]} (the baseline: {why}; {best.arm}: {best}){_more_accurate(0.0, sure)}"


def _errors(record: SweepRecord) -> dict[str, dict[str, float]]:
    """Arm of the final -> seed -> validation MSE, of the finished trials that have one."""
    found: dict[str, dict[str, float]] = {}
    for trial in record.trials:
        val_mse = trial.metrics.get("final/val_mse", math.nan)
        final = trial.tags.get("stage") == "final" and {"arm", "seed"} <= trial.tags.keys()
        if final and trial.status == "done" and math.isfinite(val_mse):
            found.setdefault(trial.tags["arm"], {})[trial.tags["seed"]] = val_mse
    return found


def _compare(row: ArmRow, own: Mapping[str, float], baseline: Mapping[str, float]) -> _Compared | None:
    """None without a timed pair or without a common seed."""
    seeds = sorted(seed for seed in own.keys() & baseline.keys() if baseline[seed] > 0)
    if row.speedup is None or not seeds:
        return None
    return _Compared(
        arm=row.arm,
        speedup=row.speedup,
        pairs=row.pairs,
        excess=fmean(own[seed] / baseline[seed] - 1 for seed in seeds),
        val_mse=fmean(own[seed] for seed in seeds),
        baseline_mse=fmean(baseline[seed] for seed in seeds),
    )


def _more_accurate(excess: float, compared: Sequence[_Compared]) -> str:
    """A remark where another arm of the final has a clearly lower error than the one with this excess."""
    best = min(compared, key=lambda one: one.excess)
    if (1 + best.excess) * (1 + MARGIN) >= 1 + excess:
        return ""
    return f"; lower in error: {best.arm} ({best})"


def _pairs(count: int) -> str:
    return f"{count} pair{'' if count == 1 else 's'}"
