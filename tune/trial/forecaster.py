"""A trial's best model on disk: weights and config as transformers writes them, and what a forecast needs beside."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from data_pipeline.series.store import Series
from model.facts import FACTS, Facts
from model.patchtst import save_model
from tune.machine.environment import versions

if TYPE_CHECKING:
    from tune.trial.session import Session


def save_forecaster(folder: Path, session: Session, series: Series) -> None:
    """Write the model as it is and its facts into the new folder `folder`, whole or not at all."""
    save_model(session.model, folder, files={FACTS: facts_of(session, series).as_json()})


def facts_of(session: Session, series: Series) -> Facts:
    """What the model of `session`, trained on `series`, must know to forecast, and where it is from."""
    data, progress = session.config.data, session.progress
    val_mse = progress.best_val_mse
    return Facts(
        columns=series.columns,
        step_minutes=series.step_minutes,
        mean=tuple(series.mean.tolist()),
        std=tuple(series.std.tolist()),
        context_length=data.context_length,
        prediction_length=data.prediction_length,
        dataset={
            "name": series.name,
            "source_sha256": series.source_sha256,
            "timestamp_column": data.timestamp_column,
        },
        trial={
            "sweep_id": session.job.sweep_id,
            "trial_id": session.job.trial_id,
            "best_epoch": progress.best_epoch,
            "val_mse": val_mse if math.isfinite(val_mse) else None,
            "config": session.config.model_dump(mode="json"),
        },
        versions={name: version for name, version in versions().items() if version is not None},
    )
