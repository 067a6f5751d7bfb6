"""What to run: the command line and the configuration file, merged into one checked Request.

Planning-safe. The command line wins over the file, field by field; `Request.notes` says where.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_pipeline.errors import DataError
from data_pipeline.split_rule import with_absolute_files
from tune.common.errors import WrongInput
from tune.config.axes import check_axis, lay_over, split_values
from tune.config.cells import with_cells, with_repeats
from tune.config.portable import DATASET, absolute, in_full, names_file, portable
from tune.config.repeats import AUTO, Repeats
from tune.config.sweeps import SweepConfig, get_sweep
from tune.config.trial_config import READ_TEST, SEED_STUDY_ONLY, check_field
from tune.config.values import checked, parse_value
from tune.config.yaml_file import SHORT, ConfigFile, read_config

DRAWN, MOST_DRAWN = 50, 10_000  # trials of a sweep with a space: the default, and the most
# options that are not fields
OPTIONS: tuple[str, ...] = ("sweep", "seed", "repeats", "only", "trials", "minutes", "target_val_mse")


@dataclass(frozen=True, kw_only=True)
class Request:
    """What one command asks to run."""

    sweep: SweepConfig  # with the axes of --over
    overrides: Mapping[str, Any]  # field -> value, for every arm
    axes: Mapping[str, tuple[Any, ...]]  # field -> values of --over
    repeats: Repeats
    seed: int
    trials: int | None  # how many shapes of the sweep's space are trained; None if it has no space
    minutes: float | None = None  # after which nothing begins any more; None: no limit. Not of the sweep: of a command
    target_val_mse: float | None = None  # a validation error that ends a search
    only: tuple[str, ...] | None = None  # data sets and cells of a table that run; None: the usual ones
    notes: tuple[str, ...] = ()  # what the user should know about the merge, a line each
    # absolute path of a data file -> as given, if in full
    written: Mapping[str, str] = field(default_factory=dict, compare=False)

    def as_config(self, folder: Path | None = None) -> dict[str, Any]:
        """The same request in the form of a configuration file in `folder`; None: with absolute paths."""
        fields = dict(self.overrides) if folder is None else portable(self.overrides, folder, self.written)
        given: dict[str, Any] = {"sweep": self.sweep.name}
        given |= {key: fields.pop(name) for key, name in SHORT.items() if name in fields}
        given |= {"seed": self.seed, "repeats": self.repeats}
        if any(arm.repeats not in (None, self.repeats) for arm in self.sweep.arms):
            del given["repeats"]  # each cell of a table has its own
        if self.only is not None:
            given["only"] = ",".join(self.only)
        if self.trials is not None:
            given["trials"] = self.trials
        if self.minutes is not None:
            given["minutes"] = self.minutes
        if self.target_val_mse is not None:
            given["target_val_mse"] = self.target_val_mse
        if fields:
            given["set"] = fields
        if self.axes:
            given["over"] = {name: list(values) for name, values in self.axes.items()}
        return given


@dataclass(frozen=True, kw_only=True)
class _Given:
    """What one source gives: the command line or the file."""

    options: dict[str, Any] = field(default_factory=dict)  # by the names in OPTIONS
    fields: dict[str, Any] = field(default_factory=dict)
    axes: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    written: dict[str, str] = field(default_factory=dict)  # as in Request


def build_request(arguments: argparse.Namespace, file: ConfigFile | None = None) -> Request:
    """The request of parsed arguments: the options of "what to run".

    file: what `arguments.config` holds, if it was read before: a pipe can be read only once.
    Raises WrongInput for everything that can be known to be wrong without a device.
    """
    from_arguments = _read_arguments(arguments)
    if file is None and arguments.config is not None:
        file = read_config(arguments.config)
    from_file = _Given() if file is None else _from_file(file)
    replaced = _replaced(from_file, from_arguments)
    fields = {
        name: value for name, value in from_file.fields.items() if name not in from_arguments.axes
    } | from_arguments.fields
    axes = {
        name: value for name, value in from_file.axes.items() if name not in from_arguments.fields
    } | from_arguments.axes
    options: dict[str, Any] = dict.fromkeys(("seed", "only", "trials", "minutes", "target_val_mse"))
    options |= {**from_file.options, **from_arguments.options}

    def fault(name: str, message: str) -> WrongInput:
        from_there = file is not None and name in file.content and name not in from_arguments.options
        return file.fault(name, message) if file is not None and from_there else WrongInput(message)

    if "sweep" not in options:
        hint = "" if file is None else f", or `sweep: NAME` in {file.path}"
        raise WrongInput(f"the following arguments are required: --sweep (see --help){hint}")
    sweep = get_sweep(options["sweep"])
    try:
        sweep = with_cells(sweep, options["only"])
    except WrongInput as error:
        raise fault("only", str(error)) from None
    try:
        sweep = lay_over(sweep, axes) if axes else sweep
    except WrongInput as error:
        raise fault("over", str(error)) from None
    if sweep.table:
        sweep, repeats, wrong = with_repeats(sweep, options.get("repeats"))
    else:
        repeats, wrong = _repeats(options.get("repeats"), sweep)
    if wrong:
        raise fault("repeats", wrong)
    trials, wrong = _trials(options["trials"], sweep)
    if wrong:
        raise fault("trials", wrong)
    if (minutes := options["minutes"]) is not None and not 0 < minutes < math.inf:
        raise fault("minutes", f"--minutes {minutes:g}: give a number above 0, for example 30")
    if wrong := _wrong_target(options["target_val_mse"], sweep):
        raise fault("target_val_mse", wrong)
    note = f"--config {arguments.config}: the command line's {', '.join(replaced)} is used instead of the file's"
    return Request(
        sweep=sweep,
        overrides=fields,
        axes=axes,
        repeats=repeats,
        seed=sweep.seed if options["seed"] is None else options["seed"],
        trials=trials,
        minutes=options["minutes"],
        target_val_mse=options["target_val_mse"],
        only=None if options["only"] is None else tuple(options["only"]),
        notes=(note,) if replaced else (),
        written={**from_file.written, **from_arguments.written},
    )


def _read_arguments(arguments: argparse.Namespace) -> _Given:
    options = {name: getattr(arguments, name) for name in OPTIONS}
    fields = {name: getattr(arguments, key) for key, name in SHORT.items() if getattr(arguments, key) is not None}
    fields = {name: checked(name, value) for name, value in fields.items()}
    if arguments.no_test:
        fields[READ_TEST] = False
    texts: dict[str, str] = {}
    for item in arguments.set:
        name, text = _split("--set", item, "FIELD=VALUE, for example --set model.d_model=64")
        if check_field(name) in fields or name in texts:
            raise WrongInput(f"--set {item}: {name} is given twice")
        texts[name] = text
    lists: dict[str, list[str]] = {}
    for item in arguments.over:
        name, text = _split("--over", item, "FIELD=VALUE,VALUE, for example --over model.d_model=64,128")
        if check_field(name) in lists:
            raise WrongInput(f"--over {item}: {name} is given twice")
        lists[name] = split_values(text)
        if "" in lists[name]:
            raise WrongInput(f"--over {item}: a value is empty; write FIELD=VALUE,VALUE")
    fields |= {name: checked(name, parse_value(name, text)) for name, text in texts.items()}
    axes = {
        name: check_axis(name, [checked(name, parse_value(name, text)) for text in parts])
        for name, parts in lists.items()
    }
    for _, message in _faults(fields, axes):
        raise WrongInput(message)
    return _Given(
        options={name: value for name, value in options.items() if value is not None},
        fields=_with_absolute_paths(fields, Path()),
        axes=axes,
        written=in_full(fields, Path()),
    )


def _split(option: str, item: str, form: str) -> tuple[str, str]:
    name, separator, text = item.partition("=")
    if not separator:
        raise WrongInput(f"{option} {item}: write {form}")
    return name, text


def _from_file(file: ConfigFile) -> _Given:
    content, folder = file.content, file.path.absolute().parent
    fields = {name: content[key] for key, name in SHORT.items() if key in content} | content.get("set", {})
    axes = {name: tuple(values) for name, values in content.get("over", {}).items()}
    for name, message in _faults(fields, axes):
        raise file.fault(name, message)
    return _Given(
        options={name: content[name] for name in OPTIONS if name in content},
        fields=_with_absolute_paths(fields, folder),
        axes=axes,
        written=in_full(fields, folder),
    )


def _faults(fields: Mapping[str, Any], axes: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The fields that one source cannot give in this way, and why."""
    only = "which only arms of the seed_study sweep have, as their tag says; leave it out, or use --sweep seed_study"
    for name in sorted(SEED_STUDY_ONLY & (fields.keys() | axes.keys())):
        yield name, f"{name} is given, {only}"
    if READ_TEST in axes:
        yield READ_TEST, f"{READ_TEST} is an axis of --over, but no arm differs by it; give --no-test, or leave it out"
    for name in axes:
        if name in fields:
            yield name, f"{name} is both set and an axis of --over; leave one of the two out"


