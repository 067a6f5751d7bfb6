"""What a search does next: a function of its plan and its records, so that a killed driver goes on where it was.

    search   batches of shapes are trained for their error, until enough are, or one reaches the target
    probes   of the shapes that are not worse, some are timed in their usual way
    polish   the neighbours of the fastest cell are trained and timed, until none is faster; then the other backends
             of the shapes that are nearly as fast
    final    the baseline and the best cells run in pairs on seeds that the search has not seen

Planning-safe, except for Optuna.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from tune.driver.finalists import Candidate, Limit, able, error_limit, likely_fastest_first, reached
from tune.driver.polish import fastest, neighbour_cells, neighbour_shapes
from tune.driver.proposals import propose, random_first
from tune.driver.search_history import History, Timed
from tune.plan.cells import Labels
from tune.plan.plan import computation
from tune.plan.search_plan import SearchPlan
from tune.plan.shapes import EVERY_BACKEND, FINALISTS, PROBED_FIRST

MOST_BATCHES = 8  # of the search, also if few trials run at a time: each batch starts Tune once
SHORT = 0.5  # of a batch: fewer shapes than this are no batch of their own, which takes as long as a whole one
NEAR = 1.1  # a shape that takes longer than the fastest by this factor is not tried with other backends
CLEARLY = 1.15  # a way that was slower by this factor wherever it was timed is not timed again in another shape


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train these cells for the errors of their shapes."""

    cells: tuple[Labels, ...]
    polish: bool  # whether they are neighbours of the fastest cell
    batch: int  # from 1


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Time these cells."""

    cells: tuple[Labels, ...]


@dataclass(frozen=True, kw_only=True)
class Final:
    """Run these cells and the baseline in pairs; none if no trial gave a result."""

    cells: tuple[Labels, ...]


Step = Train | Probe | Final


def next_step(plan: SearchPlan, history: History, *, at_a_time: int, time_is_up: bool = False) -> Step:
    """The next step of the search.

    at_a_time: how many trials can be trained at a time. time_is_up: whether there is time for the final alone.
    """
    if open_trials := history.unfinished:
        first = open_trials[0]
        return Train(cells=tuple(each.cell for each in open_trials), polish=first.polish, batch=first.batch)
    if not time_is_up:
        if open_probes := history.open_probes:
            return Probe(cells=tuple(each.cell for each in open_probes))
        if step := _search(plan, history, at_a_time) or _probes(plan, history) or _polish(plan, history):
            return step
    return Final(cells=tuple(finalists(plan, history)))


def limit_of(plan: SearchPlan, history: History) -> Limit | None:
    """The largest error that is not worse; None if no trial gave one."""
    baseline = None if plan.baseline_cell is None else plan.shape_of(plan.baseline_cell)
    return error_limit(history.candidates, baseline=baseline, target=plan.target_val_mse)


def able_shapes(plan: SearchPlan, history: History) -> list[Candidate]:
    """The shapes whose error is not worse, the most accurate first."""
    return able(history.candidates, limit_of(plan, history))


def _search(plan: SearchPlan, history: History, at_a_time: int) -> Train | None:
    left = plan.draws - sum(not each.polish for each in history.trained)
    if left <= 0 or reached(history.candidates, plan.target_val_mse):
        return None
    count = max(at_a_time, math.ceil(plan.draws / MOST_BATCHES), 0 if history.trained else random_first(plan.draws))
    shapes = propose(plan, history, left if left <= count * (1 + SHORT) else count)
    return _train(plan, history, shapes, polish=False)


def _train(plan: SearchPlan, history: History, shapes: list[Labels], *, polish: bool) -> Train | None:
    cells = tuple(plan.error_cell(shape) for shape in shapes)
    return Train(cells=cells, polish=polish, batch=history.batches + 1) if cells else None


def _probes(plan: SearchPlan, history: History) -> Probe | None:
    """The usual cells of some shapes that the search has trained, and the baseline's own."""
    of_polish = {each.trial.trial_id for each in history.trained if each.polish}
    searched = [each for each in able_shapes(plan, history) if each.trial_id not in of_polish]
    usual = [plan.usual_cell(each.shape) for each in _first_shapes(plan, searched)]
    baseline = [] if plan.baseline_cell is None or not usual else [plan.baseline_cell]
    return _probe(plan, history, [*usual, *baseline])


