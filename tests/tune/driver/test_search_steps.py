"""What a search does next, carried out with made-up errors and times: no neighbour of its answer is better."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from search_kit import World, search_plan

from tune.driver.polish import RESOLUTION, fastest, neighbour_cells, neighbour_shapes
from tune.driver.search_history import History
from tune.driver.search_steps import CLEARLY, Final, Probe, Train, able_shapes, limit_of, next_step
from tune.plan.plan import computation
from tune.plan.search_plan import SearchPlan
from tune.plan.shapes import FINALISTS, PROBED_FIRST

FEW = {"attention": 4, "patch_length": 4, "batch_size": 4, "loader": 3, "pruning": 5}


_PLAN = search_plan(draws=6, **FEW)


@pytest.fixture
def plan() -> SearchPlan:
    return _PLAN


def _number(*parts: Any) -> float:
    """Something between 0 and 1, the same for the same parts."""
    return int(hashlib.sha256(repr(parts).encode()).hexdigest()[:8], 16) / 0xFFFFFFFF


def _world(plan: SearchPlan, luck: int = 0, *, spread: float = 0.01, **given: Any) -> World:
    """Errors by shape; times by work, backend, loader and engine, as a GPU has them: each factor by itself."""

    def error(labels: dict[str, str]) -> float:
        return 0.4 * (1 + spread * _number(luck, [labels[name] for name in plan.shapes.dimensions]))

    def epoch_s(labels: dict[str, str]) -> float:
        patch, batch = (int(labels[name].split("-")[1]) for name in ("patch_length", "batch_size"))
        heads = 0 if labels["pruning"] == "none" else int(labels["pruning"].split("-")[1])
        work = 500 / patch * (16 - heads) + 20_000 / batch
        return work * (1 + 0.3 * _number(luck, [labels[name] for name in plan.ways]))

    return World(plan, **{"error": error, "epoch_s": epoch_s, **given})


def _cells(world: World, kind: type) -> list[Any]:
    return [cell for step in world.steps if isinstance(step, kind) for cell in step.cells]


def test_shapes_are_searched_then_probed_then_polished_then_run_in_pairs() -> None:
    world = _world(search_plan(draws=2, **FEW))
    world.run()
    kinds = [(type(step).__name__, getattr(step, "polish", None)) for step in world.steps]
    assert kinds[0] == ("Train", False) and kinds[-1] == ("Final", None)
    searched = [at for at, kind in enumerate(kinds) if kind == ("Train", False)]
    assert searched == list(range(len(searched)))
    assert kinds[len(searched)] == ("Probe", None) and ("Train", True) in kinds


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.01, 0.1]))
def test_no_neighbour_of_the_fastest_cell_is_faster_at_an_error_not_worse(luck: int, spread: float) -> None:
    plan = _PLAN
    world = _world(plan, luck, spread=spread)
    world.run()
    best = fastest(world.history.timed(able_shapes(plan, world.history)))
    limit = limit_of(plan, world.history)
    assert best is not None and limit is not None
    way = plan.way_of(best.cell)
    beside = [plan.cell(shape, way) for shape in neighbour_shapes(plan, best.shape)]
    for cell in (*beside, *neighbour_cells(plan, best.cell)):
        labels = world.labels(cell)
        if world.error(labels) <= limit.val_mse and plan.can_run(cell):
            faster = world.epoch_s(labels) < best.epoch_s * (1 - RESOLUTION)
            assert not faster or plan.way_of(cell) in world.history.slow_ways(CLEARLY)


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 9))
def test_no_shape_is_trained_and_no_work_is_probed_twice_in_one_way(luck: int, at_a_time: int) -> None:
    plan = _PLAN
    world = _world(plan, luck, at_a_time=at_a_time)
    world.run()
    computed = [plan.error_computation(plan.shape_of(cell)) for cell in _cells(world, Train)]
    timed = [(plan.work(plan.shape_of(cell)), plan.way_of(cell)) for cell in _cells(world, Probe)]
    assert len(set(computed)) == len(computed) and len(set(timed)) == len(timed)
    assert all(plan.can_run(cell) for cell in (*_cells(world, Train), *_cells(world, Probe)))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000), st.integers(0, 12), st.integers(0, 4))
def test_a_driver_killed_anywhere_does_the_rest_and_nothing_again(luck: int, kill_at: int, ended: int) -> None:
    whole = _world(_PLAN, luck)
    answer = whole.run()
    cut = _world(_PLAN, luck)
    for step in whole.steps[:kill_at]:
        cut.carry_out(step)
    if kill_at < len(whole.steps) - 1:
        cut.carry_out(whole.steps[kill_at], only=ended)
    before = {trial_id for trial_id, log in cut.logs.items() if log.status is not None}
    again = World(cut.plan, cut.error, cut.epoch_s, at_a_time=cut.at_a_time, logs=cut.logs)
    assert again.run() == answer
    first = again.steps[0]
    if isinstance(first, Train | Probe):
        known = {each.cell: each.trial.trial_id for each in (*whole.history.trained, *whole.history.probed)}
        assert not {known[cell] for cell in first.cells} & before
    assert list(again.logs) == list(whole.logs)


@pytest.mark.parametrize(("draws", "at_a_time", "sizes"), [(20, 8, [8, 12]), (21, 8, [8, 8, 5]), (6, 8, [6])])
def test_the_last_batch_takes_what_would_be_less_than_half_a_batch(
    draws: int, at_a_time: int, sizes: list[int]
) -> None:
    world = _world(search_plan(draws=draws, **FEW), at_a_time=at_a_time)
    world.run()
    assert [len(step.cells) for step in world.steps if isinstance(step, Train) and not step.polish] == sizes


def test_exactly_as_many_shapes_are_searched_as_asked_the_baselines_among_them(plan: SearchPlan) -> None:
    world = _world(plan, at_a_time=4)
    world.run()
    searched = [cell for step in world.steps if isinstance(step, Train) and not step.polish for cell in step.cells]
    assert len(searched) == plan.draws and plan.baseline_cell is not None
    assert plan.shape_of(searched[0]) == plan.shape_of(plan.baseline_cell)


def test_a_shape_that_reaches_the_target_ends_the_search_and_sets_the_limit() -> None:
    plan = search_plan(draws=20, target=0.402, **FEW)
    world = _world(plan)
    world.run()
    searched = [step for step in world.steps if isinstance(step, Train) and not step.polish]
    assert sum(len(step.cells) for step in searched) < plan.draws
    assert all(each.val_mse <= 0.402 for each in able_shapes(plan, world.history))
    limit = limit_of(plan, world.history)
    assert limit is not None and (limit.val_mse, limit.why) == (0.402, "the target")


def test_a_target_that_no_shape_reaches_ends_nothing() -> None:
    plan = search_plan(draws=6, target=0.1, **FEW)
    world = _world(plan)
    world.run()
    assert sum(not each.polish for each in world.history.trained) == plan.draws
    assert limit_of(plan, world.history) != limit_of(plan, History(plan, {}))


def test_the_first_probes_are_of_few_shapes_of_different_work_with_the_most_accurate_and_the_baseline(
    plan: SearchPlan,
) -> None:
    world = _world(plan, spread=0.0)  # all are able
    world.run()
    first = next(step for step in world.steps if isinstance(step, Probe))
    assert plan.baseline_cell in first.cells and len(first.cells) <= 1 + PROBED_FIRST
    works = [plan.work(plan.shape_of(cell)) for cell in first.cells]
    assert len(set(works)) == len(works)
    searched = [each for each in world.history.trained if not each.polish]
    accurate = min(searched, key=lambda each: each.log.metrics["final/val_mse"])
    assert plan.work(accurate.shape) in works


def test_a_probe_that_fails_is_not_tried_again_and_the_search_goes_on(plan: SearchPlan) -> None:
    world = _world(plan, epoch_s=lambda labels: None if labels["attention"] == "eager" else 1.0)
    final = world.run()
    assert final.cells
    probed = [each.cell for each in world.history.probed]
    assert len(set(probed)) == len(probed)


def test_where_no_probe_gives_a_time_the_final_is_chosen_by_error_and_effort(plan: SearchPlan) -> None:
    world = _world(plan, epoch_s=lambda labels: None)
    assert 1 <= len(world.run().cells) <= FINALISTS


def test_where_no_trial_gives_an_error_there_is_no_final(plan: SearchPlan) -> None:
    world = _world(plan, error=lambda labels: None)
    assert world.run().cells == ()


def test_with_time_for_the_final_alone_it_comes_at_once(plan: SearchPlan) -> None:
    world = _world(plan)
    world.carry_out(next_step(plan, world.history, at_a_time=3))
    assert isinstance(next_step(plan, world.history, at_a_time=3, time_is_up=True), Final)
    assert world.run(time_is_up=True).cells and not world.history.probed


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10_000))
def test_the_final_has_the_fastest_and_the_most_accurate_and_no_computation_twice(luck: int) -> None:
    plan = _PLAN
    world = _world(plan, luck)
    final = world.run()
    computations = [computation(plan.cell_trial(cell).config) for cell in final.cells]
    assert len(set(computations)) == len(computations) <= FINALISTS
    assert plan.baseline_computation() not in computations
    best = fastest(world.history.timed(able_shapes(plan, world.history)))
    assert best is not None and (best.cell == final.cells[0] or best.cell == plan.baseline_cell)
    accurate = min(world.history.candidates, key=lambda each: (each.val_mse, each.trial_id)).shape
    shapes = [plan.shape_of(cell) for cell in final.cells]
    assert accurate in shapes or plan.usual_cell(accurate) == plan.baseline_cell
    assert len(set(shapes)) == len(shapes)


def test_a_gain_below_the_resolution_of_a_probe_is_none() -> None:
    times = [1.0, 1 - RESOLUTION / 2, 1 - 3 * RESOLUTION, 0.999]
    timed = [_Timed(each) for each in times]
    assert fastest(timed) is timed[2]  # type: ignore[arg-type]
    assert fastest([]) is None


class _Timed:
    def __init__(self, epoch_s: float) -> None:
        self.epoch_s = epoch_s


def test_a_shape_with_more_tokens_or_heads_in_as_many_steps_is_not_tried(plan: SearchPlan) -> None:
    beside = neighbour_shapes(plan, ("patch-24", "batch-128", "none"))
    assert {shape for shape in beside if shape[2] == "none"} == {
        ("patch-48", "batch-128", "none"), ("patch-24", "batch-64", "none"), ("patch-24", "batch-256", "none"),
    }  # fmt: skip
    fewer = neighbour_shapes(plan, ("patch-24", "batch-128", "random-2-one_shot"))
    assert ("patch-24", "batch-128", "random-5-one_shot") in fewer
    assert ("patch-24", "batch-128", "random-1-one_shot") not in fewer
