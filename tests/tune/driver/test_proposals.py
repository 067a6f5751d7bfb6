"""Optuna's proposals: only shapes that can run, each once, the same again from the same records."""

from __future__ import annotations

from dataclasses import replace

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from search_kit import CPU, World, search_plan

from tune.driver.proposals import _as_ended, propose, random_first
from tune.driver.search_history import History
from tune.driver.search_steps import Train
from tune.plan.cells import Labels
from tune.plan.search_plan import SearchPlan

FEW = {"attention": 1, "loader": 1, "pruning": 2}


def _plan(seed: int = 1, draws: int = 12, **dimensions: int) -> SearchPlan:
    return search_plan(seed=seed, draws=draws, device=CPU, **{**FEW, **dimensions})


def _world(plan: SearchPlan) -> World:
    return World(plan, error=lambda labels: 1 + len("".join(labels.values())) / 100, epoch_s=lambda labels: 1.0)


def _searched(world: World, counts: list[int]) -> list[Labels]:
    """The shapes of batches of these sizes, all trained."""
    shapes: list[Labels] = []
    for count in counts:
        batch = propose(world.plan, world.history, count)
        shapes += batch
        cells = tuple(world.plan.error_cell(shape) for shape in batch)
        world.carry_out(Train(cells=cells, polish=False, batch=world.history.batches + 1))
    return shapes


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**31 - 3), st.integers(2, 5), st.integers(3, 5), st.lists(st.integers(1, 5), max_size=4))
def test_no_shape_that_cannot_run_is_proposed_and_none_twice(
    seed: int, patches: int, batches: int, counts: list[int]
) -> None:
    plan = _plan(seed, patch_length=patches, batch_size=batches)
    shapes = _searched(_world(plan), counts)
    assert set(shapes) <= set(plan.shapes.every())
    assert len(set(shapes)) == len(shapes) == min(sum(counts), plan.shapes.cells)


def test_the_baselines_shape_is_the_first_and_proposed_once() -> None:
    world = _world(_plan(batch_size=5, patch_length=3))
    shapes = _searched(world, [3, 3])
    assert world.plan.baseline_cell is not None
    assert shapes[0] == world.plan.shape_of(world.plan.baseline_cell) and shapes.count(shapes[0]) == 1
    assert next(iter(world.logs)) == world.plan.baseline_trial


def test_a_search_whose_space_lacks_the_baseline_begins_with_any_shape() -> None:
    plan = _plan(batch_size=1, patch_length=3)
    assert plan.baseline_cell is None
    assert len(_searched(_world(plan), [3])) == 3


def test_a_batch_is_proposed_again_as_it_was_from_the_same_records() -> None:
    world = _world(_plan(batch_size=5, patch_length=4))
    _searched(world, [4, 3])
    assert propose(world.plan, world.history, 4) == propose(world.plan, History(world.plan, world.logs), 4)


def test_another_seed_proposes_other_shapes() -> None:
    drawn = [_searched(_world(_plan(seed, batch_size=5, patch_length=4)), [5, 4]) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_search_ends_when_no_shape_is_left() -> None:
    plan = _plan(batch_size=3, patch_length=2)
    world = _world(plan)
    assert len(_searched(world, [5, 20])) == plan.shapes.cells
    assert propose(plan, world.history, 3) == []


def test_shapes_that_compute_the_same_are_trained_once() -> None:
    plan = _plan(pruning=9, patch_length=1, batch_size=1)  # none, and random with two schedules and four counts
    once = replace(plan, overrides={**plan.overrides, "train.epochs": 1})  # in one epoch both schedules are the same
    assert plan.shapes.cells == once.shapes.cells == 9
    assert len(_searched(_world(once), [20])) == 5


def test_the_sampler_knows_every_ended_trial_and_that_a_failed_one_failed() -> None:
    world = _world(_plan(batch_size=5, patch_length=4))
    _searched(world, [4])
    failed = next(reversed(world.logs.values()))
    failed.status, failed.metrics = "oom", {}
    ended = [_as_ended(world.plan.shapes, each) for each in world.history.trained]
    assert [trial.state for trial in ended] == [optuna.trial.TrialState.COMPLETE] * 3 + [optuna.trial.TrialState.FAIL]
    assert [trial.value for trial in ended[:3]] == [each.val_mse for each in world.history.candidates]
    for trial, each in zip(ended, world.history.trained, strict=True):
        assert set(trial.params.values()) <= set(each.shape)


@pytest.mark.parametrize(("draws", "random"), [(1, 1), (3, 1), (20, 6), (300, 10)])
def test_at_most_a_third_of_the_shapes_are_random(draws: int, random: int) -> None:
    assert random_first(draws) == random
