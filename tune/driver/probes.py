"""Probes of a search: the time of a few hundred steps of each cell, alone on its GPU, one after another on each GPU.

They come in waves: as many as fit load their compiled code together, which takes them most of their time
(tune.worker.prober).

A probe is a trial's process that trains and evaluates nothing (tune.trial.probe). It is a trial of the outbox with the
tag stage="probe", so a probe that has ended is not run again, whatever becomes of the driver. It has its times and the
gate's errors, and none of a trial's.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tune.common import signals
from tune.common.errors import DiskFull
from tune.driver.collector import LOW_ON_MEMORY
from tune.driver.gpu_leases import count_gpus
from tune.driver.launcher import MAX_RETRIES, Launcher
from tune.driver.warm_ups import LOOK_S, fit_in_memory, fit_on_host, warm, warm_up_together
from tune.plan.plan import Plan, PlannedTrial
from tune.tracking.spans import WARM_UP, span
from tune.tracking.tracker import Tracker
from tune.trial.job import TRAINING, TrialJob
from tune.trial.report import Report, TrialEnd, from_result
from tune.worker.prober import Prober

STAGE = "probe"  # value of the tag stage
STEPS = {"cuda": 300, "cpu": 20}  # timed for a probe, about
CLOSES_WITHIN_S = 5.0  # an actor, before it is killed
Say = Callable[[str], None]


def probe(
    launcher: Launcher,
    tracker: Tracker,
    plan: Plan,
    trials: Sequence[PlannedTrial],
    tags: Mapping[str, str],
    say: Say,
) -> None:
    """Warm up `trials` together, then time a few hundred steps of each, alone on its GPU. Each becomes a record.

    `tracker.trials[trial_id]` then holds its status (done, unsupported, oom, failed_gate, failed) with the reason, and:

        final/probe_step_s          seconds of a step, waits for data included
        final/probe_steps           how many were timed
        final/probe_spread_pct      half the range of what this is the median of, in percent
        final/epoch_all_windows_s   seconds of an epoch of all training windows: a trial's metric of this name

    A probe that has ended before is not run again. Where `launcher.budget` is used up the rest stays without an end.

    tags: of all of them. A trial that is planned already keeps its tags, so a caller may plan it with more of them; its
        tag stage must be STAGE.

    Raises KeyboardInterrupt at a signal or where Ray is lost, and DiskFull.
    """
    for trial in trials:
        _announce(tracker, trial, tags)
    ended = tracker.ended
    left = [trial for trial in trials if trial.trial_id not in ended]
    if not left:
        return
    steps = STEPS[launcher.device_type]
    if not launcher.budget.allows():
        return
    with span(tracker, WARM_UP):
        warm_up_together(launcher, plan, left, say, probe_steps=steps)
    _Probing(launcher, tracker, plan, tags, say, steps).run(left)


def _announce(tracker: Tracker, trial: PlannedTrial, tags: Mapping[str, str]) -> None:
    own = {"arm": trial.arm, "seed": str(trial.seed), "stage": STAGE}
    params = trial.config.flat()
    tracker.plan_trial(trial_id=trial.trial_id, run_name=trial.run_name, params=params, tags={**tags, **own})
    if trial.unsupported and tracker.status_of(trial.trial_id) is None:
        end = TrialEnd(status="unsupported", reason=trial.unsupported)
        _record(tracker, trial, end, tags)


def _record(tracker: Tracker, trial: PlannedTrial, end: TrialEnd, tags: Mapping[str, str]) -> None:
    """Raises DiskFull if that is why it ended: then the probe itself is sound, and a later run repeats it."""
    if end.tags.get("disk_full"):
        raise DiskFull(f"{trial.trial_id}: {end.reason}")
    changed = {name: tags[name] for name in ("environment",) if name in tags}
    known = tracker.trials[trial.trial_id].tags
    tracker.end_trial(
        trial_id=trial.trial_id,
        status=end.status,
        reason=end.reason or "",
        metrics=end.metrics,
        tags={**end.tags, **{name: value for name, value in changed.items() if known.get(name) != value}},
        model_dir=None,
    )


class _Probing:
    """The actors of one call of `probe`, one for each GPU, and what they run."""

    def __init__(
        self, launcher: Launcher, tracker: Tracker, plan: Plan, tags: Mapping[str, str], say: Say, steps: int
    ) -> None:
        import ray

        from tune.driver.watchdogs import DriverNodeWatchdog, TrialNodesWatchdog

        self._ray, self._launcher, self._tracker, self._tags = ray, launcher, tracker, tags
        self._plan, self._say, self._steps = plan, say, steps
        self._watchdogs = (DriverNodeWatchdog(), TrialNodesWatchdog(launcher.share.fits, launcher.wait_s, say))
        self._attempts: Counter[str] = Counter()
        self._actors: list[Any] = []
        self._lost: list[Any] = []  # of these, those that are gone
        self._begun, self._together = 0, 1  # waves, and the probes of the largest

    def run(self, left: Sequence[PlannedTrial]) -> None:
        """Run them to their end, or until the time is used up."""
        running: dict[Any, tuple[Any, PlannedTrial]] = {}
        waves, total = self._waves(left), len(left)
        self._together = max(map(len, waves))
        idle = [self._actor() for _ in range(min(len(waves), self._gpus()))]
        while True:
            while waves and idle and self._launcher.budget.allows():
                running |= self._begin(waves.pop(0), idle.pop())
            if not running:
                break
            with signals.calls_into_library():
                done, _ = self._ray.wait(list(running), timeout=LOOK_S)
            for watchdog in self._watchdogs:
                watchdog.on_step_begin(0, [])
            for reference in done:
                actor, trial = running.pop(reference)
                error = _error(self._ray, reference)
                known = total - len(running) - sum(map(len, waves))
                if not self._ended(trial, reference, error, f"{known}/{total}"):
                    waves.insert(0, [trial])
                if _is_lost(error):
                    self._lost.append(actor)
                if all(other is not actor for other, _ in running.values()):  # its wave has ended
                    idle.append(self._actor(instead_of=actor) if actor in self._lost else actor)
        self._close()

    def _waves(self, left: Sequence[PlannedTrial]) -> list[list[PlannedTrial]]:
        """What is warm loads together; any other one alone, as it passes the gate and compiles."""
        ready = warm(self._launcher, left, probing=True)
        size = max(1, min(math.ceil(len(ready) / self._gpus()), self._most_together(ready)))
        together = [ready[at : at + size] for at in range(0, len(ready), size)]
        return [*together, *([trial] for trial in left if trial not in ready)]

    def _begin(self, wave: Sequence[PlannedTrial], actor: Any) -> dict[Any, tuple[Any, PlannedTrial]]:
        self._begun += 1
        jobs = [self._job(trial).as_dict() for trial in wave]
        return {
            actor.probe.remote(job, self._begun, len(wave)): (actor, trial)
            for job, trial in zip(jobs, wave, strict=True)
        }

    def _gpus(self) -> int:
        share = self._launcher.share
        return min(share.at_a_time, max(1, count_gpus(self._ray, share))) if share.gpus else 1

    def _most_together(self, trials: Sequence[PlannedTrial]) -> int:
        """How many may load at a time on one GPU: a core each, and what its memory and the node's hold."""
        fit = fit_in_memory(self._plan, [(TRAINING, trial) for trial in trials])
        return min(self._launcher.share.cpus, fit, fit_on_host(self._plan.device))

    def _actor(self, *, instead_of: Any = None) -> Any:
        if instead_of is not None:
            self._actors.remove(instead_of)
        share = self._launcher.share
        resources = {"num_cpus": share.cpus, "num_gpus": 1 if share.gpus else 0, "resources": share.resources}
        actor = self._ray.remote(max_concurrency=self._together + 1, **resources)(Prober).remote()
        self._actors.append(actor)
        return actor

    def _job(self, trial: PlannedTrial) -> TrialJob:
        job = self._launcher.job(trial, prepare_next=False)
        return replace(job, probe_steps=self._steps, resume_from=(), exclusive=True, save_forecasts=False)

    def _ended(self, trial: PlannedTrial, reference: Any, error: Exception | None, counted: str) -> bool:
        """Record how a probe ended. False if its process or node was lost, and it is tried again."""
        self._attempts[trial.trial_id] += 1
        if error is not None:
            signals.check()  # which may have been sent to the probe's process too
            out_of_memory = LOW_ON_MEMORY in str(error)
            if not out_of_memory and self._attempts[trial.trial_id] <= MAX_RETRIES:
                self._say(f"{trial.trial_id} is tried again: {_reason(error)}")
                return False
            end: Report | None = TrialEnd(status="oom" if out_of_memory else "failed", reason=_reason(error))
        else:
            end = from_result(self._ray.get(reference))
        assert isinstance(end, TrialEnd)
        with signals.deferred():
            _record(self._tracker, trial, end, self._tags)
        self._say(f"[{counted} probed] {trial.trial_id} {_line(end)}")
        return True

    def _close(self) -> None:
        """End the actors in order. After an error they end with Ray, or with this job."""
        closing = [actor.close.remote() for actor in self._actors]
        with signals.calls_into_library():
            self._ray.wait(closing, num_returns=len(closing), timeout=CLOSES_WITHIN_S)
        for actor in self._actors:
            self._ray.kill(actor)


def _error(ray: Any, reference: Any) -> Exception | None:
    from ray.exceptions import RayError

    try:
        ray.get(reference)
    except RayError as error:
        return error
    return None


def _is_lost(error: Exception | None) -> bool:
    """Whether the actor is gone, and not only the process of its probe."""
    from ray.exceptions import RayTaskError

    return error is not None and not isinstance(error, RayTaskError)


def _reason(error: Exception) -> str:
    """RayTaskError's own message is a traceback."""
    cause = getattr(error, "cause", None) or error
    return f"{type(cause).__name__}: {(str(cause).strip().splitlines() or ['lost'])[0]}"


def _line(end: TrialEnd) -> str:
    step_s = end.metrics.get("final/probe_step_s")
    if end.status != "done" or step_s is None:
        return f"{end.status}: {end.reason}"
    return f"{1e3 * step_s:.3f} ms a step, {end.metrics['final/epoch_all_windows_s']:.3f} s for all training windows"
