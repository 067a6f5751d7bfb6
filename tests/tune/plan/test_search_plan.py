"""A search's plan: shapes and ways, the cell in which a shape is trained, and what an engine by name changes."""

from __future__ import annotations

import json

import pytest
from search_kit import CPU, SMALL, search_plan

from tune.plan.search_plan import SearchPlan
from tune.plan.shapes import KEEPS_FUNCTION, MOST_UNCOMPILED_STEPS, steps_of

ETTH1 = {"data.dataset": "ETTh1", "train.epochs": 3}


@pytest.fixture(scope="module")
def plan() -> SearchPlan:
    return search_plan(overrides=ETTH1)


def test_a_shape_has_the_dimensions_that_decide_the_error_and_a_way_the_others(plan: SearchPlan) -> None:
    assert plan.shapes.dimensions == ("patch_length", "batch_size", "pruning")
    assert plan.ways == ("attention", "loader", "engine")
    assert plan.shapes.cells == 5 * 5 * 25


def test_a_cell_is_its_shape_and_its_way(plan: SearchPlan) -> None:
    cell = ("patch", "patch-48", "batch-64", "arrow-4", "taylor-5-gradual", "graph")
    assert plan.shape_of(cell) == ("patch-48", "batch-64", "taylor-5-gradual")
    assert plan.way_of(cell) == ("patch", "arrow-4", "graph")
    assert plan.cell(plan.shape_of(cell), plan.way_of(cell)) == cell


def test_cells_of_one_shape_differ_in_nothing_that_decides_the_error(plan: SearchPlan) -> None:
    configs = [plan.cell_trial(cell).config.flat() for cell in plan.every_cell(next(plan.shapes.every()))]
    assert len(configs) > 20
    differing = {name for config in configs for name, value in config.items() if value != configs[0][name]}
    assert differing == set(KEEPS_FUNCTION)


def test_only_cells_that_can_run_are_offered_and_each_of_them_can(plan: SearchPlan) -> None:
    for shape in list(plan.shapes.every())[::100]:
        cells = plan.every_cell(shape)
        assert {plan.cell_trial(cell).unsupported for cell in cells} == {None}
        assert plan.usual_cell(shape) in cells and plan.error_cell(shape) in cells
    assert not plan.can_run(("no backend", "patch-48", "batch-64", "device-0", "none", "graph"))


def test_a_cpu_offers_no_engine_that_needs_a_gpu() -> None:
    plan = search_plan(device=CPU)
    assert plan.engines == ("eager", "compile")
    assert {plan.way_of(cell)[-1] for cell in plan.every_cell(next(plan.shapes.every()))} == {"eager", "compile"}


def test_the_usual_cell_has_the_backend_of_auto_and_the_baselines_loader_and_engine(plan: SearchPlan) -> None:
    assert plan.baseline_cell == ("eager", "patch-12", "batch-128", "device-0", "none", "graph")
    assert plan.usual_cell(plan.shape_of(plan.baseline_cell)) == ("patch", *plan.baseline_cell[1:])


def test_a_short_training_is_done_without_a_compiler_and_a_long_one_in_the_usual_way(plan: SearchPlan) -> None:
    shape = ("patch-24", "batch-128", "none")
    steps = steps_of(plan.cell_trial(plan.error_cell(shape)))
    assert steps is not None and steps <= MOST_UNCOMPILED_STEPS and plan.error_cell(shape)[-1] == "eager"
    assert plan.error_cell(shape)[:-1] == plan.usual_cell(shape)[:-1]
    long = search_plan(overrides=ETTH1 | {"train.epochs": 100})
    assert long.error_cell(shape) == long.usual_cell(shape)


def test_an_engine_by_name_is_no_dimension_and_every_cell_has_it() -> None:
    plan = search_plan(overrides=SMALL | {"train.engine": "compile"})
    assert plan.engines == () and plan.ways == ("attention", "loader")
    assert plan.cell_trial(plan.error_cell(next(plan.shapes.every()))).config.train.engine == "compile"
    assert "train.engine" not in plan.settings(plan.arm(next(plan.space.every())))


def test_an_arm_says_its_engine_only_where_it_is_not_the_usual_one(plan: SearchPlan) -> None:
    labels = next(plan.space.every())
    assert plan.arm((*labels, "graph")).label == "-".join(labels)
    assert plan.arm((*labels, "compile")).label == "-".join([*labels, "compile"])
    assert "--set train.engine=compile" in plan.settings(plan.arm((*labels, "compile")))


def test_trials_and_probes_have_names_of_their_own(plan: SearchPlan) -> None:
    cell = plan.error_cell(next(plan.shapes.every()))
    trial, probe = plan.search_trial(cell, 3), plan.probe_trial(cell, 3)
    assert (trial.trial_id, probe.trial_id) == ("full-search-003-s1", "full-probe-003-s1")
    assert trial.config == probe.config
    assert tuple(json.loads(json.dumps(cell))) == cell
    assert plan.baseline_trial == "full-search-001-s1"
