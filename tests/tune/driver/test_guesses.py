"""Guesses propose what is likely fast and not worse: single cheaper choices, then what their effects add up to."""

from __future__ import annotations

import itertools

from search_kit import World, search_plan

from tune.driver.guesses import likely_answers, single_changes
from tune.driver.search_steps import Train
from tune.plan.cells import Labels
from tune.plan.search_plan import SearchPlan

FEW = {"attention": 1, "loader": 1, "pruning": 5}  # none, and random with 1, 2, 5 and 8 heads at once
_PLAN = search_plan(overrides={"data.dataset": "ETTh1", "train.epochs": 3}, **FEW)


def _world(plan: SearchPlan, effects: dict[str, float]) -> World:
    """Errors of 0.4 with the effects of the choices, in parts."""

    def error(labels: dict[str, str]) -> float:
        return 0.4 * (1 + sum(effects.get(label, 0.0) for label in labels.values()))

    return World(plan, error=error, epoch_s=lambda labels: 1.0)


def _train(world: World, shapes: list[Labels]) -> None:
    cells = tuple(world.plan.error_cell(shape) for shape in shapes)
    world.carry_out(Train(cells=cells, polish=False, batch=world.history.batches + 1))


def test_single_changes_differ_from_the_baseline_in_one_choice_that_costs_less() -> None:
    assert _PLAN.baseline_cell is not None
    own = _PLAN.shape_of(_PLAN.baseline_cell)
    shapes = single_changes(_PLAN)
    assert shapes[:3] == [
        ("patch-192", "batch-128", "none"), ("patch-12", "batch-512", "none"),
        ("patch-12", "batch-128", "random-8-one_shot"),
    ]  # fmt: skip
    assert len(shapes) == 4 + 2 + 4
    for shape in shapes:
        assert sum(one != other for one, other in zip(shape, own, strict=True)) == 1
        assert all(a <= b for a, b in zip(_PLAN.effort(shape), _PLAN.effort(own), strict=True))


def test_without_a_baseline_cell_there_are_no_single_changes_and_without_records_no_answers() -> None:
    plan = search_plan(overrides={"data.dataset": "ETTh1"}, **FEW, batch_size=1)
    assert plan.baseline_cell is None and single_changes(plan) == []
    assert likely_answers(_PLAN, World(_PLAN, lambda labels: 0.4, lambda labels: 1.0).history, lambda shape: True) == []


def test_what_single_choices_cost_adds_up_to_a_guess_at_the_fastest_shape_that_is_not_worse() -> None:
    assert _PLAN.baseline_cell is not None
    world = _world(_PLAN, {"patch-192": 0.2, "batch-512": 0.2, "random-8-one_shot": 0.2, "patch-96": 0.002})
    _train(world, [_PLAN.shape_of(_PLAN.baseline_cell), *single_changes(_PLAN)])
    history = world.history
    guesses = likely_answers(_PLAN, history, lambda shape: not history.is_trained(shape))
    assert guesses[0] == ("patch-96", "batch-256", "random-5-one_shot")
    assert not any("patch-192" in shape or "batch-512" in shape for shape in guesses)


def test_a_guess_is_new_and_can_run() -> None:
    world = _world(_PLAN, {})
    shapes = list(itertools.islice(_PLAN.shapes.every(), 0, None, 7))
    _train(world, shapes)
    history = world.history
    guesses = likely_answers(_PLAN, history, lambda shape: not history.is_trained(shape))
    assert set(guesses) <= set(_PLAN.shapes.every()) - set(shapes)
