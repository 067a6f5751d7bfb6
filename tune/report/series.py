"""The errors of each series of a file that holds several, and of targets that count in none."""

from __future__ import annotations

from dataclasses import dataclass

from tune.measure.series_errors import FILE, TAG, read_tag
from tune.report.arms import arm_of, has_arm_and_seed, trained_by_arm
from tune.tracking.reader import SweepRecord, TrialRecord

LEFT_OUT = "final/filled_targets_left_out"


@dataclass(frozen=True, kw_only=True)
class OfSeries:
    """Test errors of the baseline's first trial, by its seed."""

    title: str
    rows: list[list[str]]
    """Of each series shown, the worst first: id, windows, MSE, MAE."""
    caption: str


def errors_by_series(record: SweepRecord) -> OfSeries | None:
    """None if the file holds one series, or if the baseline has no trial that is done."""
    trial = _first_of_baseline(record)
    content = None if trial is None else read_tag(trial.tags.get(TAG))
    if trial is None or content is None:
        return None
    count, shown = content["with_windows"], content["shown"]
    which = (
        "" if len(shown) == count else f"The {len(shown) // 2} worst and best of {count}; all are in samples/{FILE}."
    )
    without = content["series"] - count
    return OfSeries(
        title=f"Test errors of {arm_of(trial)}, seed {trial.tags['seed']}, by series",
        rows=[[of["id"], f"{of['windows']:,}", f"{of['mse']:.4f}", f"{of['mae']:.4f}"] for of in shown],
        caption=" ".join([which, f"{without} series have no test window." if without else ""]).strip(),
    )


def left_out_note(record: SweepRecord) -> list[str]:
    """One line if filled targets are left out of the test errors."""
    counts = {int(trial.metrics[LEFT_OUT]) for trial in record.trials if trial.metrics.get(LEFT_OUT)}
    if not counts:
        return []
    most = max(counts)
    return [f"Test errors leave out {most:,} targets that the source lacks and that were filled ({LEFT_OUT})."]


def _first_of_baseline(record: SweepRecord) -> TrialRecord | None:
    baseline = record.tags.get("baseline")
    done = [trial for trials in trained_by_arm(record).values() for trial in trials if trial.status == "done"]
    ours = [trial for trial in done if has_arm_and_seed(trial) and arm_of(trial) == baseline]
    return min(ours, key=lambda trial: int(trial.tags["seed"]), default=None)
