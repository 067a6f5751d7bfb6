"""The first line of the notes: what all trials of a sweep share, from their params in MLflow."""

from __future__ import annotations

from tune.common.words import counted
from tune.plan.batch import RULE
from tune.tracking.reader import SweepRecord

WORDS = {
    "data.dataset": "data {}",
    "data.context_length": "context {}",
    "data.prediction_length": "horizon {}",
    "data.feed": "feed {}",
    "model.preset": "preset {}",
    "model.patch_length": "patch {}",
    "model.d_model": "d_model {}",
    "model.num_heads": "head",
    "model.num_layers": "layer",
    "model.attention": "attention {}",
    "model.layers": "layers {}",
    "model.recompute": "recompute {}",
    "train.epochs": "epoch",
    "train.batch_size": "batch {}",
    "train.precision": "{}",
    "train.engine": "engine {}",
}

PLAIN = frozenset({None, "never"})  # values that say nothing: unknown, and nothing computed again


def _said(name: str, value: str | None) -> str:
    words = WORDS[name]
    return words.format(value) if "{}" in words else counted(str(value), words)


def setting_note(record: SweepRecord) -> list[str]:
    """One line, without the fields that differ between trials or that MLflow does not hold of all."""
    configured = [trial for trial in record.trials if trial.params]
    values = {name: {trial.params.get(name) for trial in configured} for name in WORDS}
    shared = [_said(name, *each) for name, each in values.items() if len(each) == 1 and not each & PLAIN]
    if not shared:
        return []
    seeds = len({trial.tags["seed"] for trial in configured if "seed" in trial.tags})
    return [f"All trials: {', '.join(shared)}; {counted(seeds, 'seed')}."]


def batch_note(record: SweepRecord) -> list[str]:
    """One line on the batch of the arms that name none, if the sweep has such arms."""
    batch = record.tags.get("default_batch")
    return [] if batch is None else [f"Batch {batch} is the default, in every arm that names none: {RULE}."]
