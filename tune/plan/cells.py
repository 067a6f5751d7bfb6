"""The cells of a search space: which can run, which cannot and why, and how one is drawn.

Planning-safe. A cell has one choice of each dimension. Every cell is planned once, so that a drawn cell can run: the
options of a dimension depend on the choices before it.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from tune.common.errors import WrongInput
from tune.common.words import counted
from tune.config.sweeps import Arm, SweepConfig
from tune.plan.plan import PlannedTrial

MOST_CELLS = 200_000
Labels = tuple[str, ...]  # one choice of each dimension, in the order of the space
Choose = Callable[[str, tuple[str, ...]], str]  # (name, options) -> one of the options


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Cells that cannot run, named by the fewest choices that they share."""

    choices: Mapping[str, str]  # dimension -> choice; empty if they share only the reason
    reason: str
    cells: int
    example: PlannedTrial | None  # None: the choices are no valid configuration together, so there is no trial

    @property
    def name(self) -> str:
        """As part of a trial id."""
        return "-".join(f"{dimension}-{choice}" for dimension, choice in self.choices.items()) or "other-cells"

    def line(self) -> str:
        what = ", ".join(f"{dimension}={choice}" for dimension, choice in self.choices.items()) or "others"
        return f"{what}: left out, {counted(self.cells, 'cell')}: {self.reason}"


@dataclass(frozen=True, kw_only=True)
class Space:
    """The cells that can run, as a tree with one level for each dimension."""

    dimensions: tuple[str, ...]
    tree: Mapping[str, Any]  # choice of the first dimension -> tree of the others; {} below the last
    offers: tuple[tuple[str, ...], ...]  # the longest list of options at each level
    cells: int  # that can run
    refusals: tuple[Refusal, ...]

    def draw(self, choose: Choose) -> Labels:
        """A cell that can run. Calls `choose` in the order of the dimensions, if more than one option is left.

        A name always has the same options: if earlier choices leave fewer options, the name lists them.
        """
        node, drawn = self.tree, []
        for level, dimension in enumerate(self.dimensions):
            options = tuple(node)
            name = dimension if options == self.offers[level] else f"{dimension}[{','.join(options)}]"
            drawn.append(options[0] if len(options) == 1 else choose(name, options))
            node = node[drawn[-1]]
        return tuple(drawn)

    def every(self) -> Iterator[Labels]:
        """All cells that can run."""
        return _leaves(self.tree, len(self.dimensions))


def _offers(tree: Mapping[str, Any], depth: int) -> tuple[tuple[str, ...], ...]:
    longest: list[tuple[str, ...]] = []
    level = [tree]
    for _ in range(depth):
        longest.append(max((tuple(node) for node in level), key=len))
        level = [child for node in level for child in node.values()]
    return tuple(longest)


def _leaves(tree: Mapping[str, Any], depth: int) -> Iterator[Labels]:
    if depth == 0:
        yield ()
        return
    for choice, below in tree.items():
        for rest in _leaves(below, depth - 1):
            yield (choice, *rest)


def build_space(sweep: SweepConfig, *, plan_cell: Callable[[Arm], PlannedTrial], seed: int) -> Space:
    """Plan every cell of the sweep's space. Raises WrongInput if none can run."""
    dimensions = tuple(sweep.space)
    tree: dict[str, Any] = {}
    refused: dict[Labels, tuple[str, PlannedTrial | None]] = {}
    cells, count = 0, prod(len(choices) for choices in sweep.space.values())
    if count > MOST_CELLS:
        raise WrongInput(
            f"the {sweep.name} sweep's space has {count:,} cells, at most {MOST_CELLS:,} can be looked at: give --over "
            "fewer values"
        )
    for labels in itertools.product(*([choice.label for choice in choices] for choices in sweep.space.values())):
        try:
            trial = plan_cell(sweep.drawn(dict(zip(dimensions, labels, strict=True))))
        except WrongInput as error:  # no valid configuration, such as a patch longer than the context
            refused[labels] = (str(error), None)
            continue
        if trial.unsupported:
            refused[labels] = (trial.unsupported, trial)
            continue
        cells += 1
        node = tree
        for label in labels:
            node = node.setdefault(label, {})
    if not cells:
        reason, _ = next(iter(refused.values()))
        raise WrongInput(f"no cell of the {sweep.name} sweep's space can run here, the first because: {reason}")
    refusals = _refusals(dimensions, refused, {name: len(choices) for name, choices in sweep.space.items()})
    named = (_as_trial(refusal, sweep.name, seed) for refusal in refusals)
    offers = _offers(tree, len(dimensions))
    return Space(dimensions=dimensions, tree=tree, offers=offers, cells=cells, refusals=tuple(named))