def _with_absolute_paths(fields: dict[str, Any], folder: Path) -> dict[str, Any]:
    """`fields` with paths of data files from `folder`: a trial has another current directory."""
    if names_file(fields.get(DATASET), folder):
        fields = fields | {DATASET: absolute(fields[DATASET], folder)}
    return _with_absolute_split(fields, folder)


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
    options = [f"--{name.replace('_', '-')}" for name in from_arguments.options if name in from_file.options]
    theirs, ours = from_file.fields | from_file.axes, from_arguments.fields | from_arguments.axes
    return options + [name for name in ours if name in theirs]


def _repeats(given: Repeats | None, sweep: SweepConfig) -> tuple[Repeats, str]:
    """How often each arm runs, and what is wrong with what was given."""
    compares = bool(sweep.space) or len(sweep.arms) > 1
    repeats = given if given is not None else sweep.repeats or (AUTO if compares else 1)
    if repeats == AUTO:
        wrong = "it stops arms that were compared enough, and this sweep has one arm; give a number, such as 1"
        return repeats, "" if compares else f"--repeats {AUTO}: {wrong}"
    return repeats, "" if repeats >= 1 else f"--repeats {repeats}: give 1 or more, or {AUTO}"


def _trials(given: int | None, sweep: SweepConfig) -> tuple[int | None, str]:
    """How many shapes are trained, None if the sweep has no space; and what is wrong with the number given."""
    if not sweep.space:
        words = f"for a sweep that draws its trials, as full does; the {sweep.name} sweep has its own; leave it out"
        return None, "" if given is None else f"--trials {given}: {words}"
    if given is not None and not 1 <= given <= MOST_DRAWN:
        return None, f"--trials {given}: give 1 to {MOST_DRAWN}"
    return DRAWN if given is None else given, ""


def _wrong_target(target: float | None, sweep: SweepConfig) -> str:
    """What is wrong with the target of a search; "" if nothing is."""
    if target is None:
        return ""
    given = f"--target-val-mse {target:g}"
    if not sweep.space:
        return f"{given}: it ends a search, as full does; the {sweep.name} sweep runs all of its arms; leave it out"
    if not 0 < target < math.inf:
        return f"{given}: give a validation MSE above 0, for example 0.4"
    return ""
