"""The cells beside the fastest one: a search ends when none of them is faster at an error that is not worse.

Planning-safe.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

from tune.config.names import ATTENTION
from tune.driver.search_history import Timed
from tune.plan.cells import Labels
from tune.plan.search_plan import SearchPlan
from tune.plan.shapes import effort, middles, neighbours

RESOLUTION = 0.005  # of a probe: a cell is faster if its time is less by more than this


def fastest(timed: Sequence[Timed]) -> Timed | None:
    """The first of them than which no later one is faster by more than RESOLUTION; None if there is none."""
    best: Timed | None = None
    for each in timed:
        if best is None or each.epoch_s < best.epoch_s * (1 - RESOLUTION):
            best = each
    return best


def neighbour_shapes(plan: SearchPlan, shape: Labels) -> list[Labels]:
    """The shapes that can run and differ in one dimension by one step (tune.plan.shapes.neighbours).

    Those are left out that do more of the same work in as many steps: more tokens or more heads cannot be faster.
    """
    able = set(plan.shapes.every())
    beside = (each for each in _beside(plan, plan.shapes.dimensions, shape) if each in able)
    return [each for each in beside if not _is_slower(plan, each, shape)]


def _is_slower(plan: SearchPlan, shape: Labels, than: Labels) -> bool:
    (tokens, heads, steps), (own_tokens, own_heads, own_steps) = (
        effort(plan.cell_trial(plan.usual_cell(each)).config) for each in (shape, than)
    )
    more = (tokens, heads) != (own_tokens, own_heads) and tokens >= own_tokens and heads >= own_heads
    return more and steps == own_steps


def neighbour_cells(plan: SearchPlan, cell: Labels, *, backend_only: bool = False) -> list[Labels]:
    """The cells of the same shape that can run and differ in one dimension of the way by one step.

    Another feed counts with as many workers, and with its middle number of them.

    backend_only: leave out those that differ in anything else than the backend.
    """
    shape, way = plan.shape_of(cell), plan.way_of(cell)
    dimensions = [name for name in plan.ways if not backend_only or is_of_backends(plan, name)]
    beside = [*_beside(plan, plan.ways, way, dimensions), *_further(plan, way, dimensions)]
    cells = (plan.cell(shape, each) for each in dict.fromkeys(beside))
    return [each for each in cells if plan.can_run(each)]


def is_of_backends(plan: SearchPlan, dimension: str) -> bool:
    """Whether the choices of a dimension are backends and nothing else."""
    return all(choice.changes.keys() == {ATTENTION} for choice in plan.choices[dimension])


def _beside(
    plan: SearchPlan, dimensions: Sequence[str], labels: Labels, changed: Iterable[str] | None = None
) -> list[Labels]:
    chosen = dimensions if changed is None else changed
    moves = (
        (dimensions.index(name), other)
        for name in chosen
        for other in neighbours(plan.choices[name], labels[dimensions.index(name)])
    )
    return [_with(labels, level, other) for level, other in moves]


def _further(plan: SearchPlan, way: Labels, dimensions: Iterable[str]) -> list[Labels]:
    moves = ([(plan.ways.index(name), other) for other in middles(plan.choices[name], way[plan.ways.index(name)])]
             for name in dimensions)  # fmt: skip
    return [_with(way, level, other) for level, other in itertools.chain(*moves)]


def _with(labels: Labels, level: int, other: str) -> Labels:
    return (*labels[:level], other, *labels[level + 1 :])