def _as_trial(refusal: Refusal, sweep: str, seed: int) -> Refusal:
    """The refusal with its example as the one trial that stands for all its cells."""
    if refusal.example is None:
        return refusal
    return replace(
        refusal,
        example=replace(refusal.example, trial_id=f"{sweep}-{refusal.name}-s{seed}", arm=refusal.name),
    )


def _refusals(
    dimensions: tuple[str, ...], refused: Mapping[Labels, tuple[str, PlannedTrial | None]], sizes: Mapping[str, int]
) -> list[Refusal]:
    """The refused cells by choice and pair of choices of which no cell can run; the others by reason."""
    groups = _all_refused(dimensions, refused, sizes)
    members: dict[tuple[int, ...], list[Labels]] = {}
    for cell in refused:
        members.setdefault(tuple(n for n, group in enumerate(groups) if _has(cell, group)), []).append(cell)
    refusals = []
    for number, group in enumerate(groups):
        cells = [cell for numbers, part in members.items() if number in numbers for cell in part]
        examples = members.get((number,), cells)  # cells that are refused for this alone give the best reason
        choices = {dimensions[level]: label for level, label in group.items()}
        refusals.append(_refusal(choices, examples, len(cells), refused))
    for reason in dict.fromkeys(refused[cell][0] for cell in members.get((), [])):
        cells = [cell for cell in members[()] if refused[cell][0] == reason]
        refusals.append(_refusal({}, cells, len(cells), refused))
    return refusals


def _all_refused(
    dimensions: tuple[str, ...], refused: Mapping[Labels, Any], sizes: Mapping[str, int]
) -> list[dict[int, str]]:
    """Single choices and then pairs (level -> choice) whose cells are all refused; no pair with a refused choice."""
    groups: list[dict[int, str]] = []
    for levels in [*itertools.combinations(range(len(dimensions)), 1), *itertools.combinations(range(len(sizes)), 2)]:
        total = prod(size for level, size in enumerate(sizes.values()) if level not in levels)
        counts = Counter(tuple(cell[level] for level in levels) for cell in refused)
        for labels, count in counts.items():
            group = dict(zip(levels, labels, strict=True))
            if count == total and not any(known.items() <= group.items() for known in groups):
                groups.append(group)
    return groups


def _has(cell: Labels, group: Mapping[int, str]) -> bool:
    return all(cell[level] == label for level, label in group.items())


def _refusal(
    choices: Mapping[str, str],
    examples: list[Labels],
    cells: int,
    refused: Mapping[Labels, tuple[str, PlannedTrial | None]],
) -> Refusal:
    reason, _ = Counter(refused[cell][0] for cell in examples).most_common(1)[0]
    example = next(refused[cell][1] for cell in examples if refused[cell][0] == reason)
    return Refusal(choices=choices, reason=reason, cells=cells, example=example)


def project(space: Space, dimensions: Sequence[str]) -> Space:
    """The space of these dimensions alone, in their order: what some cell that can run has of them."""
    levels = [space.dimensions.index(name) for name in dimensions]
    tree: dict[str, Any] = {}
    for cell in dict.fromkeys(tuple(cell[level] for level in levels) for cell in space.every()):
        node = tree
        for label in cell:
            node = node.setdefault(label, {})
    cells = sum(1 for _ in _leaves(tree, len(levels)))
    return Space(dimensions=tuple(dimensions), tree=tree, offers=_offers(tree, len(levels)), cells=cells, refusals=())
