"""The plan of a sweep that searches: its shapes, the ways in which each can run, and the trials made of them.

Planning-safe. A shape has one choice of each dimension that decides the error, a cell one of every dimension
(tune.plan.shapes). The engine is a dimension too, unless the user names it.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from tune.common.errors import WrongInput
from tune.config.names import ATTENTION
from tune.config.sweeps import Arm
from tune.config.trial_config import as_settings
from tune.plan.cells import Labels, Space, project
from tune.plan.plan import Plan, PlannedTrial, computation, plan_trial
from tune.plan.shapes import MOST_UNCOMPILED_STEPS, effort, is_way, steps_of, work_of

ENGINE, ENGINE_FIELD = "engine", "train.engine"
UNCOMPILED = "eager"


@dataclass(frozen=True, kw_only=True)
class SearchPlan(Plan):
    """A plan whose arms are found while it runs. `trials` are the final's, of which only the baseline's are known."""

    space: Space  # without the engine
    draws: int  # shapes that the search trains
    overrides: Mapping[str, Any]  # the user's, and `settled`
    settled: Mapping[str, Any]  # fields given to all trials, so that they differ only in their choices
    seed: int  # of the search; the final has the `repeats` seeds after it
    baseline_cell: Labels | None  # None: the baseline is not a cell that can run
    engines: tuple[str, ...] = ()  # the choices of the dimension `engine`, the baseline's first; empty: it is named
    target_val_mse: float | None = None  # a validation error that ends the search; None: it trains `draws` shapes

    def key(self, *, data_sha256: str, tracking_uri: str, paths: Mapping[str, str] | None = None) -> str:
        """As for a plan, with the number of draws, the cells that can run and the target."""
        every = hashlib.sha256(json.dumps([self.space.tree, self.engines]).encode()).hexdigest()
        content = [super().key(data_sha256=data_sha256, tracking_uri=tracking_uri, paths=paths), self.draws, every]
        content += [] if self.target_val_mse is None else [self.target_val_mse]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]

    @functools.cached_property
    def choices(self) -> dict[str, tuple[Arm, ...]]:
        """The choices of each dimension of a cell, in the order of its labels."""
        engines = tuple(Arm(label=name, changes={ENGINE_FIELD: name}) for name in self.engines)
        return {**self.sweep.space, **({ENGINE: engines} if engines else {})}

    @functools.cached_property
    def shapes(self) -> Space:
        """The shapes that can run in some way."""
        return project(self.space, [name for name in self.sweep.space if not is_way(self.sweep.space[name])])

    @functools.cached_property
    def ways(self) -> tuple[str, ...]:
        """The dimensions of a way to run a shape."""
        return tuple(name for name in self.choices if name not in self.shapes.dimensions)

    def shape_of(self, cell: Labels) -> Labels:
        """The shape of a cell."""
        return tuple(label for name, label in zip(self.choices, cell, strict=True) if name not in self.ways)

    def way_of(self, cell: Labels) -> Labels:
        """The way in which a cell runs its shape."""
        return tuple(label for name, label in zip(self.choices, cell, strict=True) if name in self.ways)

    def cell(self, shape: Labels, way: Labels) -> Labels:
        """The cell that runs this shape in this way."""
        chosen = dict(zip((*self.shapes.dimensions, *self.ways), (*shape, *way), strict=True))
        return tuple(chosen[name] for name in self.choices)

    def work(self, shape: Labels) -> str:
        """Equal for shapes whose cells take the same time in the same way."""
        if shape not in self._work:
            self._work[shape] = work_of(self.cell_trial(self.usual_cell(shape)).config)
        return self._work[shape]

    def error_computation(self, shape: Labels) -> Any:
        """Equal for shapes whose trials are the same computation, as two schedules are in a single epoch."""
        if shape not in self._computations:
            self._computations[shape] = computation(self.cell_trial(self.error_cell(shape)).config)
        return self._computations[shape]

    @functools.cached_property
    def _computations(self) -> dict[Labels, Any]:
        return {}

    def effort(self, shape: Labels) -> tuple[int, int, int]:
        """What a window of this shape costs, roughly (tune.plan.shapes.effort)."""
        if shape not in self._efforts:
            self._efforts[shape] = effort(self.cell_trial(self.usual_cell(shape)).config)
        return self._efforts[shape]

    @functools.cached_property
    def _efforts(self) -> dict[Labels, tuple[int, int, int]]:
        return {}

    @functools.cached_property
    def _work(self) -> dict[Labels, str]:
        return {}

    def can_run(self, cell: Labels) -> bool:
        """Whether these choices are a cell that can run on the planned device."""
        node = self.space.tree
        for label in cell[: len(self.space.dimensions)]:
            if label not in node:
                return False
            node = node[label]
        return not self.engines or self.cell_trial(cell).unsupported is None

    def every_cell(self, shape: Labels) -> list[Labels]:
        """The cells of this shape that can run."""
        ways = itertools.product(*([choice.label for choice in self.choices[name]] for name in self.ways))
        return [cell for way in ways if self.can_run(cell := self.cell(shape, way))]

    def usual_cell(self, shape: Labels) -> Labels:
        """This shape with the backend that `auto` takes for it, and the baseline's other choices, as far as they run.

        Otherwise the first of its cells that can run.
        """
        engine = {ENGINE_FIELD: self.engines[0]} if self.engines else {}
        changes = {**engine, **self.baseline.changes}
        first = self.cell(shape, tuple(self._same(name, changes) for name in self.ways))
        for cell in (self._with_auto(first), first):
            if cell is not None and self.can_run(cell):
                return cell
        return self.every_cell(shape)[0]

    def error_cell(self, shape: Labels) -> Labels:
        """The cell that is trained for this shape's error: without a compiler if its steps are few."""
        usual = self.usual_cell(shape)
        steps = steps_of(self.cell_trial(usual))
        if UNCOMPILED not in self.engines or steps is None or steps > MOST_UNCOMPILED_STEPS:
            return usual
        uncompiled = (*usual[:-1], UNCOMPILED)
        return uncompiled if self.can_run(uncompiled) else usual

    def _same(self, dimension: str, changes: Mapping[str, Any]) -> str:
        choices = self.choices[dimension]
        return next((each.label for each in choices if each.changes.items() <= changes.items()), choices[0].label)

    def _with_auto(self, cell: Labels) -> Labels | None:
        """`cell` with the choice of the backend that `auto` becomes; None if it has no such choice."""
        dimension = next(
            (name for name in self.ways if all(ATTENTION in each.changes for each in self.choices[name])), ""
        )
        arm = self.arm(cell)
        try:
            auto = self._plan(replace(arm, changes={**arm.changes, ATTENTION: "auto"})).config.model.attention
        except WrongInput:  # no backend of its list runs here
            return None
        same = [each.label for each in self.choices.get(dimension, ()) if each.changes == {ATTENTION: auto}]
        if not same:
            return None
        return tuple(same[0] if name == dimension else own for name, own in zip(self.choices, cell, strict=True))

    def arm(self, cell: Labels) -> Arm:
        """The arm that these choices make. Its label leaves out the baseline's engine."""
        count = len(self.space.dimensions)
        arm = self.sweep.drawn(dict(zip(self.space.dimensions, cell[:count], strict=True)))
        if not self.engines:
            return arm
        (engine,) = cell[count:]
        label = arm.label if engine == self.engines[0] else f"{arm.label}-{engine}"
        return Arm(label=label, changes={**arm.changes, ENGINE_FIELD: engine})

    def settings(self, arm: Arm) -> str:
        """The options that train this arm as it ran here, in addition to the sweep's overrides."""
        return as_settings({**arm.changes, **self.settled})

    @property
    def baseline(self) -> Arm:
        """The arm that the others are compared with."""
        return next(arm for arm in self.sweep.arms if arm.label == self.sweep.baseline)

    @property
    def baseline_trial(self) -> str | None:
        """Id of the trial of the baseline's shape, the search's first; None if the baseline is no cell."""
        return None if self.baseline_cell is None else self.search_trial(self.baseline_cell, 1).trial_id

    def baseline_computation(self) -> tuple[Any, ...]:
        """What the baseline computes with the seed of the search."""
        return computation(self._plan(self.baseline).config)

    def _plan(self, arm: Arm) -> PlannedTrial:
        return plan_trial(self.sweep, arm, self.overrides, self.seed, self.device, self.data)

    def cell_trial(self, cell: Labels) -> PlannedTrial:
        """The trial of a cell with the search's seed, under no number yet."""
        if cell not in self._trials:
            self._trials[cell] = self._plan(self.arm(cell))
        return self._trials[cell]

    @functools.cached_property
    def _trials(self) -> dict[Labels, PlannedTrial]:
        return {}

    def search_trial(self, cell: Labels, number: int) -> PlannedTrial:
        """The `number`-th trial of the search, from 1."""
        return self._numbered(self.cell_trial(cell), "search", number)

    def probe_trial(self, cell: Labels, number: int) -> PlannedTrial:
        """The `number`-th probe, from 1."""
        return self._numbered(self.cell_trial(cell), "probe", number)

    def _numbered(self, trial: PlannedTrial, stage: str, number: int) -> PlannedTrial:
        name = f"{stage}-{number:03d}"
        return replace(trial, trial_id=f"{self.sweep.name}-{name}-s{self.seed}", arm=f"{name}-{trial.arm}")
