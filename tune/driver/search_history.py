"""What the outbox holds of a search: the trials of its shapes, and the probes of its cells. Planning-safe."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace

from tune.driver.finalists import Candidate, candidate
from tune.plan.cells import Labels
from tune.plan.plan import PlannedTrial, computation
from tune.plan.search_plan import SearchPlan
from tune.storage.trial_log import TrialLog

SEARCH, PROBE, FINAL = "search", "probe", "final"  # values of the tag stage
POLISH = "polish"  # tag of a search's trial: whether a neighbour of the fastest cell is trained


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A trial for a shape's error."""

    trial: PlannedTrial
    cell: Labels  # in which it is trained
    shape: Labels
    batch: int  # from 1: trials of one batch are proposed together
    polish: bool
    log: TrialLog


@dataclass(frozen=True, kw_only=True)
class Probed:
    """A probe of a cell's time."""

    trial: PlannedTrial
    cell: Labels
    log: TrialLog

    @property
    def epoch_s(self) -> float | None:
        """Seconds of an epoch of all training windows; None if the probe failed or has not ended."""
        return self.log.metrics.get("final/epoch_all_windows_s") if self.log.status == "done" else None


@dataclass(frozen=True, kw_only=True)
class Timed:
    """A cell whose shape is trained and whose time is probed, perhaps in another shape of the same work."""

    cell: Labels
    shape: Labels
    val_mse: float
    epoch_s: float


class History:
    """The records of a search so far, in their order. Everything that it decides is a function of them.

    logs: of each trial of the sweep, by id in the order of planning.
    """

    def __init__(self, plan: SearchPlan, logs: Mapping[str, TrialLog]) -> None:
        self._plan = plan
        self.trained: list[Trained] = []
        self.probed: list[Probed] = []
        for trial_id, log in logs.items():
            stage, cell = log.tags.get("stage"), log.tags.get("cell")
            if cell is None or stage not in (SEARCH, PROBE):
                continue
            labels: Labels = tuple(json.loads(cell))
            trial = replace(plan.cell_trial(labels), trial_id=trial_id, arm=log.tags["arm"])
            if stage == PROBE:
                self.probed.append(Probed(trial=trial, cell=labels, log=log))
                continue
            self.trained.append(
                Trained(
                    trial=trial,
                    cell=labels,
                    shape=plan.shape_of(labels),
                    batch=int(log.tags.get("batch", "1")),
                    polish=POLISH in log.tags,
                    log=log,
                )
            )

    @property
    def unfinished(self) -> list[Trained]:
        """Trials that an earlier driver left open."""
        return [each for each in self.trained if each.log.status is None]

    @property
    def open_probes(self) -> list[Probed]:
        """Probes that an earlier driver left open."""
        return [each for each in self.probed if each.log.status is None]

    @property
    def batches(self) -> int:
        """How many batches of trials have been proposed."""
        return max((each.batch for each in self.trained), default=0)

    @functools.cached_property
    def candidates(self) -> list[Candidate]:
        """The shapes with a validation error."""
        known = (candidate(each.trial, each.shape, each.log) for each in self.trained)
        return [each for each in known if each is not None]

    @functools.cached_property
    def _computations(self) -> set[object]:
        return {computation(each.trial.config) for each in self.trained}

    @functools.cached_property
    def _probed_works(self) -> set[tuple[str, Labels]]:
        return {self._work(each) for each in self.probed}

    def _work(self, probed: Probed) -> tuple[str, Labels]:
        return self._plan.work(self._plan.shape_of(probed.cell)), self._plan.way_of(probed.cell)

    def is_trained(self, shape: Labels) -> bool:
        """Whether this shape, or another one with the same computation, has a trial."""
        return self._plan.error_computation(shape) in self._computations

    def is_probed(self, cell: Labels) -> bool:
        """Whether this cell, or another one of the same work in the same way, has a probe."""
        return (self._plan.work(self._plan.shape_of(cell)), self._plan.way_of(cell)) in self._probed_works

    def slow_ways(self, factor: float) -> set[Labels]:
        """The ways that took longer by `factor` than the fastest way of the same work, for every work they were timed
        for beside another way."""
        times: dict[str, dict[Labels, float]] = {}
        for probed in self.probed:
            if (epoch_s := probed.epoch_s) is not None:
                work, way = self._work(probed)
                times.setdefault(work, {})[way] = epoch_s
        slow = {way for of_work in times.values() for way, epoch_s in of_work.items()
                if epoch_s > factor * min(of_work.values())}  # fmt: skip
        return slow - {way for of_work in times.values() if len(of_work) > 1 for way, epoch_s in of_work.items()
                       if epoch_s <= factor * min(of_work.values())}  # fmt: skip

    def timed(self, able: list[Candidate]) -> list[Timed]:
        """The cells of these shapes whose time is known: in the order of their probes, of one probe by their error."""
        cells = []
        for probed in self.probed:
            if (epoch_s := probed.epoch_s) is None:
                continue
            work, way = self._work(probed)
            for each in sorted(able, key=lambda each: (each.val_mse, each.trial_id)):
                if self._plan.work(each.shape) == work:
                    cell = self._plan.cell(each.shape, way)
                    cells.append(Timed(cell=cell, shape=each.shape, val_mse=each.val_mse, epoch_s=epoch_s))
        return cells
