"""The driver's side of running trials: Tune events go to the outbox, the checkpoint list and the progress lines."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar, cast

import ray
from ray import tune as ray_tune

from tune.common.errors import disk_full
from tune.common.published import stored_rules
from tune.console.progress import Progress
from tune.storage.sweep_dir import KEPT_CHECKPOINTS, SweepDir
from tune.tracking.tracker import Tracker
from tune.worker.supervisor import OutOfMemory

Ending = Callable[[str], dict[str, Any] | None]  # trial id -> {"status", "reason", "metrics"}, or not known
FAILURE = "Failure # "  # begins each error in Tune's error.txt
LOW_ON_MEMORY = "running low on memory"  # in what Ray's memory monitor says of a process that it killed
Hook = TypeVar("Hook", bound=Callable[..., None])


def _unless_disk_full(hook: Hook) -> Hook:
    """The hook of a Collector, which does nothing once there is no room left, and notes when that begins."""

    @functools.wraps(hook)
    def guarded(self: Collector, *arguments: Any, **named: Any) -> None:
        if self.disk_full is not None:
            return
        try:
            hook(self, *arguments, **named)
        except OSError as error:
            if (told := disk_full(error)) is None:
                raise
            self.disk_full = told

    return cast(Hook, guarded)


class Collector(ray_tune.Callback):
    """Appends and returns: nothing here waits for MLflow or for the disk of another node.

    Once a disk has no room left nothing more is taken, as a checkpoint whose epochs are not in the outbox would lose
    them; `stop` then ends the run.
    """

    def __init__(
        self, folder: SweepDir, tracker: Tracker, progress: Progress, *, environment: str | None = None
    ) -> None:
        self._folder, self._tracker, self._progress = folder, tracker, progress
        self._environment = environment  # the tag of what this run's trials run on; None: as they were announced
        self._older: dict[str, list[Any]] = {}  # of each trial, its checkpoints of this run that are still there
        self._tags: dict[str, dict[str, str]] = {}  # of each trial, from its newest report
        self.ending: Ending = lambda trial_id: None  # how a trial ends that Tune completes without its own word
        self.disk_full: str | None = None  # the error, once there is no room
        self._told: set[str] = set()  # trials whose damaged checkpoint was told
        self.say = progress.say

    @property
    def stop(self) -> ray_tune.Stopper:
        """Ends the run once there is no room on a disk; its trials are left to do."""
        return _Stopper(self)

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its callbacks beside its state; ours is never read back

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        train = trial.config["job"]["config"]["train"]
        self._progress.started(_trial_id(trial), seed=train["seed"], epochs=train["epochs"])
        if why := trial.config["job"].get("moved_because"):
            self._progress.say(f"{_trial_id(trial)} makes pairs with the rest of its seed only: {why}")

    @_unless_disk_full
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

    @_unless_disk_full
    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        trial_id = _trial_id(trial)
        self._tags[trial_id] = tags = result.get("tags", {})
        if (told := tags.get("checkpoint_damaged")) and trial_id not in self._told:
            self._told.add(trial_id)
            self._progress.say(f"{trial_id}: {told}")
        if "status" in result:
            self._end(trial, result)
        elif "epoch" in result:
            epoch, metrics, now_ms = result["epoch"], result["metrics"], self._tracker.now_ms()
            if self._tracker.log_epoch(trial_id=trial_id, epoch=epoch, metrics=metrics, timestamp_ms=now_ms, tags=tags):
                self._progress.epoch(trial_id, epoch, metrics)

    @_unless_disk_full
    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """The trial has said how it ended, or a scheduler stopped it after an epoch."""
        trial_id = _trial_id(trial)
        if self._tracker.status_of(trial_id) is None and (result := self.ending(trial_id)):
            self._end(trial, {"tags": self._tags.get(trial_id, {}), **result})

    @_unless_disk_full
    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Tune is about to try again, which is of no use on a full disk."""
        error = _error(trial)
        self.disk_full = disk_full(error)
        if self.disk_full is None:
            self._progress.say(f"{_trial_id(trial)} is tried again: {_reason(error)}")

    @_unless_disk_full
    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """The trial's process was lost more often than it may be retried, or Tune could not start it."""
        error = _error(trial)
        if told := disk_full(error):
            self.disk_full = told
            return
        tags = self._tags.get(_trial_id(trial), {})
        status = "oom" if isinstance(_cause(error), OutOfMemory | ray.exceptions.OutOfMemoryError) else "failed"
        self._end(trial, {"status": status, "reason": _reason(error), "metrics": {}, "tags": tags})

    def _end(self, trial: Any, result: dict[str, Any]) -> None:
        trial_id, status = _trial_id(trial), result["status"]
        if result["tags"].get("disk_full"):
            self.disk_full = result["reason"]
            return
        ended = self._tracker.end_trial(
            trial_id=trial_id,
            status=status,
            reason=result["reason"] or "",
            metrics=result["metrics"],
            tags=result["tags"] | self._another_environment(trial_id),
            model_dir=_reported(trial, result, "model") if _keeps_model(result) else None,
            samples_dir=_reported(trial, result, "samples") or self._folder.kept_samples(trial_id),
        )
        if ended:
            self._progress.ended(trial_id, status, result["reason"])

    def _another_environment(self, trial_id: str) -> dict[str, str]:
        """The tag anew, for a trial that an earlier run of the sweep announced with what it ran on itself."""
        now = self._environment
        if now is None or self._tracker.trials[trial_id].tags.get("environment") == now:
            return {}
        return {"environment": now}


def _error(trial: Any) -> Exception | None:
    """The trial's latest error. Tune's own way looks in the storage, where it only arrives later."""
    text = Path(trial.error_file).read_text(errors="replace") if _is_file(trial.error_file) else ""
    latest = text.rpartition(FAILURE)[2].partition("\n")[2].strip()
    if LOW_ON_MEMORY in latest:  # Ray's memory monitor ended the actor: Tune pickles no such error
        return ray.exceptions.OutOfMemoryError(latest)
    file = trial.pickled_error_file
    return ray.cloudpickle.loads(Path(file).read_bytes()) if _is_file(file) else None


def _is_file(path: str | None) -> bool:
    return path is not None and Path(path).is_file()


def _cause(error: Exception | None) -> Exception | None:
    """RayTaskError's own message is a traceback."""
    return getattr(error, "cause", None) or error


def _reason(error: Exception | None) -> str:
    cause = _cause(error)
    lines = str(cause).strip().splitlines() if cause else []
    return f"{type(cause).__name__}: {lines[0]}" if lines else "the trial's process was lost"


class _Stopper(ray_tune.Stopper):
    def __init__(self, collector: Collector) -> None:
        self._collector = collector

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._collector.disk_full is not None


def _keeps_model(result: dict[str, Any]) -> bool:
    """Of an arm of the replaced study none is kept: a loaded model would compute another function."""
    return result["status"] in ("done", "stopped") and stored_rules(result["tags"]).keeps_model


def _reported(trial: Any, result: dict[str, Any], part: str) -> Path | None:
    """A folder inside the one that came with this very report.

    Tune calls on_trial_result before it registers the report's checkpoint: `trial.checkpoint` is still an epoch's.
    """
    name = result.get("checkpoint_dir_name")
    return Path(trial.storage.trial_fs_path) / name / part if name else None


def _trial_id(trial: Any) -> str:
    return str(trial.config["job"]["trial_id"])
