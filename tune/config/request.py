"""What to run: the command line and the configuration file, merged into one checked Request.

Planning-safe. The command line wins over the file, field by field; `Request.notes` says where.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_pipeline.datasets import is_path
from data_pipeline.errors import DataError
from data_pipeline.split_rule import with_absolute_files
from tune.common.errors import WrongInput
from tune.config.axes import check_axis, lay_over, split_values
from tune.config.sweeps import SweepConfig, get_sweep
from tune.config.trial_config import SEED_STUDY_ONLY, check_field, is_text, parse_value
from tune.config.yaml_file import read_config

DRAWN, MOST_DRAWN = 50, 10_000  # trials of a sweep with a space: the default, and the most
OPTIONS: tuple[str, ...] = ("sweep", "seed", "repeats", "trials")  # options that are not fields
REPEATS = 5  # of each arm if arms are compared, the default
SHORT = {"dataset": "data.dataset", "epochs": "train.epochs"}  # fields with their own option


@dataclass(frozen=True, kw_only=True)
class Request:
    """What one command asks to run."""

    sweep: SweepConfig  # with the axes of --over
    overrides: Mapping[str, Any]  # field -> value, for every arm
    axes: Mapping[str, tuple[Any, ...]]  # field -> values of --over
    repeats: int
    seed: int
    trials: int | None  # how many arms are drawn from the sweep's space; None if it has no space
    notes: tuple[str, ...] = ()  # what the user should know about the merge, a line each

    def as_config(self) -> dict[str, Any]:
        """The same request in the form of a configuration file."""
        fields = dict(self.overrides)
        given: dict[str, Any] = {"sweep": self.sweep.name}
        given |= {key: fields.pop(name) for key, name in SHORT.items() if name in fields}
        given |= {"seed": self.seed, "repeats": self.repeats}
        if self.trials is not None:
            given["trials"] = self.trials
        if fields:
            given["set"] = fields
        if self.axes:
            given["over"] = {name: list(values) for name, values in self.axes.items()}
        return given


@dataclass(frozen=True, kw_only=True)
class _Given:
    """What one source gives: the command line or the file."""

    options: dict[str, Any] = field(default_factory=dict)  # sweep, seed, repeats, trials
    fields: dict[str, Any] = field(default_factory=dict)
    axes: dict[str, tuple[Any, ...]] = field(default_factory=dict)


def build_request(arguments: argparse.Namespace) -> Request:
    """The request of parsed arguments (sweep, dataset, epochs, set, over, seed, repeats, trials, config).

    Raises WrongInput for everything that can be known to be wrong without a device.
    """
    from_arguments = _read_arguments(arguments)
    from_file = _read_file(arguments.config) if arguments.config is not None else _Given()
    replaced = _replaced(from_file, from_arguments)
    fields = {
        name: value for name, value in from_file.fields.items() if name not in from_arguments.axes
    } | from_arguments.fields
    axes = {
        name: value for name, value in from_file.axes.items() if name not in from_arguments.fields
    } | from_arguments.axes
    options = {"seed": 1, "trials": None, **from_file.options, **from_arguments.options}
    if "sweep" not in options:
        raise WrongInput("the following arguments are required: --sweep (see --help)")
    sweep = get_sweep(options["sweep"])
    sweep = lay_over(sweep, axes) if axes else sweep
    usual = REPEATS if sweep.space or len(sweep.arms) > 1 else 1
    repeats = options.get("repeats", sweep.repeats or usual)
    if repeats < 1:
        raise WrongInput(f"--repeats {repeats}: give 1 or more")
    note = f"--config {arguments.config}: the command line's {', '.join(replaced)} is used instead of the file's"
    return Request(
        sweep=sweep,
        overrides=fields,
        axes=axes,
        repeats=repeats,
        seed=options["seed"],
        trials=_trials(options["trials"], sweep),
        notes=(note,) if replaced else (),
    )


def _read_arguments(arguments: argparse.Namespace) -> _Given:
    options = {name: getattr(arguments, name) for name in OPTIONS}
    fields = {name: getattr(arguments, key) for key, name in SHORT.items() if getattr(arguments, key) is not None}
    for item in arguments.set:
        name, text = _split("--set", item, "FIELD=VALUE, for example --set model.d_model=64")
        if check_field(name) in fields:
            raise WrongInput(f"--set {item}: {name} is given twice")
        fields[name] = parse_value(name, text)
    axes: dict[str, tuple[Any, ...]] = {}
    for item in arguments.over:
        name, text = _split("--over", item, "FIELD=VALUE,VALUE, for example --over model.d_model=64,128")
        if check_field(name) in axes:
            raise WrongInput(f"--over {item}: {name} is given twice")
        parts = split_values(text)
        if "" in parts:
            raise WrongInput(f"--over {item}: a value is empty; write FIELD=VALUE,VALUE")
        axes[name] = check_axis(name, [parse_value(name, part) for part in parts])
    return _checked({name: value for name, value in options.items() if value is not None}, fields, axes)


def _split(option: str, item: str, form: str) -> tuple[str, str]:
    name, separator, text = item.partition("=")
    if not separator:
        raise WrongInput(f"{option} {item}: write {form}")
    return name, text


def _read_file(path: Path) -> _Given:
    content = read_config(path)
    fields = {name: content[key] for key, name in SHORT.items() if key in content}
    try:
        for name, value in content.get("set", {}).items():
            if check_field(name) in fields:
                raise WrongInput(f"{name} is given twice, by its own key and under set")
            fields[name] = _from_yaml(name, value)
        dataset = fields.get("data.dataset")
        if isinstance(dataset, str) and is_path(dataset):
            fields["data.dataset"] = str(path.absolute().parent / os.path.expanduser(dataset))
        fields = _with_absolute_split(fields, path.absolute().parent)
        axes = {
            name: check_axis(name, [_from_yaml(name, value) for value in values])
            for name, values in content.get("over", {}).items()
        }
        options = {name: content[name] for name in OPTIONS if name in content}
        return _checked(options, fields, axes)
    except WrongInput as error:
        raise WrongInput(f"--config {path}: {error}") from None


def _from_yaml(name: str, value: Any) -> Any:
    """YAML 1.1 reads 1e-4 as a text; its number is 1.0e-4. So texts are parsed as on the command line."""
    return parse_value(check_field(name), value) if isinstance(value, str) and not is_text(name) else value


def _checked(options: dict[str, Any], fields: dict[str, Any], axes: dict[str, tuple[Any, ...]]) -> _Given:
    for name in sorted(SEED_STUDY_ONLY & (fields.keys() | axes.keys())):
        raise WrongInput(
            f"{name} is given, which only arms of the seed_study sweep have, as their tag says; leave it out, or use "
            "--sweep seed_study"
        )
    for name in axes:
        if name in fields:
            raise WrongInput(f"{name} is both set and an axis of --over; leave one of the two out")
    dataset = fields.get("data.dataset")
    if isinstance(dataset, str) and is_path(dataset):  # a trial has another current directory
        fields = fields | {"data.dataset": str(Path(os.path.expanduser(dataset)).absolute())}
    fields = _with_absolute_split(fields, Path())
    return _Given(options=options, fields=fields, axes=axes)


def _with_absolute_split(fields: dict[str, Any], folder: Path) -> dict[str, Any]:
    """`fields` with the files of data.split made absolute from `folder`, if it names any."""
    split = fields.get("data.split")
    if not isinstance(split, str):
        return fields  # checked where all fields are
    try:
        return fields | {"data.split": with_absolute_files(split, folder)}
    except DataError as error:
        raise WrongInput(str(error)) from None


def _replaced(from_file: _Given, from_arguments: _Given) -> list[str]:
    """The options and fields that both the file and the command line give."""
    options = [f"--{name}" for name in from_arguments.options if name in from_file.options]
    theirs, ours = from_file.fields | from_file.axes, from_arguments.fields | from_arguments.axes
    return options + [name for name in ours if name in theirs]


def _trials(given: int | None, sweep: SweepConfig) -> int | None:
    if not sweep.space:
        if given is None:
            return None
        raise WrongInput(
            f"--trials {given}: for a sweep that draws its trials, as full does; the {sweep.name} sweep has its own; "
            "leave it out"
        )
    if given is not None and not 1 <= given <= MOST_DRAWN:
        raise WrongInput(f"--trials {given}: give 1 to {MOST_DRAWN}")
    return DRAWN if given is None else given
