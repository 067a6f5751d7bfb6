"""The driver's side of running trials: Tune events go to the outbox, the checkpoint list and the progress lines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray import tune as ray_tune

from tune.progress import Progress
from tune.sweep_dir import SweepDir
from tune.tracking import Tracker

Ending = Callable[[str], dict[str, Any] | None]  # trial id -> {"status", "reason", "metrics"}, or not known


class Collector(ray_tune.Callback):
    """Appends and returns: nothing here waits for MLflow or for the disk of another node."""

    def __init__(self, folder: SweepDir, tracker: Tracker, progress: Progress) -> None:
        self._folder, self._tracker, self._progress = folder, tracker, progress
        self._checkpoints = folder.checkpoints()
        self._tags: dict[str, dict[str, str]] = {}  # of each trial, from its newest report
        self.ending: Ending = lambda trial_id: None  # how a trial ends that Tune completes without its own word

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its callbacks beside its state; ours is never read back

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._progress.started(_trial_id(trial))
        if why := trial.config["job"].get("moved_because"):
            self._progress.say(f"{_trial_id(trial)} makes pairs with the rest of its seed only: {why}")

    def on_checkpoint(self, iteration: int, trials: list[Any], trial: Any, checkpoint: Any, **info: Any) -> None:
        self._checkpoints[_trial_id(trial)] = checkpoint.path
        self._folder.save_checkpoints(self._checkpoints)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        trial_id = _trial_id(trial)
        self._tags[trial_id] = result.get("tags", {})
        if "status" in result:
            self._end(trial, result)
        elif "epoch" in result and self._tracker.log_epoch(
            trial_id=trial_id, epoch=result["epoch"], metrics=result["metrics"], timestamp_ms=result["timestamp_ms"]
        ):
            self._progress.epoch(trial_id, result["epoch"], result["metrics"])

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """The trial has said how it ended, or a scheduler stopped it after an epoch."""
        trial_id = _trial_id(trial)
        if trial_id not in self._tracker.ended and (result := self.ending(trial_id)):
            self._end(trial, {"tags": self._tags.get(trial_id, {}), **result})

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """The trial's process was lost more often than it may be retried, or Tune could not start it."""
        error = trial.get_pickled_error()
        error = getattr(error, "cause", None) or error  # RayTaskError's own message is a traceback
        lines = str(error).strip().splitlines() if error else []
        reason = f"{type(error).__name__}: {lines[0]}" if lines else "the trial's process was lost"
        self._end(trial, {"status": "failed", "reason": reason, "metrics": {}, "tags": {}})

    def _end(self, trial: Any, result: dict[str, Any]) -> None:
        trial_id, status = _trial_id(trial), result["status"]
        ended = self._tracker.end_trial(
            trial_id=trial_id,
            status=status,
            reason=result["reason"] or "",
            metrics=result["metrics"],
            tags=result["tags"],
            model_dir=_model_dir(trial, result) if status in ("done", "stopped") else None,
        )
        if ended:
            self._progress.ended(trial_id, status, result["reason"])


def _model_dir(trial: Any, result: dict[str, Any]) -> Path | None:
    """The best model in the folder that came with this very report.

    Tune calls on_trial_result before it registers the report's checkpoint: `trial.checkpoint` is still an epoch's.
    """
    name = result.get("checkpoint_dir_name")
    return Path(trial.storage.trial_fs_path) / name / "model" if name else None


def _trial_id(trial: Any) -> str:
    return str(trial.config["job"]["trial_id"])
