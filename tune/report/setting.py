"""The report's first line: what all trials of a sweep have in common, from their params in MLflow."""

from __future__ import annotations

from tune.tracking.reader import SweepRecord

WORDS = {
    "data.dataset": "data {}",
    "data.context_length": "context {}",
    "data.prediction_length": "horizon {}",
    "data.feed": "feed {}",
    "model.preset": "preset {}",
    "model.patch_length": "patch {}",
    "model.d_model": "d_model {}",
    "model.num_heads": "{} heads",
    "model.num_layers": "{} layers",
    "model.attention": "attention {}",
    "model.layers": "layers {}",
    "train.epochs": "{} epochs",
    "train.batch_size": "batch {}",
    "train.precision": "{}",
    "train.engine": "engine {}",
}


def setting_note(record: SweepRecord) -> list[str]:
    """One line; a field that differs between trials, or that MLflow does not hold of all, is not in it."""
    configured = [trial for trial in record.trials if trial.params]
    values = {name: {trial.params.get(name) for trial in configured} for name in WORDS}
    told = [WORDS[name].format(*found) for name, found in values.items() if len(found) == 1 and None not in found]
    if not told:
        return []
    seeds = len({trial.tags["seed"] for trial in configured if "seed" in trial.tags})
    return [f"All trials: {', '.join(told)}; {seeds} seed{'' if seeds == 1 else 's'}."]
