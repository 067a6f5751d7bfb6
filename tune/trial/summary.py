"""What a trial tells of itself as a whole: its final metrics, and the tags by which its timings are judged."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING

from model.patchtst import heads_per_layer
from tune.engine.compiled import compiled_afresh
from tune.measure.bottleneck import STEP_BUSY, diagnose_epochs
from tune.measure.metrics import all_windows_s
from tune.measure.series_errors import TAG, as_tag, write_table
from tune.trial.state import median_after

if TYPE_CHECKING:
    from tune.measure.accuracy import ForecastErrors
    from tune.trial.session import Session


def final_metrics(session: Session) -> dict[str, float | None]:
    """Test the best epoch's model, once, unless the test set is not to be read; sum up the times. By MLflow name."""
    errors = session.test() if session.config.train.read_test else {}
    progress, feed = session.progress, session.feed
    median_s = median_after(progress.epoch_train_s, session.pruner.final_from_epoch)
    windows = feed.num_windows("train")
    naive = {f"final/naive_{name}_mse": error.mse for name, error in errors.items() if name != "model"}
    return (
        naive
        | {
            **_test_errors(session, errors.get("model")),
            "final/val_mse": progress.best_val_mse,
            "final/best_epoch": progress.best_epoch,
            "final/median_epoch_s": median_s,
            "final/epoch_all_windows_s": all_windows_s(median_s, windows=windows, trained=feed.windows_per_epoch),
            "final/windows_per_epoch": feed.windows_per_epoch,
            "final/steps_per_epoch": feed.steps_per_epoch,
            "final/train_total_s": sum(progress.epoch_train_s),
            "final/compile_s": progress.compile_s,
            "final/gate_s": progress.gate_s,
            "final/prune_s": progress.prune_s,
            "final/startup_s": session.startup_s,
            "final/standby_wait_s": session.idle_wait_s,
            "final/rehearsal_s": session.host.cache_warmup_s,
        }
        | session.proof.metrics
        | {name.replace("model/", "final/"): value for name, value in session.size_metrics().items()}
    )


def _test_errors(session: Session, errors: ForecastErrors | None) -> dict[str, float | None]:
    """The model's, None where the test set was not read; and how many targets they leave out, of a filled series."""
    if errors is None:
        return {"final/test_mse": None, "final/test_mae": None}
    filled = {"final/filled_targets_left_out": errors.filled_left_out} if session.series.filled is not None else {}
    return {"final/test_mse": errors.mse, "final/test_mae": errors.mae, **filled}


def save_series_errors(session: Session, folder: Path) -> None:
    """Write the test errors of each series into `folder`, where the file holds several and they were tested."""
    if session.tested is not None and session.tested.by_series:
        write_table(folder, session.tested, _ids(session))


def _ids(session: Session) -> list[str | None]:
    return [group.id for group in session.series.groups]


def trial_tags(session: Session) -> dict[str, str]:
    """What a reader needs to judge the trial's timings, as far as it is known now."""
    progress, config = session.progress, session.config
    tags = {
        "timing_valid": {True: "false", False: "true", None: "unknown"}[progress.shared],
        "device": session.facts.name,
        "gpu_uuid": " then ".join(progress.gpus) or None,  # times compare only where this is equal
        "gpu_driver": session.facts.driver,
        "hostname": platform.node(),
        "process": str(os.getpid()),
        "heads_kept": json.dumps(heads_per_layer(session.state.model)),
        "spans": session.state.timeline.as_tag(),
        **config.rules.tags,
        "compiled_afresh": str(compiled_afresh()).lower(),
        "diagnosis": _diagnosis(session),
        TAG: None if session.tested is None else as_tag(session.tested, _ids(session)),
    }
    known = {name: value for name, value in tags.items() if value is not None}
    return known | session.proof.tags | dict(session.host.tags)


def _diagnosis(session: Session) -> str | None:
    busy_ms = session.proof.metrics.get(STEP_BUSY)
    on_gpu = session.device.type == "cuda"
    return diagnose_epochs(session.progress.accounts, on_gpu=on_gpu, step_busy_ms=busy_ms)
