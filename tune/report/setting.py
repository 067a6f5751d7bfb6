"""The first line of the notes: what all trials of a sweep share, from their params in MLflow."""

from __future__ import annotations

from tune.common.words import counted
from tune.config.model_config import UNSAID_OF_A_MODEL
from tune.config.trial_config import READ_TEST, UNSAID
from tune.plan.batch import RULE
from tune.storage.params import to_text
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
    **{f"model.{name}": f"{name.replace('_', ' ')} {{}}" for name in UNSAID_OF_A_MODEL},
    "train.epochs": "epoch",
    "train.batch_size": "batch {}",
    "train.precision": "{}",
    "train.engine": "engine {}",
}

READ, NOT_READ = "read", "not read"


def _said(name: str, value: str | None) -> str:
    words = WORDS[name]
    return words.format(value) if "{}" in words else counted(str(value), words)


def _plain(name: str) -> set[str | None]:
    """The texts that say nothing: unknown, and as earlier versions did it."""
    return {None, to_text(UNSAID[name])} if name in UNSAID else {None}


def setting_note(record: SweepRecord) -> list[str]:
    """One line, without the fields that differ between trials or that MLflow does not hold of all."""
    configured = [trial for trial in record.trials if trial.params]
    values = {name: {trial.params.get(name) for trial in configured} for name in WORDS}
    shared = [_said(name, *each) for name, each in values.items() if len(each) == 1 and not each & _plain(name)]
    if not shared:
        return []
    seeds = len({trial.tags["seed"] for trial in configured if "seed" in trial.tags})
    return [f"All trials: {', '.join(shared)}; {counted(seeds, 'seed')}."]


def whether_tested(record: SweepRecord) -> str:
    """Whether the trials of the sweep read the test set: READ or NOT_READ."""
    return NOT_READ if any(trial.params.get(READ_TEST) == "false" for trial in record.trials) else READ


def untested_note(record: SweepRecord) -> list[str]:
    """One line where the trials did not read the test set."""
    return ["Test set not read (--no-test): there are no test errors."] if whether_tested(record) == NOT_READ else []


def batch_note(record: SweepRecord) -> list[str]:
    """One line on the batch of the arms that name none, if the sweep has such arms."""
    batch = record.tags.get("default_batch")
    return [] if batch is None else [f"Batch {batch} is the default, in every arm that names none: {RULE}."]
