"""Blocks -> lanes -> Tune: hands Tune the next trial of a lane's block as soon as the lane is free."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from tune.driver.blocks import Assignment, Blocks
from tune.driver.gpu_leases import GpuLease, GpuLeases, GpuLocation
from tune.plan.plan import PlannedTrial

Job = Callable[[Assignment], dict[str, Any]]  # what a worker is told


@dataclass(frozen=True, kw_only=True)
class _Running:
    trial: PlannedTrial
    lane: GpuLease
    place: GpuLocation  # of the lane when the trial was handed out

    @property
    def stranded(self) -> bool:
        """Whether its GPU is gone."""
        return self.lane.place != self.place


class Dispatcher(Searcher):
    """Suggests {"job", "place", "resources", "attempt"}; the trials are known, nothing is searched."""

    def __init__(self, blocks: Blocks, lanes: GpuLeases, job: Job) -> None:
        super().__init__()
        self._blocks, self._lanes, self._job = blocks, lanes, job
        self._running: dict[str, _Running] = {}  # by Tune's id
        self._attempts: dict[str, int] = {}  # by ours: how often a trial was handed out

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its searcher beside its state; ours is never read back

    def save(self, checkpoint_path: str) -> None:
        """Nothing: plan, outbox and checkpoints say what is left."""

    def suggest(self, trial_id: str) -> Any:
        """The next trial for a free lane; None while no lane is free, FINISHED when nothing is left."""
        if self._blocks.done:
            return Searcher.FINISHED
        self._lanes.look()
        busy = {id(running.lane) for running in self._running.values()}
        for lane in self._lanes.open:
            assert lane.place is not None
            if id(lane) not in busy and (turn := self._blocks.take(lane.place.gpu, there=self._lanes.there)):
                return self._hand_out(trial_id, lane, lane.place, turn)
        return None

    def _hand_out(self, trial_id: str, lane: GpuLease, place: GpuLocation, turn: Assignment) -> dict[str, Any]:
        self._running[trial_id] = _Running(trial=turn.trial, lane=lane, place=place)
        ours = turn.trial.trial_id
        self._attempts[ours] = self._attempts.get(ours, 0) + 1
        told = {"place": asdict(place), "resources": lane.resources(), "attempt": self._attempts[ours]}
        return {"job": self._job(turn), **told}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Nothing: no result changes what runs next."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Free the lane. A trial that never ended and whose GPU is gone is left to do again."""
        running = self._running.pop(trial_id)
        if running.stranded and not error and result is None:
            self._blocks.put_back(running.trial)
        else:
            self._blocks.ended(running.trial)

    def stranded(self) -> list[str]:
        """Tune's ids of the trials whose GPU is gone."""
        self._lanes.look()
        return [trial_id for trial_id, running in self._running.items() if running.stranded]


class BlockScheduler(FIFOScheduler):
    """FIFO in lanes: an actor waits for the next trial of its lane, and no trial for a node that is gone.

    Tune keeps an actor that has no trial only where it knows of another trial for it, or starts no actor at all at that
    moment. Here the next trial is known once the lane is free, so one idle actor is allowed for each lane: it holds the
    process that was prepared for this trial.
    """

    def __init__(self, dispatcher: Dispatcher) -> None:
        super().__init__()
        self._dispatcher = dispatcher
        self._allowed: set[Any] = set()  # resource requests; each lane has its own

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
        """Called by Tune in every round of its loop. A trial whose node is gone would be waited for without end."""
        for trial_id in self._dispatcher.stranded():
            for trial in list(tune_controller.get_live_trials()):
                if trial.trial_id == trial_id and trial.status == "PENDING":
                    tune_controller.stop_trial(trial)
        return super().choose_trial_to_run(tune_controller)
