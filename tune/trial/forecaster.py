"""A trial's best model on disk: weights and config as transformers writes them, and the facts that a forecast needs."""

from __future__ import annotations

import math
from pathlib import Path

from data_pipeline.series.protocol import protocol_of
from data_pipeline.series.store import Series
from model.facts import FACTS, Facts
from model.patchtst import save_model
from model.variants import not_stock
from tune.machine.environment import versions
from tune.trial.job import TrialJob
from tune.trial.state import TrialState


def save_forecaster(folder: Path, state: TrialState, job: TrialJob, series: Series) -> None:
    """Write the model in `state` and its facts into the new folder `folder`: all of it, or nothing."""
    save_model(state.model, folder, files={FACTS: facts_of(state, job, series).as_json()})


def facts_of(state: TrialState, job: TrialJob, series: Series) -> Facts:
    """What the model of `job`, trained on `series`, must know to forecast, and where it comes from."""
    data, val_mse = job.config.data, state.progress.best_val_mse
    several = len(series.groups) > 1
    return Facts(
        columns=series.columns,
        step_minutes=series.step_minutes,
        step=series.step.as_json(),
        mean=() if several else tuple(series.mean.tolist()),
        std=() if several else tuple(series.std.tolist()),
        series=_scalings(series) if several else None,
        context_length=data.context_length,
        prediction_length=data.prediction_length,
        dataset={
            "name": series.name,
            "source_sha256": series.source_sha256,
            "timestamp_column": data.timestamp_column,
            "options": data.options.given(),
            "protocol": protocol_of(series, [(data.context_length, data.prediction_length)]),
            "test_times_us": _test_times_us(series),
        },
        trial={
            "sweep_id": job.sweep_id,
            "trial_id": job.trial_id,
            "best_epoch": state.progress.best_epoch,
            "val_mse": val_mse if math.isfinite(val_mse) else None,
            "config": job.config.model_dump(mode="json"),
        },
        not_stock=not_stock(state.model.config),
        versions={name: version for name, version in versions().items() if version is not None},
    )


def _scalings(series: Series) -> dict[str, dict[str, list[float]]]:
    """By the id of each series."""
    return {group.id or "": {"mean": group.mean.tolist(), "std": group.std.tolist()} for group in series.groups}


def _test_times_us(series: Series) -> tuple[int, int]:
    """The times of the test set's first and last row, in microseconds since 1970."""
    rows = [group.bounds["test"] for group in series.groups if group.bounds["test"][0] < group.bounds["test"][1]]
    ends = [row for start, stop in rows for row in (start, stop - 1)]
    times = series.timestamps[ends].astype("datetime64[us]").astype(int)
    return int(times.min()), int(times.max())
