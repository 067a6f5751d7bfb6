"""The batch size of arms that name none: as large as the training windows allow, and the same in every arm.

An epoch drops the last part of a batch. A batch that is large for its data therefore leaves out much of them, and a few
steps an epoch are no training to time.

Planning-safe: imports none of torch, transformers, ray, mlflow.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from data_pipeline.errors import DataError
from tune.config.sweeps import SweepConfig
from tune.config.trial_config import DataConfig, TrainConfig
from tune.plan.data import DataFacts

FIELD = "train.batch_size"
LARGEST: int = TrainConfig.model_fields["batch_size"].default  # a power of two
LEAST_STEPS = 8  # of an epoch
RULE = f"the largest power of two, at most {LARGEST}, that gives at least {LEAST_STEPS} steps an epoch"
LENGTHS = ("data.context_length", "data.prediction_length")
DECIDING = frozenset({FIELD, "model.preset", *LENGTHS})  # the fields that decide who names a batch, and the windows


def default_batch(windows: int) -> int:
    """RULE for this number of training windows; at least 1."""
    most = max(1, min(LARGEST, windows // LEAST_STEPS))
    return 1 << (most.bit_length() - 1)


def shared_default(given: Iterator[Mapping[str, Any]], data: DataFacts) -> int | None:
    """The batch of all arms that name none, by the arm with the fewest windows. None: every arm names one, or unknown.

    given: the fields of each arm, with those of its preset.
    """
    batches = []
    for fields in given:
        windows = None if FIELD in fields else _windows(fields, data)
        if windows is not None:
            batches.append(default_batch(windows))
    return min(batches, default=None)


def _windows(fields: Mapping[str, Any], data: DataFacts) -> int | None:
    """None also for lengths that the plan refuses, each with its own words."""
    lengths = (fields.get(name, DataConfig.model_fields[name.split(".")[1]].default) for name in LENGTHS)
    context, horizon = lengths
    if not isinstance(context, int) or not isinstance(horizon, int):
        return None
    try:
        return data.train_windows(context, horizon)
    except DataError:
        return None


def deciding_changes(sweep: SweepConfig) -> Iterator[dict[str, Any]]:
    """What each arm and each cell of the space changes of the fields in DECIDING."""
    for arm in sweep.arms:
        yield {name: value for name, value in arm.changes.items() if name in DECIDING}
    for cell in itertools.product(*(_parts(sweep, name) for name in sweep.space)) if sweep.space else ():
        yield {name: value for part in cell for name, value in part.items()}


def _parts(sweep: SweepConfig, dimension: str) -> list[dict[str, Any]]:
    """The different changes that a dimension's choices make to the fields in DECIDING."""
    parts: list[dict[str, Any]] = []
    for choice in sweep.space[dimension]:
        part = {name: value for name, value in choice.changes.items() if name in DECIDING}
        if part not in parts:
            parts.append(part)
    return parts
