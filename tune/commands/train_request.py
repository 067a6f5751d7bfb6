"""What `train` runs: a sweep of one arm, with the fields of another sweep's arm or of a preset, and early stopping."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from data_pipeline.datasets import is_path
from data_pipeline.options import OPTION_NAMES
from model.presets import PRESETS
from tune.common.errors import WrongInput, unknown_name
from tune.common.ids import sweep_meant
from tune.common.published import stored_rules
from tune.config.request import Request, build_request
from tune.config.sweeps import Arm, SweepConfig
from tune.config.trial_config import READ_TEST, SEED_STUDY_ONLY, data_options, parse_params
from tune.plan.data import channels_of, facts_by_definition
from tune.report.answer import NO_ANSWER, answer_line
from tune.report.arms import ArmRow, arm_of, arm_rows
from tune.report.data import protocol_of_sweep
from tune.report.winner import winner
from tune.tracking.reader import SweepRecord, TrialRecord, list_sweeps, read_sweep
from tune.tracking.store import PROJECT

NAME = "train"  # of the sweep
EPOCHS, PATIENCE = 100, 10  # at most, where neither the command line nor a preset says so
DATASET, PRESET = "data.dataset", "model.preset"
OF_A_FILE = frozenset(f"data.{name}" for name in OPTION_NAMES)
BY_MACHINE = frozenset(("data.feed", "data.num_workers"))  # chosen by what is free, where the sweep did not vary them
NOT_TAKEN = frozenset(("train.seed", "train.epochs", "train.patience", READ_TEST)) | SEED_STUDY_ONLY


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The arm that a model is trained like."""

    sweep_id: str
    arm: str
    fields: Mapping[str, Any]
    dataset: str | None
    channels: int | None  # of that sweep's data


def train_request(arguments: argparse.Namespace, store: str) -> Request:
    """The request of parsed arguments of `train`. Reads the MLflow store at the address `store` for --from.

    Raises WrongInput, and TrackingError if the store cannot be read.
    """
    given = build_request(arguments)
    fields, notes = dict(given.overrides), list(given.notes)
    origin = None
    if arguments.source is not None:
        if PRESET in fields:
            raise WrongInput(f"--from {arguments.source} and {PRESET}: both say which model to train; give one")
        origin = find_origin(arguments.source, arguments.arm, store)
        fields = _with_origin(fields, origin)
        notes.append(f"trains like arm {origin.arm} of {origin.sweep_id}")
        notes += _other_data(fields, origin)
    elif arguments.arm is not None:
        raise WrongInput(f"--arm {arguments.arm} names an arm of a sweep: give --from SWEEP too")
    elif DATASET not in fields:
        raise WrongInput("which data? give --dataset FILE or NAME, or --from SWEEP for the data of a sweep")
    preset = {} if origin else PRESETS.get(str(fields.get(PRESET)), {})
    usual = {"train.epochs": EPOCHS, "train.patience": PATIENCE}
    label = origin.arm if origin else str(fields.get(PRESET, "model"))
    sweep = SweepConfig(
        name=NAME,
        question="How well does this model forecast, beside naive forecasts?",
        baseline=label,
        arms=(Arm(label=label, changes={}),),
        shared={name: value for name, value in usual.items() if name not in preset},
    )
    return replace(given, sweep=sweep, overrides=fields, notes=tuple(notes))


def _with_origin(given: Mapping[str, Any], origin: Origin) -> dict[str, Any]:
    """The origin's fields under the user's. How its file is read counts only for the same data."""
    theirs = dict(origin.fields)
    if given.get(DATASET, origin.dataset) != origin.dataset:
        theirs = {name: value for name, value in theirs.items() if name not in OF_A_FILE}
    if "model.patch_length" in given:  # the stride is for the arm's own length
        theirs.pop("model.patch_stride", None)
    return {**theirs, **given}


def _other_data(fields: Mapping[str, Any], origin: Origin) -> list[str]:
    """A line where the model is trained on other data than the sweep was: its answer need not hold there."""
    if fields[DATASET] == origin.dataset:
        return []
    channels = None
    if (options := data_options(fields)) is not None:  # else the plan refuses a value
        dataset = str(fields[DATASET])
        known = channels_of(dataset, options) if is_path(dataset) else facts_by_definition(dataset, options).channels
        channels = known
    differ = None not in (channels, origin.channels) and channels != origin.channels
    columns = f", which has {channels} columns and not {origin.channels}" if differ else ""
    return [
        f"the sweep's data were {origin.dataset}; this is {fields[DATASET]}{columns}: neither the speed nor the errors "
        "that the sweep measured are those of this model"
    ]


def find_origin(given: str, arm: str | None, store: str) -> Origin:
    """The arm `arm` of the sweep that `given` means, or the one that its answer names. `last`: the last but trainings.

    Raises WrongInput for a sweep without an answer, for an unknown arm, and for one that did not train; TrackingError
    for an unknown sweep.
    """
    known = [each.sweep_id for each in list_sweeps(store, PROJECT, limit=10**9) if each.tags.get("sweep") != NAME]
    record = read_sweep(store, PROJECT, sweep_meant(given, known) or given)
    rows = arm_rows(record)
    names = [row.arm for row in rows]
    if arm is not None and arm not in names:
        raise unknown_name(f"arm of {record.sweep_id}", arm, names)
    chosen = winner(record, rows) if arm is None else arm
    if chosen is None:
        said = " ".join((answer_line(record, rows) or NO_ANSWER).split()).rstrip(".")
        raise WrongInput(f"{record.sweep_id} names no arm to use ({said}); name one of {', '.join(names)} with --arm")
    trial = _trained(record, rows, chosen)
    values = {name: value for name, value in parse_params(trial.params, record.format).items() if value is not None}
    protocol = protocol_of_sweep(record)
    return Origin(
        sweep_id=record.sweep_id,
        arm=chosen,
        fields=_taken(values, record.tags.get("swept", "").split(",")),
        dataset=values.get(DATASET),
        channels=None if protocol is None else protocol.get("columns"),
    )


def _taken(values: Mapping[str, Any], swept: Sequence[str]) -> dict[str, Any]:
    """The fields that make the arm what it is."""
    return {
        name: value
        for name, value in values.items()
        if name not in NOT_TAKEN and (name not in BY_MACHINE or BY_MACHINE & set(swept)) and value not in ([], ())
    }


def _trained(record: SweepRecord, rows: Sequence[ArmRow], arm: str) -> TrialRecord:
    """A trial of the arm that is done."""
    trials = [trial for trial in record.trials if arm_of(trial) == arm and trial.tags.get("stage") in (None, "final")]
    for trial in trials:
        if not stored_rules(trial.tags).keeps_model:
            raise WrongInput(f"arm {arm} of {record.sweep_id} shows the replaced study; name another with --arm")
        if trial.status == "done":
            return trial
    (row,) = (row for row in rows if row.arm == arm)
    reason = f": {row.reason}" if row.reason else ""
    raise WrongInput(f"arm {arm} of {record.sweep_id} is '{row.status}'{reason}; name an arm that is done with --arm")
