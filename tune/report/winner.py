"""The arm that a sweep's answer names, for a command that goes on with it."""

from __future__ import annotations

from collections.abc import Sequence

from tune.report.ablation import error_steps
from tune.report.arms import ArmRow
from tune.stats.verdicts import FASTER, NOT_WORSE
from tune.tracking.reader import SweepRecord


def winner(record: SweepRecord, rows: Sequence[ArmRow]) -> str | None:
    """The arm of the largest gain among those that are faster and not worse; the baseline if no arm is both.

    None where no verdict is reached, as the report says then, and in a sweep that asks what changes do to the error.
    A sweep of one arm has that arm. Of a search, its final counts.

    rows: those of `tune.report.arms.arm_rows`.
    """
    if error_steps(record):
        return None
    if len(rows) == 1:
        return rows[0].arm if rows[0].trials else None
    searched = any("stage" in trial.tags for trial in record.trials)
    final = {trial.tags.get("arm") for trial in record.trials if trial.tags.get("stage") == "final"}
    compared = {
        row.arm: row.comparison
        for row in rows
        if row.comparison is not None and row.comparison.verdict is not None and (not searched or row.arm in final)
    }
    if not compared:
        return None
    usable = {
        arm: each.ratio or 0.0
        for arm, each in compared.items()
        if each.verdict == FASTER and each.accuracy is not None and each.accuracy.verdict == NOT_WORSE
    }
    return max(usable, key=lambda arm: usable[arm]) if usable else record.tags.get("baseline")
