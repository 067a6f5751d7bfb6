"""The space of a sweep that draws its arms: which cells can run, which cannot and why, and how a cell is drawn.

Planning-safe. A cell has one choice of each dimension. Every cell is planned once, so that a drawn cell can run: the
options of a dimension depend on the choices before it.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from math import prod
from typing import Any

from tune.common.errors import WrongInput
from tune.config.repeats import Repeats, blocks_text, most_blocks
from tune.config.sweeps import Arm, SweepConfig
from tune.config.trial_config import as_settings
from tune.machine.device import DeviceFacts
from tune.plan.data import UNREAD, DataFacts
from tune.plan.plan import Plan, PlannedTrial, computation, make_plan, plan_trial, settled_data, settled_layers

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
        return f"{what}: left out, {_counted(self.cells, 'cell')}: {self.reason}"


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


@dataclass(frozen=True, kw_only=True)
class SearchPlan(Plan):
    """A plan whose arms are drawn while it runs. `trials` are the final's, of which only the baseline's are known."""

    space: Space
    draws: int  # trials of the search
    overrides: Mapping[str, Any]  # the user's, and `settled`
    settled: Mapping[str, Any]  # fields given to all trials, so that they differ only in their choices
    seed: int  # of the search; the final has the `repeats` seeds after it
    baseline_cell: Labels | None  # runs first; None: the baseline is not a cell that can run

    def key(self, *, data_sha256: str, tracking_uri: str, paths: Mapping[str, str] | None = None) -> str:
        """As for a plan, with the number of draws and the cells that can run."""
        every = hashlib.sha256(json.dumps(self.space.tree).encode()).hexdigest()
        content = [super().key(data_sha256=data_sha256, tracking_uri=tracking_uri, paths=paths), self.draws, every]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]

    def arm(self, labels: Labels) -> Arm:
        """The arm that these choices make."""
        return self.sweep.drawn(dict(zip(self.space.dimensions, labels, strict=True)))

    def settings(self, arm: Arm) -> str:
        """The options that train this arm as it ran here, in addition to the sweep's overrides."""
        return as_settings({**arm.changes, **self.settled})

    @property
    def baseline_trial(self) -> str | None:
        """Id of the baseline's trial in the search; None if it has none."""
        return None if self.baseline_cell is None else self.search_trial(self.baseline_cell, 1).trial_id

    def baseline_computation(self) -> tuple[Any, ...]:
        """What the baseline computes with the seed of the search."""
        arm = next(arm for arm in self.sweep.arms if arm.label == self.sweep.baseline)
        return computation(plan_trial(self.sweep, arm, self.overrides, self.seed, self.device, self.data).config)

    def search_trial(self, labels: Labels, number: int) -> PlannedTrial:
        """The `number`-th trial of the search, from 1."""
        name, arm = f"search-{number:03d}", self.arm(labels)
        planned = plan_trial(self.sweep, arm, self.overrides, self.seed, self.device, self.data)
        return replace(planned, trial_id=f"{self.sweep.name}-{name}-s{self.seed}", arm=f"{name}-{arm.label}")


def plan_sweep(
    sweep: SweepConfig,
    *,
    draws: int | None,
    overrides: Mapping[str, Any],
    repeats: Repeats,
    seed: int,
    device: DeviceFacts,
    data: DataFacts = UNREAD,
) -> Plan:
    """`make_plan` for a sweep of fixed arms; a SearchPlan of `draws` trials for a sweep with a space.

    Raises WrongInput as `make_plan` does, and if no cell of the space can run.
    """
    data = settled_data(sweep, overrides, device, data)
    given: dict[str, Any] = {"overrides": overrides, "repeats": repeats, "device": device, "data": data}
    if not sweep.space:
        return make_plan(sweep, seed=seed, **given)
    plan, space, settled = _settle(sweep, seed, **given)
    refused = [refusal.example for refusal in space.refusals if refusal.example]
    plan_fields = {field.name: getattr(plan, field.name) for field in fields(Plan)}
    search_plan = SearchPlan(
        **plan_fields | {"trials": (*plan.trials, *refused)},
        space=space,
        draws=draws or 1,
        overrides={**overrides, **settled},
        settled=settled,
        seed=seed,
        baseline_cell=_cell_of(plan.sweep, space),
    )
    return search_plan if _computes_the_baseline(search_plan) else replace(search_plan, baseline_cell=None)


