"""Passes Tune's events on to the outbox, the list of checkpoints and the progress lines."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar, cast

import ray
from ray import tune as ray_tune

from tune.common import signals
from tune.common.errors import disk_full
from tune.common.published import stored_rules
from tune.console.eta import compiled_s
from tune.console.progress import Progress
from tune.storage.steps_file import FOLDER as STEPS
from tune.storage.sweep_dir import KEPT_CHECKPOINTS, SweepDir
from tune.tracking.tracker import Tracker
from tune.trial.report import EpochReport, TrialEnd, from_result
from tune.worker.supervisor import OutOfMemory

Ending = Callable[[str], TrialEnd | None]  # trial id -> how the trial ended, without tags; None: unknown
FAILURE = "Failure # "  # each error in Tune's error.txt begins so
LOW_ON_MEMORY = "running low on memory"  # Ray's memory monitor says so of a process that it killed
Hook = TypeVar("Hook", bound=Callable[..., None])


def _unless_disk_full(hook: Hook) -> Hook:
    """A hook of Collector that no signal cuts in half. It notes when the disk is full, and does nothing after that."""

    @functools.wraps(hook)
    def guarded(self: Collector, *arguments: Any, **named: Any) -> None:
        if self.disk_full is not None:
            return
        try:
            with signals.deferred():
                hook(self, *arguments, **named)
        except OSError as error:
            self.disk_full = disk_full(error)
            if self.disk_full is None:
                raise

    return cast(Hook, guarded)


class Collector(ray_tune.Callback):
    """Appends and returns: nothing here waits for MLflow or for the disk of another node.

    Once a disk is full, nothing more is recorded: a checkpoint whose epochs are not in the outbox would lose them.
    `stop` then ends the run.
    """

    def __init__(
        self, folder: SweepDir, tracker: Tracker, progress: Progress, *, environment: str | None = None
    ) -> None:
        self._folder, self._tracker, self._progress = folder, tracker, progress
        self._environment = environment  # tag of what this run's trials run on; None: as they were announced
        self._checkpoints: dict[str, list[Any]] = {}  # trial id -> its checkpoints of this run that still exist
        self._tags: dict[str, Mapping[str, str]] = {}  # trial id -> the tags of its newest report
        self.ending: Ending = lambda trial_id: None  # how a trial ended that Tune completes before it says so itself
        self.disk_full: str | None = None  # the error, once a disk is full
        self._damage_reported: set[str] = set()  # trials whose damaged checkpoint was reported
        self.say = progress.say

    def status_of(self, trial_id: str) -> str | None:
        """How a trial ended; None before that."""
        return self._tracker.status_of(trial_id)

    def expected_s(self, trial_ids: Sequence[str]) -> float | None:
        """Seconds that these trials take one after another, by those so far; None if unknown."""
        return self._progress.expected_s(trial_ids)

    @property
    def stop(self) -> ray_tune.Stopper:
        """Ends the run once a disk is full. Its trials can be run later."""
        return _Stopper(self)

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its callbacks beside its state; ours is never read back

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Many times a second: Tune has handled an event, or waited for one."""
        self._progress.look_into_epochs(self._folder.path / STEPS)

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        train = trial.config["job"]["config"]["train"]
        self._progress.started(_trial_id(trial), seed=train["seed"], epochs=train["epochs"])
        if why := trial.config["job"].get("moved_because"):
            self._progress.say(f"{_trial_id(trial)} makes pairs with the rest of its seed only: {why}")

    @_unless_disk_full
    def on_checkpoint(self, iteration: int, trials: list[Any], trial: Any, checkpoint: Any, **info: Any) -> None:
        trial_id = _trial_id(trial)
        self._folder.save_checkpoint(trial_id, checkpoint.path)
        trial.run_metadata.num_failures = 0  # only failures without progress count as retries: preemptions may recur
        kept = self._checkpoints.setdefault(trial_id, [])
        kept.append(checkpoint)
        while len(kept) > KEPT_CHECKPOINTS:
            oldest = kept.pop(0)
            with suppress(OSError):  # it only takes space on the disk: no reason to end a sweep
                oldest.filesystem.delete_dir(oldest.path)

    @_unless_disk_full
    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        trial_id, report = _trial_id(trial), from_result(result)
        if report is None:
            return
        self._tags[trial_id] = report.tags
        if (damage := report.tags.get("checkpoint_damaged")) and trial_id not in self._damage_reported:
            self._damage_reported.add(trial_id)
            self._progress.say(f"{trial_id}: {damage}")
        if isinstance(report, TrialEnd):
            self._end(trial, report, _report_folder(trial, result))
        else:
            self._add_epoch(trial_id, report)

    def _add_epoch(self, trial_id: str, report: EpochReport) -> None:
        now_ms = self._tracker.now_ms()
        if self._tracker.log_epoch(
            trial_id=trial_id, epoch=report.epoch, metrics=report.metrics, timestamp_ms=now_ms, tags=report.tags
        ):
            self._progress.epoch(trial_id, report.epoch, dict(report.metrics))

    @_unless_disk_full
    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """The trial has reported its end, or a scheduler stopped it after an epoch."""
        trial_id = _trial_id(trial)
        if self._tracker.status_of(trial_id) is None and (end := self.ending(trial_id)):
            self._end(trial, replace(end, tags=self._tags.get(trial_id, {})))

    @_unless_disk_full
    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Tune is about to try again, which cannot help if the disk is full."""
        signals.check()  # which may have been sent to the trial's process too
        error = _error(trial)
        self.disk_full = disk_full(error)
        if self.disk_full is None:
            self._progress.say(f"{_trial_id(trial)} is tried again: {_reason(error)}")

    @_unless_disk_full
    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """The trial's process was lost more often than it may be retried, or Tune could not start it."""
        signals.check()
        error = _error(trial)
        self.disk_full = disk_full(error)
        if self.disk_full is not None:
            return
        tags = self._tags.get(_trial_id(trial), {})
        status = "oom" if isinstance(_cause(error), OutOfMemory | ray.exceptions.OutOfMemoryError) else "failed"
        self._end(trial, TrialEnd(status=status, reason=_reason(error), tags=tags))

    def _end(self, trial: Any, end: TrialEnd, folder: Path | None = None) -> None:
        """Record how a trial ended. folder: what came with the report; None: nothing came."""
        trial_id = _trial_id(trial)
        if end.tags.get("disk_full"):
            self.disk_full = end.reason
            return
        ended = self._tracker.end_trial(
            trial_id=trial_id,
            status=end.status,
            reason=end.reason or "",
            metrics=end.metrics,
            tags={**end.tags, **self._changed_environment(trial_id)},
            model_dir=folder / "model" if folder and _keeps_model(end) else None,
            samples_dir=folder / "samples" if folder else self._folder.kept_samples(trial_id),
            forecasts_dir=folder / "forecasts" if folder and (folder / "forecasts").is_dir() else None,
        )
        if ended:
            self._progress.ended(trial_id, end.status, end.reason, compiled_s=compiled_s(end.metrics, end.tags))

    def _changed_environment(self, trial_id: str) -> dict[str, str]:
        """The environment's tag, for a trial that an earlier run of the sweep announced with another environment."""
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


def _keeps_model(end: TrialEnd) -> bool:
    """Not for an arm of the replaced study: a loaded model would compute another function."""
    return end.status in ("done", "stopped") and stored_rules(end.tags).keeps_model


def _report_folder(trial: Any, result: dict[str, Any]) -> Path | None:
    """The folder that came with this very report.

    Tune calls on_trial_result before it registers the report's checkpoint: `trial.checkpoint` is still an epoch's.
    """
    name = result.get("checkpoint_dir_name")
    return Path(trial.storage.trial_fs_path) / name if name else None


def _trial_id(trial: Any) -> str:
    return str(trial.config["job"]["trial_id"])
