"""The input of a saved model: how it is read, by the command line and what the model knows, and its forecast."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data_pipeline.errors import DataError
from data_pipeline.options import DataOptions
from data_pipeline.series.long_tail import is_long, one_after_another, read_long_tails, side_by_side
from data_pipeline.series.steps import MICROSECONDS_PER_MINUTE, FixedStep, RowStep, Step
from data_pipeline.series.tail import Table, other_columns, read_tail
from tune.commands.data_options import given_options

if TYPE_CHECKING:
    from model.facts import Facts
    from model.forecaster import Forecaster


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """The forecast of a file."""

    id_column: str | None
    """Of a long format; None: the file holds one series."""
    series: list[tuple[str, Table, Table]]
    """Of each series its id ("" for the only one), the rows that are known, and those that follow."""


def forecast_file(path: Path, options: DataOptions, forecaster: Forecaster, horizon: int) -> Forecast:
    """Forecast the rows after the last of a file, each series of a long format for itself.

    options: how the file is read, as `options_for` makes them.

    Raises DataError for a file that cannot be forecast from, and for a series that the model does not know.
    """
    facts = forecaster.facts
    step, rows = step_of(facts), facts.context_length
    if facts.series is not None:
        options = _with_id_column(options, facts)
        known = read_long_tails(path, columns=facts.columns, known=facts.series, rows=rows, step=step, options=options)
        parts = [
            (name, past, _following(past, forecaster.forecast(past.values, horizon=horizon, series=name), step))
            for name, past in known.series.items()
        ]
        return Forecast(id_column=known.id_column, series=parts)
    if (long := long_options(path, options, facts)) is not None:
        known = read_long_tails(path, columns=None, known=None, rows=rows, step=step, options=long)
        wide = side_by_side(path, known, facts.columns)
        future = _following(wide, forecaster.forecast(wide.values, horizon=horizon), step)
        apart = one_after_another(future, known)
        return Forecast(
            id_column=known.id_column, series=[(name, known.series[name], apart.series[name]) for name in known.series]
        )
    past = read_tail(path, columns=facts.columns, rows=rows, step=step, options=options)
    if ignored := other_columns(path, past, options):
        print(f"not columns of the model, ignored: {', '.join(ignored)}", file=sys.stderr)
    future = _following(past, forecaster.forecast(past.values, horizon=horizon), step)
    return Forecast(id_column=None, series=[("", past, future)])


def _following(past: Table, values_NC: np.ndarray, step: Step) -> Table:
    """The forecast as a table whose times follow those of `past`."""
    return replace(past, timestamps=step.after(past.timestamps, len(values_NC)), values=values_NC)


def long_options(path: Path, options: DataOptions, facts: Facts) -> DataOptions | None:
    """How a file in long format is read for a model of series side by side; None: it is in wide format."""
    for tried in (options, _with_id_column(options, facts)):
        try:
            if is_long(path, tried):
                return tried
        except DataError:  # reading it in wide format tells what is wrong
            continue
    return None


def _with_id_column(options: DataOptions, facts: Facts) -> DataOptions:
    named = (facts.dataset.get("options") or {}).get("id_column")
    return options if options.id_column else replace(options, id_column=named)


def input_options(arguments: argparse.Namespace, facts: Facts) -> DataOptions:
    """How --input is read: as the command line says, otherwise with the training file's time column and step `row`."""
    return options_for(facts, given_options(arguments))


def options_for(facts: Facts, options: DataOptions) -> DataOptions:
    """`options` with what the model knows of the file that it was trained on, where they do not say it."""
    if options.timestamp_column is None:
        options = replace(options, timestamp_column=facts.dataset.get("timestamp_column"))
    return replace(options, step="row") if isinstance(step_of(facts), RowStep) else options


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