def _first_shapes(plan: SearchPlan, searched: list[Candidate]) -> list[Candidate]:
    """PROBED_FIRST shapes of different work: the likely fastest ones, and the most accurate one."""
    by_work: dict[str, Candidate] = {}
    for each in [*likely_fastest_first(searched)]:
        by_work.setdefault(plan.work(each.shape), each)
    chosen = list(by_work.values())[:PROBED_FIRST]
    if searched and plan.work(searched[0].shape) not in [plan.work(each.shape) for each in chosen]:
        chosen[PROBED_FIRST - 1 :] = [searched[0]]
    return chosen


def _polish(plan: SearchPlan, history: History) -> Step | None:
    shapes = able_shapes(plan, history)
    timed = history.timed(shapes)
    best = fastest(timed)
    if best is None:
        return None
    beside = neighbour_shapes(plan, best.shape)
    untrained = _once(plan, [shape for shape in beside if not history.is_trained(shape)])
    if training := _train(plan, history, untrained, polish=True):
        return training
    way, not_worse, slow = plan.way_of(best.cell), {each.shape for each in shapes}, history.slow_ways(CLEARLY)
    moved = (plan.cell(shape, way) for shape in beside if shape in not_worse)
    cells = [cell if plan.can_run(cell) else plan.usual_cell(plan.shape_of(cell)) for cell in moved]
    cells += [cell for cell in neighbour_cells(plan, best.cell) if plan.way_of(cell) not in slow]
    if step := _probe(plan, history, cells):
        return step
    near = {each.shape: each.cell for each in sorted(timed, key=_by_time, reverse=True)
            if each.epoch_s <= NEAR * best.epoch_s}  # fmt: skip
    runners_up = [cell for cell in reversed(near.values()) if cell != best.cell][: EVERY_BACKEND - 1]
    others = (cell for own in runners_up for cell in neighbour_cells(plan, own, backend_only=True))
    return _probe(plan, history, [cell for cell in others if plan.way_of(cell) not in slow])


def _once(plan: SearchPlan, shapes: list[Labels]) -> list[Labels]:
    """The shapes without those that compute the same as an earlier one."""
    return list({plan.error_computation(shape): shape for shape in reversed(shapes)}.values())[::-1]


def _probe(plan: SearchPlan, history: History, cells: list[Labels]) -> Probe | None:
    """A step that times these cells, those of the same work in the same way once; None if all are probed."""
    new = {(plan.work(plan.shape_of(cell)), plan.way_of(cell)): cell for cell in reversed(cells)}
    left = [cell for cell in reversed(new.values()) if not history.is_probed(cell)]
    return Probe(cells=tuple(left)) if left else None


def _by_time(timed: Timed) -> tuple[float, float, Labels]:
    return timed.epoch_s, timed.val_mse, timed.cell


def finalists(plan: SearchPlan, history: History) -> list[Labels]:
    """At most FINALISTS cells for the final, no two with the same computation, and not the baseline.

    The fastest at an error that is not worse, the most accurate, and the next fastest of other shapes. If times are
    lacking, the likely fastest follow; if too few shapes are not worse, the next by error.
    """
    shapes = able_shapes(plan, history)
    timed = sorted(history.timed(shapes), key=_by_time)
    ways = {each.shape: each.cell for each in reversed(timed)}  # the fastest way of each shape
    done = [each for each in history.candidates if each.status == "done"] or history.candidates
    by_error = sorted(done, key=lambda each: (each.val_mse, each.trial_id))
    best = fastest(history.timed(shapes))
    order = [
        *([best.cell] if best else []),
        *(ways.get(each.shape) or plan.usual_cell(each.shape) for each in by_error[:1]),
        *dict.fromkeys(ways[each.shape] for each in timed),
        *(plan.usual_cell(each.shape) for each in [*likely_fastest_first(shapes), *by_error]),
    ]
    chosen: dict[Labels, Labels] = {}  # shape -> cell
    computed = {plan.baseline_computation()}
    for cell in order:
        own, shape = computation(plan.cell_trial(cell).config), plan.shape_of(cell)
        if own not in computed and shape not in chosen and len(chosen) < FINALISTS:
            chosen[shape] = cell
            computed.add(own)
    return list(chosen.values())
