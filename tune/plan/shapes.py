"""What a field of a cell decides: its error, or only its time. By that a search trains and probes as little as it can.

Planning-safe. A cell is a shape and a way. The shape decides the error: cells of one shape compute the same function
within the gate, so one of them is trained for all. The way decides, with the work of a step, the time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tune.config.sweeps import Arm
from tune.config.trial_config import TrialConfig
from tune.plan.plan import PlannedTrial

# How a cell runs: the gate holds its function to the reference's, whatever these are. Every other field decides the
# error, precision too.
KEEPS_FUNCTION = ("model.attention", "data.feed", "data.num_workers", "train.engine")
# A trial of at most so many steps is trained for its error without a compiler: compiling takes 31 to 46 s on an H200
# (docs/measurements.md). The limit is reckoned, not measured.
MOST_UNCOMPILED_STEPS = 3_000
PROBED_FIRST = 5  # shapes whose time is probed in their usual way, before any neighbour is
EVERY_BACKEND = 3  # shapes, the fastest ones, whose time is probed with every backend
FINALISTS = 3  # cells that run beside the baseline in the final


def is_way(choices: Iterable[Arm]) -> bool:
    """Whether a dimension with these choices leaves the function, and with it the error, as it is."""
    return all(name in KEEPS_FUNCTION for choice in choices for name in choice.changes)


def work_of(config: TrialConfig) -> str:
    """Equal for configurations whose steps, once all heads have left, do the same work: 12 hexadecimal digits.

    Which heads leave, and when, changes the error and not the time of such a step.
    """
    ignored = (*KEEPS_FUNCTION, "train.seed", "train.epochs")
    work = {
        name: value for name, value in config.flat().items() if name not in ignored and not name.startswith("pruning.")
    }
    text = json.dumps([work, config.pruning.heads_to_remove], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def steps_of(trial: PlannedTrial) -> int | None:
    """Steps of the whole training; None if the number of windows is not known."""
    train = trial.config.train
    return None if trial.train_windows is None else trial.train_windows // train.batch_size * train.epochs


def effort(config: TrialConfig) -> tuple[int, int, int]:
    """What a window costs, roughly: tokens x widths x layers, heads that stay, and steps for a million windows.

    Less in all three is less time; nothing is said of two configurations of which each is less in one of them.
    """
    model = config.model
    tokens = config.num_patches * model.num_layers * (model.d_model + model.ffn_dim)
    return tokens, model.num_heads - config.pruning.heads_to_remove, 1_000_000 // config.train.batch_size


def neighbours(choices: Sequence[Arm], label: str) -> list[str]:
    """The choices one step away from `label`: another value of one field, of a number the next one up or down.

    A choice without a field that others have, as no pruning has no number of heads, is one step from those with that
    field's least number.
    """
    here = next(choice for choice in choices if choice.label == label).changes
    return [other.label for other in choices if other.label != label and _one_step(choices, here, other.changes)]


def middles(choices: Sequence[Arm], label: str) -> list[str]:
    """Of each other combination of names, such as another feed, the choice in the middle by its numbers."""
    here = _names(next(choice for choice in choices if choice.label == label))
    groups: dict[str, list[Arm]] = {}
    for choice in choices:
        groups.setdefault(_names(choice), []).append(choice)
    ordered = (sorted(group, key=_sizes) for names, group in groups.items() if names != here)
    return [group[len(group) // 2].label for group in ordered]


def _names(choice: Arm) -> str:
    return json.dumps({name: value for name, value in choice.changes.items() if not _is_number(value)}, sort_keys=True)


def _sizes(choice: Arm) -> list[float]:
    return [value for value in choice.changes.values() if _is_number(value)]


def _one_step(choices: Sequence[Arm], here: Mapping[str, Any], there: Mapping[str, Any]) -> bool:
    if here.keys() != there.keys():
        fewer, more = sorted((here, there), key=len)
        least = {name: min(_numbers(choices, name)) for name in more.keys() - fewer.keys() if _numbers(choices, name)}
        return bool(least) and all(more[name] == value for name, value in least.items())
    changed = [name for name in here if here[name] != there[name]]
    if len(changed) != 1:
        return False
    (name,) = changed
    if not (_is_number(here[name]) and _is_number(there[name])):
        return True
    alike = sorted(
        choice.changes[name]
        for choice in choices
        if choice.changes.keys() == here.keys()
        and all(choice.changes[other] == here[other] for other in here if other != name)
        and _is_number(choice.changes[name])
    )
    return abs(alike.index(here[name]) - alike.index(there[name])) == 1


def _numbers(choices: Sequence[Arm], name: str) -> list[float]:
    return [choice.changes[name] for choice in choices if _is_number(choice.changes.get(name))]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
