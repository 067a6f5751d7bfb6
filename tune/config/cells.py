"""Which cells of a table run: `--only DATASET,DATASET-HORIZON`, and how often each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tune.common.errors import WrongInput, unknown_name
from tune.config.arms import Arm, SweepConfig
from tune.config.repeats import AUTO, Repeats

DATASET = "data.dataset"


def with_cells(sweep: SweepConfig, only: Sequence[str] | None) -> SweepConfig:
    """The table with the cells that `only` names: a cell, or a data set for all of its cells. None: the usual ones.

    Raises WrongInput for a name that is neither, for one given twice, and for a sweep that is no table.
    """
    if only is None:
        return sweep
    given = f"--only {','.join(only)}"
    if not sweep.table:
        raise WrongInput(
            f"{given}: it chooses cells of a table, as the benchmark sweep has; the {sweep.name} sweep runs all of its "
            "arms; leave it out"
        )
    every = (*sweep.arms, *sweep.more)
    wanted: set[str] = set()
    for word in only:
        found = {arm.label for arm in every if word in (arm.label, arm.changes[DATASET])}
        if not found:
            raise unknown_name("data set or cell", word, [*_datasets(every), *(arm.label for arm in every)])
        if found <= wanted:
            raise WrongInput(f"{given}: {word} is given twice; leave one out")
        wanted |= found
    arms = tuple(arm for arm in every if arm.label in wanted)
    return replace(sweep, arms=arms, more=(), baseline=arms[0].label)


def _datasets(arms: Sequence[Arm]) -> list[str]:
    return list(dict.fromkeys(arm.changes[DATASET] for arm in arms))


def read_cells(text: str) -> list[str]:
    """The names in `NAME,NAME`. Raises WrongInput for an empty one."""
    names = [name.strip() for name in text.split(",")]
    if "" in names:
        raise WrongInput(f"'{text}': a name is empty; write a data set or a cell, such as ETTh1,ETTm1-96")
    return names


def with_repeats(sweep: SweepConfig, given: Repeats | None) -> tuple[SweepConfig, Repeats, str]:
    """The table with so many trainings of each cell, the most of any cell, and what is wrong with what was given."""
    if given == AUTO:
        return sweep, AUTO, f"--repeats {AUTO}: it stops arms that were compared enough, and a table compares none"
    if given is None:
        return sweep, max(arm.repeats or 1 for arm in sweep.arms), ""
    if given < 1:
        return sweep, given, f"--repeats {given}: give 1 or more"
    return replace(sweep, arms=tuple(replace(arm, repeats=given) for arm in sweep.arms)), given, ""
