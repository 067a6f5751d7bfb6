"""The driver's side of running trials: Tune events go to the outbox, the checkpoint list and the progress lines."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ray import tune as ray_tune

from tune.progress import Progress
from tune.sweep_dir import SweepDir
from tune.tracking import Tracker

# The newest, and the one that Tune itself still goes by while it hears of it. We remove the others, not Tune: told how
# many to keep, it writes the state of all trials to disk with each of them, which grows as the square of their number.
KEPT_CHECKPOINTS = 2

LOOK_S = 5.0  # how often Ray is asked whether the driver's own node lives

Ending = Callable[[str], dict[str, Any] | None]  # trial id -> {"status", "reason", "metrics"}, or not known


class OwnNode(ray_tune.Callback):
    """Interrupts a sweep whose driver has lost Ray on its own machine: Tune would wait for it without end."""

    def __init__(self) -> None:
        self._looked_s = 0.0

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Called by Tune in every round of its loop. Raises KeyboardInterrupt."""
        import ray

        if time.monotonic() - self._looked_s < LOOK_S:
            return
        self._looked_s = time.monotonic()
        own = ray.get_runtime_context().get_node_id()
        if not any(node["Alive"] for node in ray.nodes() if node["NodeID"] == own):
            print("Ray on this machine was lost: it was killed, or ran out of memory", file=sys.stderr)
            raise KeyboardInterrupt


class Collector(ray_tune.Callback):
    """Appends and returns: nothing here waits for MLflow or for the disk of another node."""

    def __init__(self, folder: SweepDir, tracker: Tracker, progress: Progress) -> None:
        self._folder, self._tracker, self._progress = folder, tracker, progress
        self._older: dict[str, list[Any]] = {}  # of each trial, its checkpoints of this run that are still there
        self._tags: dict[str, dict[str, str]] = {}  # of each trial, from its newest report
        self.ending: Ending = lambda trial_id: None  # how a trial ends that Tune completes without its own word

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its callbacks beside its state; ours is never read back

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        train = trial.config["job"]["config"]["train"]
        self._progress.started(_trial_id(trial), seed=train["seed"], epochs=train["epochs"])
        if why := trial.config["job"].get("moved_because"):
            self._progress.say(f"{_trial_id(trial)} makes pairs with the rest of its seed only: {why}")

    def on_checkpoint(self, iteration: int, trials: list[Any], trial: Any, checkpoint: Any, **info: Any) -> None:
        trial_id = _trial_id(trial)
        self._folder.save_checkpoint(trial_id, checkpoint.path)
        trial.run_metadata.num_failures = 0  # retries are for what gets no further: preemptions may come ever again
        kept = self._older.setdefault(trial_id, [])
        kept.append(checkpoint)
        while len(kept) > KEPT_CHECKPOINTS:
            gone = kept.pop(0)
            with suppress(OSError):  # it costs room on the disk, and no sweep ends for that
                gone.filesystem.delete_dir(gone.path)

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
        if self._tracker.status_of(trial_id) is None and (result := self.ending(trial_id)):
            self._end(trial, {"tags": self._tags.get(trial_id, {}), **result})

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """The trial's process was lost more often than it may be retried, or Tune could not start it."""
        error = trial.get_pickled_error()
        error = getattr(error, "cause", None) or error  # RayTaskError's own message is a traceback
        lines = str(error).strip().splitlines() if error else []
        reason = f"{type(error).__name__}: {lines[0]}" if lines else "the trial's process was lost"
        tags = self._tags.get(_trial_id(trial), {})
        self._end(trial, {"status": "failed", "reason": reason, "metrics": {}, "tags": tags})

    def _end(self, trial: Any, result: dict[str, Any]) -> None:
        trial_id, status = _trial_id(trial), result["status"]
        ended = self._tracker.end_trial(
            trial_id=trial_id,
            status=status,
            reason=result["reason"] or "",
            metrics=result["metrics"],
            tags=result["tags"],
            model_dir=_reported(trial, result, "model") if _keeps_model(result) else None,
            samples_dir=_reported(trial, result, "samples") or self._kept_samples(trial_id),
        )
        if ended:
            self._progress.ended(trial_id, status, result["reason"])

    def _kept_samples(self, trial_id: str) -> Path | None:
        """Of a trial that ended without a word of its own, or with an error: what its newest checkpoint has."""
        newest = self._folder.checkpoint(trial_id)
        return Path(newest) / "samples" if newest else None


def _keeps_model(result: dict[str, Any]) -> bool:
    """Of an arm of the replaced study none is kept: a loaded model would compute another function."""
    return result["status"] in ("done", "stopped") and "as_published" not in result["tags"]


def _reported(trial: Any, result: dict[str, Any], part: str) -> Path | None:
    """A folder inside the one that came with this very report.

    Tune calls on_trial_result before it registers the report's checkpoint: `trial.checkpoint` is still an epoch's.
    """
    name = result.get("checkpoint_dir_name")
    return Path(trial.storage.trial_fs_path) / name / part if name else None


def _trial_id(trial: Any) -> str:
    return str(trial.config["job"]["trial_id"])
