"""Optuna's proposals: batches of shapes that can run, each once, as a function of the records of earlier batches.

A driver that was killed gets the same proposals again: the study is made anew for each batch, from the outbox, with a
seed of the search's seed and the batch's number.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import optuna

from tune.driver.finalists import objective
from tune.driver.guesses import likely_answers, single_changes
from tune.driver.search_history import History, Trained
from tune.plan.cells import Labels, Space
from tune.plan.search_plan import SearchPlan

RANDOM_FIRST = 10  # random shapes before the sampler learns; at most a third of all
SAMPLED = 4  # one of so many shapes of a batch is the sampler's, the others are guesses (tune.driver.guesses)
TRIES = 30  # proposals of known shapes before an unknown one is taken at random


def random_first(draws: int) -> int:
    """How many of `draws` shapes are random: they know nothing of each other, so that they may be one batch."""
    return min(RANDOM_FIRST, max(1, draws // 3))


def propose(plan: SearchPlan, history: History, count: int) -> list[Labels]:
    """Up to `count` shapes that have no trial yet, the baseline's first; fewer if no more are left.

    A seeded TPE sampler over the options of the space, define-by-run. Shapes of the same batch count as bad ones until
    they have ended (constant liar), so that a batch spreads.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    seed = (plan.seed * 1_000_003 + history.batches) % 2**32
    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=random_first(plan.draws), constant_liar=True)
    study = optuna.create_study(sampler=sampler, direction="minimize")
    for each in history.trained:
        study.add_trial(_as_ended(plan.shapes, each))
    proposed: list[Labels] = []

    def is_new(shape: Labels) -> bool:
        return not history.is_trained(shape) and not any(_same(plan, shape, other) for other in proposed)

    baseline = None if plan.baseline_cell is None else plan.shape_of(plan.baseline_cell)
    if count and baseline is not None and is_new(baseline):
        proposed.append(baseline)
    guesses = likely_answers(plan, history, is_new) if history.trained else single_changes(plan)
    for shape in guesses:
        if len(proposed) < count - count // SAMPLED and is_new(shape):
            proposed.append(shape)
    for shape in proposed:
        _enqueue(plan.shapes, study, shape)
    untried = list(plan.shapes.every())
    random.Random(seed).shuffle(untried)
    while len(proposed) < count:
        new = _ask(plan.shapes, study, is_new) or next(filter(is_new, untried), None)
        if new is None:
            break
        proposed.append(new)
    return proposed


def _enqueue(shapes: Space, study: optuna.Study, shape: Labels) -> None:
    """Tell the sampler of a shape that it did not propose, and that runs now."""
    study.enqueue_trial(_as_proposed(shapes, shape)[0])
    shapes.draw(study.ask().suggest_categorical)


def _ask(shapes: Space, study: optuna.Study, is_new: Callable[[Labels], bool]) -> Labels | None:
    """A new shape; None if the sampler proposes known ones only."""
    for _ in range(TRIES):
        trial = study.ask()
        shape = shapes.draw(trial.suggest_categorical)
        if is_new(shape):
            return shape
        study.tell(trial, state=optuna.trial.TrialState.FAIL)  # it would be counted as bad while it runs
    return None


def _same(plan: SearchPlan, one: Labels, other: Labels) -> bool:
    return plan.error_computation(one) == plan.error_computation(other)


def _as_ended(shapes: Space, trained: Trained) -> optuna.trial.FrozenTrial:
    params, distributions = _as_proposed(shapes, trained.shape)
    known = trained.log.status in ("done", "stopped")
    value = objective(trained.trial.config, trained.log) if known else None
    state = optuna.trial.TrialState.FAIL if value is None else optuna.trial.TrialState.COMPLETE
    return optuna.trial.create_trial(state=state, value=value, params=params, distributions=distributions)


def _as_proposed(shapes: Space, shape: Labels) -> tuple[dict[str, str], dict[str, Any]]:
    """The parameters and distributions of a shape, as if the sampler had proposed it."""
    params: dict[str, str] = {}
    distributions: dict[str, Any] = {}
    levels = {dimension: level for level, dimension in enumerate(shapes.dimensions)}

    def choose(name: str, options: tuple[str, ...]) -> str:
        distributions[name] = optuna.distributions.CategoricalDistribution(options)
        params[name] = next(option for option in options if option == shape[levels[name.split("[")[0]]])
        return params[name]

    shapes.draw(choose)
    return params, distributions
