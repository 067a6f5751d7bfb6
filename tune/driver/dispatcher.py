"""Blocks and GPU leases behind Tune's Searcher and Scheduler: a free GPU gets the next trial of its block at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from tune.driver.blocks import Assignment, Blocks
from tune.driver.gpu_leases import GpuLease, GpuLeases, GpuLocation
from tune.plan.plan import PlannedTrial
from tune.trial.job import TrialJob


@dataclass(frozen=True, kw_only=True)
class _Running:
    trial: PlannedTrial
    lease: GpuLease
    location: GpuLocation  # of the lease when the trial was handed out

    @property
    def stranded(self) -> bool:
        """Whether its GPU is gone."""
        return self.lease.location != self.location


class Dispatcher(Searcher):
    """Suggests {"job", "location", "resources", "attempt"}. The trials are known: nothing is searched.

    make_job: what a worker is given for an assignment.
    announce: is given each trial before that.
    """

    def __init__(
        self,
        blocks: Blocks,
        leases: GpuLeases,
        make_job: Callable[[Assignment], TrialJob],
        announce: Callable[[Sequence[PlannedTrial]], None] = lambda trials: None,
    ) -> None:
        super().__init__()
        self._blocks, self._leases, self._make_job, self._announce = blocks, leases, make_job, announce
        self._running: dict[str, _Running] = {}  # by Tune's trial id
        self._attempts: dict[str, int] = {}  # by our trial id: how often it was handed out

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its searcher beside its state; ours is never read back

    def save(self, checkpoint_path: str) -> None:
        """Nothing: plan, outbox and checkpoints say what is left."""

    def suggest(self, trial_id: str) -> Any:
        """The next trial for a free GPU; None while none is free, FINISHED when no trial is left."""
        if self._blocks.done:
            return Searcher.FINISHED
        self._leases.update()
        busy = {id(running.lease) for running in self._running.values()}
        for lease in self._leases.usable:
            assert lease.location is not None
            if id(lease) in busy:
                continue
            if assignment := self._blocks.take(lease.location.gpu, gpus=self._leases.gpus):
                return self._hand_out(trial_id, lease, lease.location, assignment)
        return None

    def _hand_out(
        self, trial_id: str, lease: GpuLease, location: GpuLocation, assignment: Assignment
    ) -> dict[str, Any]:
        trial = assignment.trial
        self._announce([trial])
        self._running[trial_id] = _Running(trial=trial, lease=lease, location=location)
        attempt = self._attempts[trial.trial_id] = self._attempts.get(trial.trial_id, 0) + 1
        job = self._make_job(assignment).as_dict()
        return {"job": job, "location": asdict(location), "resources": lease.resources(), "attempt": attempt}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Nothing: no result changes what runs next."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Free the GPU. A trial that never ended and whose GPU is gone will be handed out again."""
        running = self._running.pop(trial_id)
        if running.stranded and not error and result is None:
            self._blocks.put_back(running.trial)
        else:
            self._blocks.ended(running.trial)

    def stranded(self) -> list[str]:
        """Tune's ids of the trials whose GPU is gone."""
        self._leases.update()
        return [trial_id for trial_id, running in self._running.items() if running.stranded]


class BlockScheduler(FIFOScheduler):
    """FIFO for blocks: an actor waits for the next trial of its GPU, and no trial waits for a node that is gone.

    Tune keeps an actor without a trial only if it knows another trial for it, or starts no actor at that moment. Here
    the next trial is known once the GPU is free, so one idle actor is allowed for each lease: it owns the process that
    was prepared for this trial.
    """

    def __init__(self, dispatcher: Dispatcher) -> None:
        super().__init__()
        self._dispatcher = dispatcher
        self._allowed: set[Any] = set()  # resource requests; each lease has its own

    def __getstate__(self) -> dict[str, Any]:
        return {}  # as the dispatcher

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Called by Tune with each new trial."""
        request = trial.placement_group_factory
        if request not in self._allowed:
            self._allowed.add(request)
            tune_controller._actor_cache.increase_max(request)  # Ray has no public way to say so
        super().on_trial_add(tune_controller, trial)

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """Called by Tune in every round of its loop. It would wait for ever for a trial whose node is gone."""
        for trial_id in self._dispatcher.stranded():
            for trial in list(tune_controller.get_live_trials()):
                if trial.trial_id == trial_id and trial.status == "PENDING":
                    tune_controller.stop_trial(trial)
        return super().choose_trial_to_run(tune_controller)
