"""Plans a sweep that searches: finds the cells that can run, and says what the search will do.

Planning-safe.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any

from tune.common.errors import WrongInput
from tune.common.words import counted
from tune.config.repeats import Repeats, blocks_text, most_blocks
from tune.config.sweeps import Arm, SweepConfig
from tune.engine import ENGINES
from tune.machine.device import DeviceFacts
from tune.plan.cells import Labels, Space, build_space
from tune.plan.data import UNREAD, DataFacts
from tune.plan.equal_arms import settled_fields
from tune.plan.plan import Plan, PlannedTrial, computation, make_plan, plan_trial, settled_data
from tune.plan.search_plan import ENGINE_FIELD, SearchPlan
from tune.plan.shapes import EVERY_BACKEND, FINALISTS, PROBED_FIRST

LOADING = ("data.feed", "data.num_workers")  # fields of a loader


def plan_sweep(
    sweep: SweepConfig,
    *,
    draws: int | None,
    overrides: Mapping[str, Any],
    repeats: Repeats,
    seed: int,
    device: DeviceFacts,
    data: DataFacts = UNREAD,
    target_val_mse: float | None = None,
) -> Plan:
    """`make_plan` for a sweep of fixed arms; a SearchPlan of `draws` shapes for a sweep with a space.

    Raises WrongInput as `make_plan` does, and if no cell of the space can run.
    """
    data = settled_data(sweep, overrides, device, data)
    given: dict[str, Any] = {"overrides": overrides, "repeats": repeats, "device": device, "data": data}
    if not sweep.space:
        return make_plan(sweep, seed=seed, **given)
    plan, space, settled = _settle(sweep, seed, **given)
    refused = [refusal.example for refusal in space.refusals if refusal.example]
    plan_fields = {field.name: getattr(plan, field.name) for field in fields(Plan)}
    search_plan = SearchPlan(
        **plan_fields | {"trials": (*plan.trials, *refused)},
        space=space,
        draws=draws or 1,
        overrides={**overrides, **settled},
        settled=settled,
        seed=seed,
        baseline_cell=None,
        engines=_engines(plan, sweep, overrides),
        target_val_mse=target_val_mse,
    )
    return replace(search_plan, baseline_cell=_cell_of_baseline(search_plan))


def _engines(plan: Plan, sweep: SweepConfig, overrides: Mapping[str, Any]) -> tuple[str, ...]:
    """The engines that a cell may have, the baseline's first; none where the user or the sweep names the engine."""
    if ENGINE_FIELD in overrides or ENGINE_FIELD in sweep.swept | sweep.shared.keys():
        return ()
    usual = plan.trials[0].config.train.engine
    able = [
        name for name, each in ENGINES.items() if each.unsupported_reason(device_type=plan.device.device_type) is None
    ]
    return tuple(dict.fromkeys([usual, *able]))


def _settle(
    sweep: SweepConfig,
    seed: int,
    *,
    overrides: Mapping[str, Any],
    repeats: Repeats,
    device: DeviceFacts,
    data: DataFacts,
) -> tuple[Plan, Space, dict[str, str]]:
    """The final's plan and the space, with the same layers in all trials that can run, and the field that sets them.

    Cells are planned one by one, and so are search and final: `auto` layers could differ between them.
    """
    given: dict[str, Any] = {"repeats": repeats, "device": device, "data": data}
    planned: dict[tuple[str, str], PlannedTrial] = {}  # what `auto` settled by itself -> a cell that can run

    def build(overrides: Mapping[str, Any]) -> tuple[Plan, Space]:
        plan = make_plan(sweep, seed=final_seed(seed, repeats), overrides=overrides, **given)

        def plan_cell(arm: Arm) -> PlannedTrial:
            trial = plan_trial(sweep, arm, overrides, seed, device, data)
            if trial.unsupported is None:
                model = trial.config.model
                planned.setdefault((model.layers, model.recompute), trial)
            return trial

        return plan, build_space(sweep, plan_cell=_once_for_all_loaders(plan_cell), seed=seed)

    plan, space = build(overrides)
    settled: dict[str, str] = {}
    while new := settled_fields(
        (trial.config for trial in (*plan.runnable, *planned.values())), sweep, {**overrides, **settled}
    ):
        settled |= new
        planned.clear()
        plan, space = build({**overrides, **settled})
    return plan, space, settled