def _settle(
    sweep: SweepConfig,
    seed: int,
    *,
    overrides: Mapping[str, Any],
    repeats: Repeats,
    device: DeviceFacts,
    data: DataFacts,
) -> tuple[Plan, Space, dict[str, str]]:
    """The final's plan and the space, with the same layers in all trials that can run, and the field that sets them.

    Cells are planned one by one, and so are search and final: `auto` layers could differ between them.
    """
    given: dict[str, Any] = {"repeats": repeats, "device": device, "data": data}
    planned: dict[str, PlannedTrial] = {}  # kind of layers -> a cell that can run

    def build(overrides: Mapping[str, Any]) -> tuple[Plan, Space]:
        plan = make_plan(sweep, seed=final_seed(seed, repeats), overrides=overrides, **given)

        def plan_cell(arm: Arm) -> PlannedTrial:
            trial = plan_trial(sweep, arm, overrides, seed, device, data)
            if trial.unsupported is None:
                planned.setdefault(trial.config.model.layers, trial)
            return trial

        return plan, build_space(sweep, plan_cell=plan_cell, seed=seed)

    plan, space = build(overrides)
    settled = settled_layers([*plan.runnable, *planned.values()], sweep, overrides)
    return (*(build({**overrides, **settled}) if settled else (plan, space)), settled)


def final_seed(seed: int, repeats: Repeats) -> int:
    """The first seed of the final: the one after the search's, which has chosen the arms. WrongInput out of range."""
    if seed < 0 or seed + most_blocks(repeats) >= 2**31:
        raise WrongInput(
            f"--seed {seed} with --repeats {repeats}: the final has the seeds after the search's; seeds go from 0 to "
            f"{2**31 - 1}"
        )
    return seed + 1


def _cell_of(sweep: SweepConfig, space: Space) -> Labels | None:
    """The runnable cell whose choices are all the baseline's."""
    changes = next(arm for arm in sweep.arms if arm.label == sweep.baseline).changes
    node, labels = space.tree, []
    for name in space.dimensions:
        same = [choice.label for choice in sweep.space[name] if choice.changes.items() <= changes.items()]
        if not same or same[0] not in node:
            return None
        labels.append(same[0])
        node = node[same[0]]
    return tuple(labels)


def _computes_the_baseline(plan: SearchPlan) -> bool:
    cell = plan.baseline_cell
    return cell is not None and computation(plan.search_trial(cell, 1).config) == plan.baseline_computation()


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


def describe(plan: SearchPlan) -> list[str]:
    """The space in words: the options of each dimension, invalid combinations, the numbers of cells and trials.

    Unsupported cells are among the plan's trials.
    """
    space = plan.space
    return [
        "  space",
        *(f"    {name}: {', '.join(choice.label for choice in choices)}" for name, choices in plan.sweep.space.items()),
        *(f"    all: {name}={value}, as auto would differ between cells" for name, value in plan.settled.items()),
        *(f"    {refusal.line()}" for refusal in space.refusals if refusal.example is None),
        f"  search: {_counted(min(plan.draws, space.cells), 'trial')} of the {_counted(space.cells, 'cell')} that can "
        f"run, seed {plan.seed}{', the baseline first' if plan.baseline_cell else ''}, the worse ones stopped early; "
        f"then the best and the baseline again in {blocks_text(plan.repeats)}, with seeds of their own:",
    ]


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
