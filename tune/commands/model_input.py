"""How the input of a saved model is read: from the command line and from what the model knows of its training."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from data_pipeline.options import DataOptions
from data_pipeline.series.steps import MICROSECONDS_PER_MINUTE, FixedStep, Step
from tune.commands.data_options import given_options

if TYPE_CHECKING:
    from model.facts import Facts


def input_options(arguments: argparse.Namespace, facts: Facts) -> DataOptions:
    """How --input is read: as the command line says, otherwise with the time column of the training file."""
    given = given_options(arguments)
    return given if given.timestamp_column else replace(given, timestamp_column=facts.dataset.get("timestamp_column"))


def step_of(facts: Facts) -> Step:
    """What lies between two rows; models of earlier versions know minutes only."""
    if facts.step is not None:
        return Step.from_json(dict(facts.step))
    assert facts.step_minutes is not None  # else the facts are refused
    return FixedStep(step_us=round(facts.step_minutes * MICROSECONDS_PER_MINUTE))


def training_options(facts: Facts) -> DataOptions:
    """How the training file was read."""
    given: dict[str, Any] = facts.dataset.get("options") or {"timestamp_column": facts.dataset.get("timestamp_column")}
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    return DataOptions(**values)