def _once_for_all_loaders(plan_cell: Callable[[Arm], PlannedTrial]) -> Callable[[Arm], PlannedTrial]:
    """`plan_cell`, called once for cells that differ in their loader only: whether a cell can run depends on a feed and
    its workers by themselves, and on the rest. Of the 33,750 cells of `full` that plans 5,630."""
    trials: dict[str, PlannedTrial] = {}  # the rest -> a trial
    loaders: set[str] = set()  # that are valid

    def plan_once(arm: Arm) -> PlannedTrial:
        loading = {name: value for name, value in arm.changes.items() if name in LOADING}
        loader = repr(loading)
        rest = repr({name: value for name, value in arm.changes.items() if name not in loading})
        if loader not in loaders or rest not in trials:
            trials[rest] = plan_cell(arm)
            loaders.add(loader)
        return trials[rest]

    return plan_once


def final_seed(seed: int, repeats: Repeats) -> int:
    """The first seed of the final: the one after the search's, which has chosen the arms. WrongInput out of range."""
    if seed < 0 or seed + most_blocks(repeats) >= 2**31:
        raise WrongInput(
            f"--seed {seed} with --repeats {repeats}: the final has the seeds after the search's; seeds go from 0 to "
            f"{2**31 - 1}"
        )
    return seed + 1


def _cell_of_baseline(plan: SearchPlan) -> Labels | None:
    """The runnable cell that computes what the baseline does."""
    changes = plan.baseline.changes
    node, labels = plan.space.tree, []
    for name in plan.space.dimensions:
        same = [choice.label for choice in plan.sweep.space[name] if choice.changes.items() <= changes.items()]
        if not same or same[0] not in node:
            return None
        labels.append(same[0])
        node = node[same[0]]
    cell = (*labels, *plan.engines[:1])
    return cell if computation(plan.cell_trial(cell).config) == plan.baseline_computation() else None


def describe(plan: SearchPlan) -> list[str]:
    """The space in words: the options of each dimension, invalid combinations, the numbers of shapes and trials.

    Unsupported cells are among the plan's trials.
    """
    shapes = plan.shapes
    target = plan.target_val_mse
    until = "" if target is None else f", or until one has a validation MSE of at most {target:g}"
    return [
        "  space",
        *(f"    {name}: {', '.join(choice.label for choice in choices)}" for name, choices in plan.choices.items()),
        *(f"    all: {name}={value}, as auto would differ between cells" for name, value in plan.settled.items()),
        *(f"    {refusal.line()}" for refusal in plan.space.refusals if refusal.example is None),
        f"  search: {counted(min(plan.draws, shapes.cells), 'trial')} of the {counted(shapes.cells, 'shape')} that can "
        f"run, seed {plan.seed}{', the baseline first' if plan.baseline_cell else ''}, the worse ones stopped early"
        f"{until}; a shape is a choice of {', '.join(shapes.dimensions)}, one trial for all ways to run it",
        *_next_lines(plan),
    ]


def _next_lines(plan: SearchPlan) -> list[str]:
    """What follows the search, of which the numbers of trials show only then."""
    ways, shapes = ", ".join(plan.ways), ", ".join(plan.shapes.dimensions)
    return [
        f"  probes: of the shapes whose validation MSE is not worse up to {PROBED_FIRST} are timed for some steps",
        f"  polish: the fastest one's neighbours in {ways} are timed, those in {shapes} trained for their error and "
        f"timed, each once, until none is faster; then other backends of the {EVERY_BACKEND} fastest",
        f"  final: the baseline and up to {FINALISTS} cells again in {blocks_text(plan.repeats)}, with seeds of "
        "their own:",
    ]
