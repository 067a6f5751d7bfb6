"""The plan of a table as text: what its cells share, then a line for each cell."""

from __future__ import annotations

from collections.abc import Iterator

from tune.common.words import counted
from tune.plan.plan import PlannedTrial
from tune.plan.table import TablePlan

SHARING = "  several trainings share a GPU, as only their errors count: the time below is of one after another"


def table_lines(plan: TablePlan) -> Iterator[str]:
    """The lines of a table's plan."""
    yield f"{plan.sweep.name}: {plan.sweep.question}"
    yield f"  device {plan.device.name}{' (assumed)' if plan.device.assumed else ''}"
    if any(not trial.config.train.read_test for trial in plan.trials):
        yield "  test set not read (--no-test)"
    else:
        yield "  the test set is read once, at the end of each training"
    if plan.device.device_type == "cuda":
        yield SHARING
    of_cell: dict[str, list[PlannedTrial]] = {}
    for trial in plan.trials:
        of_cell.setdefault(trial.arm, []).append(trial)
    can = sum(plan.why_not(trials[0]) is None for trials in of_cell.values())
    yield f"  {counted(len(of_cell), 'cell')}, {can} can run, {counted(len(plan.runnable), 'trial')}:"
    longest = max(map(len, of_cell))
    yield from (f"    {name} is downloaded first; without a network, {where}" for name, where in plan.awaited.items())
    yield from (f"    {cell.ljust(longest)}  {_cell(plan, trials)}" for cell, trials in of_cell.items())


def _cell(plan: TablePlan, trials: list[PlannedTrial]) -> str:
    first = trials[0]
    if (reason := plan.why_not(first)) is not None:
        return reason if first.unsupported is None else f"UNSUPPORTED: {reason}"
    config, seeds = first.config, [trial.seed for trial in trials]
    patience = "" if config.train.patience is None else f" at most (patience {config.train.patience})"
    of_seeds = f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {seeds[0]} to {seeds[-1]}"
    return (
        f"preset {config.model.preset}, {config.data.context_length} -> {config.data.prediction_length} steps, "
        f"{counted(config.train.epochs, 'epoch')}{patience}, batch {config.train.batch_size}, "
        f"{config.train.precision}, engine {config.train.engine}, attention {config.model.attention}, "
        f"layers {config.model.layers}; {of_seeds}"
    )
