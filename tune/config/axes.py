"""`--over FIELD=V1,V2`: axes added to any sweep.

Every arm of the sweep runs at every combination of the axes' values. There is one baseline for all ratios: the sweep's
own baseline arm at the first value of each axis.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from data_pipeline.options import OPTION_NAMES
from tune.common.errors import WrongInput, shortened
from tune.config.sweeps import Arm, SweepConfig
from tune.config.trial_config import FIELDS, check_field

MOST_ARMS = 10_000
LONGEST_LABEL = 120  # it is part of a trial's id, whose length the tracking store and file names limit
_LONGEST_VALUE = 40
# Fields that belong to the sweep as a whole -> what to do instead
NO_AXES = {
    "train.seed": "use --seed and --repeats",
} | {
    f"data.{name}": "a sweep runs on one data set; run one sweep for each" for name in ("dataset", *OPTION_NAMES)
}  # fmt: skip
# Fields that the trials of one search must share, because it ranks them by one error
NO_DIMENSIONS = {
    "train.epochs": "errors after trainings of different length cannot be compared",
    "data.prediction_length": "errors at different horizons are of different tasks",
}


def split_values(text: str) -> list[str]:
    """The parts of `V1,V2,...`. Commas inside brackets or double quotes do not separate."""
    parts, depth, quoted = [""], 0, False
    for letter in text:
        quoted ^= letter == '"'
        depth += 0 if quoted else (letter in "[{") - (letter in "]}")
        if letter == "," and not quoted and depth <= 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def check_axis(name: str, values: Sequence[Any]) -> tuple[Any, ...]:
    """The values of one axis. Raises WrongInput for a field that cannot vary, too many values, and one twice.

    The values fit the field (tune.config.values.checked), so lists in them hold no lists.
    """
    given = f"--over {name}={shortened(','.join(_text(value) for value in values[:LONGEST_LABEL]))}"
    if check_field(name) in NO_AXES:
        raise WrongInput(f"{given}: {NO_AXES[name]}")
    if not values:
        raise WrongInput(f"{given}: give one value or more, for example --over model.d_model=64,128")
    if len(values) > MOST_ARMS:
        raise WrongInput(f"{given}: {len(values):,} values; a sweep has at most {MOST_ARMS:,} arms: give fewer")
    seen = set()
    for value in values:
        same = tuple(value) if isinstance(value, list) else value
        if same in seen:
            raise WrongInput(f"{given}: {_text(value)} is given twice; leave one out")
        seen.add(same)
    return tuple(values)


def lay_over(sweep: SweepConfig, axes: Mapping[str, Sequence[Any]]) -> SweepConfig:
    """`sweep` with its arms at every combination of the axes. In a sweep with a space each axis is a new dimension.

    Raises WrongInput for a field that the sweep itself changes, a field of NO_DIMENSIONS in a sweep with a space, more
    than MOST_ARMS arms, and labels that become too long.
    """
    for name in axes:
        if name in sweep.swept:
            raise WrongInput(
                f"--over {name}: the {sweep.name} sweep changes it itself; leave it out, or use --sweep custom"
            )
    count = len(sweep.arms)
    for values in axes.values():
        count *= len(values)
    if count > MOST_ARMS:
        raise WrongInput(f"--over: {count:,} arms; a sweep has at most {MOST_ARMS:,}: give fewer axes or values")
    if sweep.space:
        return _into_space(sweep, axes)
    combinations = [_combine(parts) for parts in itertools.product(*(_axis(*item) for item in axes.items()))]
    arms = tuple(_combine((arm, point)) if axes else arm for arm in sweep.arms for point in combinations)
    first = next(index for index, arm in enumerate(sweep.arms) if arm.label == sweep.baseline) * len(combinations)
    _check_label(max((arm.label for arm in arms), key=len))
    at_first = {arm.label: arms[index * len(combinations)].label for index, arm in enumerate(sweep.arms)}
    ablation = (replace(step, before=at_first[step.before], after=at_first[step.after]) for step in sweep.ablation)
    return replace(sweep, arms=arms, baseline=arms[first].label, ablation=tuple(ablation))


def _check_label(longest: str) -> None:
    if len(longest) > LONGEST_LABEL:
        raise WrongInput(
            f"--over: the arm {longest} has a name of {len(longest)} letters, at most {LONGEST_LABEL} fit; "
            "give fewer axes"
        )


def _into_space(sweep: SweepConfig, axes: Mapping[str, Sequence[Any]]) -> SweepConfig:
    for name in axes:
        if name in NO_DIMENSIONS:
            raise WrongInput(
                f"--over {name}: the {sweep.name} sweep searches, and {NO_DIMENSIONS[name]}; run one search for each"
            )
    points = {name: _axis(name, values) for name, values in axes.items()}
    dimensions = (*sweep.space.values(), *points.values())
    _check_label("-".join(max((choice.label for choice in choices), key=len) for choices in dimensions))
    first = {name: values[0] for name, values in axes.items()}
    arms = tuple(replace(arm, changes={**arm.changes, **first}) for arm in sweep.arms)
    return replace(sweep, arms=arms, space={**sweep.space, **points})


def _axis(name: str, values: Sequence[Any]) -> tuple[Arm, ...]:
    labels: list[str] = []
    for value in values:
        label = f"{_short(name)}={_label(value)}"
        labels.append(label if label not in labels else f"{label}.{len(labels) + 1}")
    return tuple(Arm(label=label, changes={name: value}) for label, value in zip(labels, values, strict=True))


def _combine(parts: Sequence[Arm]) -> Arm:
    """One arm with all changes. Its label leaves out arms that change nothing."""
    changes = {name: value for part in parts for name, value in part.changes.items()}
    label = "-".join(part.label for part in parts if part.changes)
    return Arm(label=label, changes=changes, repeats=parts[0].repeats if parts else None)


def _short(name: str) -> str:
    """The field's name, without its group unless another group has a field of that name."""
    last = name.split(".", 1)[1]
    return last if sum(field.endswith(f".{last}") for field in FIELDS) == 1 else name


def _label(value: Any) -> str:
    """A value in letters that are allowed in file names, run names and metric names."""
    text = re.sub(r"[^A-Za-z0-9.]+", "_", _text(value)).strip("_")
    return text[-_LONGEST_VALUE:] or "_"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
