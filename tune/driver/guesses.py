"""Guesses at which untrained shapes are fast and not worse: each choice is taken to add its own part to the error.

Optuna's sampler looks for a small error. The answer of a search is the fastest shape whose error is not worse, and such
shapes are found sooner from the effects of single choices. A guess only proposes: what counts is the trained error.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np

from tune.driver.finalists import Candidate, able, error_limit, likely_fastest_first
from tune.driver.search_history import History
from tune.plan.cells import Labels
from tune.plan.search_plan import SearchPlan

PULL = 0.1  # towards no effect, in trials: a choice that was seen once says less than one that was seen often


def single_changes(plan: SearchPlan) -> list[Labels]:
    """The shapes that differ from the baseline's in one choice and cost less, of each dimension the cheapest first.

    In turns over the dimensions. Of choices that cost the same the first one. None if the baseline is no cell.
    """
    if plan.baseline_cell is None:
        return []
    own, able_shapes = plan.shape_of(plan.baseline_cell), set(plan.shapes.every())
    turns = []
    for level, dimension in enumerate(plan.shapes.dimensions):
        changed = (_with(own, level, choice.label) for choice in plan.choices[dimension])
        cheaper = {plan.effort(shape): shape for shape in reversed(list(changed)) if shape in able_shapes}
        turns.append([cheaper[effort] for effort in sorted(cheaper) if _is_less(effort, plan.effort(own))])
    return [shape for turn in itertools.zip_longest(*turns) for shape in turn if shape is not None]


def _with(shape: Labels, level: int, label: str) -> Labels:
    return (*shape[:level], label, *shape[level + 1 :])


def _is_less(one: Sequence[int], other: Sequence[int]) -> bool:
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))


def likely_answers(plan: SearchPlan, history: History, is_new: Callable[[Labels], bool]) -> list[Labels]:
    """New shapes whose guessed error is not worse, the likely fastest first."""
    known = [each for each in history.candidates if each.status == "done"]
    baseline = None if plan.baseline_cell is None else plan.shape_of(plan.baseline_cell)
    limit = error_limit(known, baseline=baseline, target=plan.target_val_mse)
    if limit is None:
        return []
    new = [shape for shape in plan.shapes.every() if is_new(shape)]
    guessed = [
        Candidate(trial_id="-".join(shape), shape=shape, status="done", val_mse=val_mse, effort=plan.effort(shape))
        for shape, val_mse in zip(new, _guess(known, new), strict=True)
    ]
    return [each.shape for each in likely_fastest_first(able(guessed, limit))]


def _guess(known: Sequence[Candidate], shapes: Sequence[Labels]) -> list[float]:
    """The error of each shape by a linear fit of log errors to choices, drawn towards no effect (ridge)."""
    choices = sorted({(level, label) for each in known for level, label in enumerate(each.shape)})
    logs = np.array([math.log(each.val_mse) for each in known])
    mean = float(logs.mean())
    seen = _indicators([each.shape for each in known], choices)
    effects = np.linalg.solve(seen.T @ seen + PULL * np.eye(len(choices)), seen.T @ (logs - mean))
    return [math.exp(mean + value) for value in _indicators(shapes, choices) @ effects]


def _indicators(shapes: Sequence[Labels], choices: Sequence[tuple[int, str]]) -> np.ndarray:
    return np.array([[float(shape[level] == label) for level, label in choices] for shape in shapes]).reshape(
        len(shapes), len(choices)
    )
