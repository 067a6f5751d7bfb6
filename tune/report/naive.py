"""What naive forecasts reach beside the model: a model that does not beat them has learned nothing of use."""

from __future__ import annotations

from tune.report.arms import arm_of, has_arm_and_seed
from tune.tracking.reader import SweepRecord, TrialRecord

NAIVE = {"repeating the last value": "final/naive_last_value_mse", "repeating the last day": "final/naive_last_day_mse"}
TRY = "train for more epochs, lower the learning rate, or look at the data"


def naive_note(record: SweepRecord) -> list[str]:
    """One line on the first finished trial of the baseline; none where its errors or the naive ones are not known."""
    trial = _of_baseline(record)
    if trial is None or not _errors(trial):
        return []
    text = ", ".join(f"{name} {mse:.4f}" for name, mse in _errors(trial).items())
    who, mse = f"'{trial.tags['arm']}' with seed {trial.tags['seed']}", trial.metrics["final/test_mse"]
    if is_beaten_by_naive(record):
        return [f"Test MSE of {who}, {mse:.4f}, does not beat all of the naive forecasts: {text}. {TRY.capitalize()}."]
    return [f"Test MSE of {who}, {mse:.4f}, beats the naive forecasts: {text}."]


def is_beaten_by_naive(record: SweepRecord) -> bool:
    """Whether a naive forecast is at least as good as that trial."""
    trial = _of_baseline(record)
    return trial is not None and any(mse <= trial.metrics["final/test_mse"] for mse in _errors(trial).values())


def _of_baseline(record: SweepRecord) -> TrialRecord | None:
    finished = [trial for trial in record.trials if trial.status == "done" and has_arm_and_seed(trial)]
    trial = next((trial for trial in finished if arm_of(trial) == record.tags.get("baseline")), None)
    return None if trial is None or "final/test_mse" not in trial.metrics else trial


def _errors(trial: TrialRecord) -> dict[str, float]:
    return {name: trial.metrics[key] for name, key in NAIVE.items() if key in trial.metrics}
