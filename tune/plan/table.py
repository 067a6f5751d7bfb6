"""The plan of a table: cells that each have data of their own, and are never compared with each other.

Planning-safe. A cell whose file is not at hand stays in the plan and does not run; the same command runs it once the
file is there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tune.common.errors import WrongInput
from tune.config.arms import SweepConfig
from tune.config.cells import DATASET
from tune.config.repeats import AUTO, Repeats
from tune.machine.device import DeviceFacts
from tune.plan.data import UNREAD, DataFacts
from tune.plan.plan import Plan, PlannedTrial, check_request, plan_trial, settled_data


@dataclass(frozen=True, kw_only=True)
class TablePlan(Plan):
    """The trials of a table: the seeds of a cell follow each other."""

    overrides: Mapping[str, Any] = field(default_factory=dict)  # the user's fields, which replace a recipe's
    facts: Mapping[str, DataFacts] = field(default_factory=dict)  # data set -> what is known of it
    missing: Mapping[str, str] = field(default_factory=dict)  # data set whose file is not at hand -> where to put it
    awaited: Mapping[str, str] = field(default_factory=dict)  # the same of one that the sweep downloads first

    @property
    def runnable(self) -> tuple[PlannedTrial, ...]:
        return tuple(trial for trial in self.trials if self.why_not(trial) is None)

    @property
    def in_blocks(self) -> bool:
        """No: cells make no pairs."""
        return False

    def data_of(self, trial: PlannedTrial) -> DataFacts:
        return self.facts.get(trial.config.data.dataset, UNREAD)

    def why_not(self, trial: PlannedTrial) -> str | None:
        where = self.missing.get(trial.config.data.dataset)
        return trial.unsupported if where is None else f"not run: file not at hand: {where}"


def asks_for_errors(plan: Plan) -> bool:
    """Whether times of the plan's trials mean nothing, so that they may share a GPU. Looks decide by time, too."""
    return isinstance(plan, TablePlan) or (plan.sweep.untimed and plan.repeats != AUTO)


def plan_table(
    sweep: SweepConfig,
    *,
    overrides: Mapping[str, Any],
    repeats: Repeats,
    seed: int,
    device: DeviceFacts,
    facts: Mapping[str, DataFacts],
    missing: Mapping[str, str],
    awaited: Mapping[str, str],
) -> TablePlan:
    """Plan every cell: as many seeds as it says, from `seed` up. `repeats`: the most of any cell.

    facts: data set -> what is known of it. missing: data set -> where its file has to be put. awaited: the same of
    files that are downloaded when the sweep starts.
    Raises WrongInput as `make_plan` does.
    """
    if repeats == AUTO:
        raise WrongInput(f"--repeats {AUTO}: a table compares no arms; give a number, or leave it out")
    check_request(sweep, overrides, repeats, seed)
    trials: list[PlannedTrial] = []
    for arm in sweep.arms:
        own = replace(sweep, arms=(arm,), shared={**sweep.shared, **arm.changes})
        data = settled_data(own, overrides, device, facts.get(arm.changes[DATASET], UNREAD))
        seeds = range(seed, seed + (arm.repeats or repeats))
        trials += [plan_trial(sweep, arm, overrides, each, device, data) for each in seeds]
    return TablePlan(
        sweep=sweep,
        trials=tuple(trials),
        repeats=repeats,
        device=device,
        overrides=dict(overrides),
        facts=dict(facts),
        missing=dict(missing),
        awaited=dict(awaited),
    )
