"""What a finished search says to use: one line, from the pairs of its final only.

It compares validation errors, never the test set's. A ratio has no interval here, and the line says so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
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


def verdict(record: SweepRecord, rows: Sequence[ArmRow]) -> str | None:
    """The line under the table of a search with a final; None for any other sweep."""
    settings = {
        trial.tags["arm"]: trial.tags.get("settings", "")
        for trial in record.trials
        if trial.tags.get("stage") == "final" and "arm" in trial.tags
    }
    if not settings:
        return None
    final = {row.arm: row for row in rows if row.arm in settings}
    baseline = final.pop(record.tags.get("baseline", ""), None)
    if baseline is None or baseline.val_mse is None:
        return "no verdict: the baseline has not finished"
    timed = [row for row in final.values() if row.speedup is not None and row.val_mse is not None]
    if not timed:
        return "no verdict: no arm of the final has a pair with the baseline"
    sure = [row for row in timed if row.pairs >= PAIRS]
    if not sure:
        most = max(timed, key=lambda row: row.pairs)
        return f"no verdict, {_pairs(most)} only, {PAIRS} are needed: --repeats {PAIRS} or more"
    best = max(sure, key=lambda row: (_is_as_good(row, baseline), row.speedup))
    if _is_as_good(best, baseline) and (best.speedup or 0) > 1:
        return f"use this: {settings[best.arm]} ({_compared(best, baseline)}){_more_accurate(best, baseline, sure)}"
    why = "no faster arm keeps its accuracy" if (best.speedup or 0) > 1 else "no arm that keeps its accuracy is faster"
    text = f"use this: {settings[baseline.arm]} (the baseline: {why}; {best.arm}: {_compared(best, baseline)})"
    return text + _more_accurate(baseline, baseline, sure)


def _is_as_good(row: ArmRow, baseline: ArmRow) -> bool:
    return (row.val_mse or 0) <= (baseline.val_mse or 0) * (1 + MARGIN)


def _compared(row: ArmRow, baseline: ArmRow) -> str:
    return (
        f"{row.speedup:.2f}x the baseline's epoch speed, a ratio without an interval, validation MSE "
        f"{row.val_mse:.4f} against {baseline.val_mse:.4f}; {_pairs(row)}"
    )


def _more_accurate(chosen: ArmRow, baseline: ArmRow, rows: Sequence[ArmRow]) -> str:
    """A remark where another arm of the final has a clearly lower error."""
    best = min(rows, key=lambda row: row.val_mse or 0)
    if (best.val_mse or 0) * (1 + MARGIN) >= (chosen.val_mse or 0):
        return ""
    return f"; lower in error: {best.arm} ({_compared(best, baseline)})"


def _pairs(row: ArmRow) -> str:
    return f"{row.pairs} pair{'' if row.pairs == 1 else 's'}"
