"""What a saved model needs to forecast, beside its weights: columns, time step, scaling, lengths and origin.

Written as `forecasting.json` into the model's folder. Importable without torch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

CONFIG, WEIGHTS, FACTS = "config.json", "model.safetensors", "forecasting.json"  # the files of a saved folder
FORMAT = "patchtst-forecasting"
FORMAT_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Facts:
    """The model forecasts (values - mean) / std of these columns, one row per `step`."""

    columns: tuple[str, ...]
    step_minutes: float | None
    """None where the step has no fixed minutes, as a month has none."""
    mean: tuple[float, ...]
    """Per column, of the training rows, in the units of the source."""
    std: tuple[float, ...]
    """Per column, of the training rows; 1 where a column is constant there."""
    context_length: int
    """Rows that a forecast is made from."""
    prediction_length: int
    """Rows that are forecast."""
    dataset: Mapping[str, Any]
    """Name, sha256 of the source, timestamp column if one was named, times of the test set's first and last row."""
    trial: Mapping[str, Any]
    """Sweep id, trial id, config, best epoch and its validation MSE (standardised units)."""
    versions: Mapping[str, str]
    """Of the packages that trained it."""
    step: Mapping[str, Any] | None = None
    """What lies between two rows, as data_pipeline/series/steps.py writes it. None in models that were saved without it
    and have `step_minutes`."""
    not_stock: tuple[str, ...] = ()
    """What of the model stock transformers does not have (model.variants.not_stock). It refuses the folder then."""
    series: Mapping[str, Mapping[str, Any]] | None = None
    """Of a model of several series: id -> its own `mean` and `std`. `mean` and `std` are empty then."""

    def __post_init__(self) -> None:
        problem = _problem(self)
        if problem:
            raise ValueError(f"{FACTS}: {problem}")

    def as_json(self) -> str:
        """The text of the file; floats read back bit by bit."""
        content = {"format": FORMAT, "format_version": FORMAT_VERSION, **asdict(self)}
        return json.dumps(content, indent=1, allow_nan=False) + "\n"


def read_facts(folder: Path) -> Facts:
    """The facts of the model in `folder`. ValueError, one line, where there are none or they cannot be used."""
    file = Path(folder) / FACTS
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(
            f"{folder} holds no {FACTS} ({error.strerror}): give the folder of a model that a sweep has saved"
        ) from None
    except ValueError as error:
        raise ValueError(f"{file} is not JSON ({error}): fetch the model again") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"{file} is not of the format '{FORMAT}': give the folder of a model that a sweep has saved")
    if content.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{file} has format version {content.get('format_version')!r}, this program reads {FORMAT_VERSION}: use "
            "the program that saved the model, or train it again"
        )
    try:
        fields = {"step": None, "series": None} | {
            name: content[name] for name in Facts.__dataclass_fields__ if name in content
        }
        for name in ("columns", "mean", "std"):
            fields[name] = tuple(fields[name])
        fields["not_stock"] = tuple(fields.get("not_stock", ()))
        return Facts(**fields)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{file} lacks a field that a forecast needs ({error}): fetch the model again") from None


def _problem(facts: Facts) -> str | None:
    """What is wrong with the facts; None where nothing is."""
    if not facts.columns or not all(isinstance(name, str) for name in facts.columns):
        return "columns must be names, at least one"
    if facts.series is not None and (facts.mean or facts.std or not isinstance(facts.series, dict) or not facts.series):
        return "series must be an object with an id or more, and mean and std empty beside it"
    scalings = [vars(facts)] if facts.series is None else facts.series.values()
    if problem := next(filter(None, (_scaling_problem(each, len(facts.columns)) for each in scalings)), None):
        return problem
    if facts.step is not None and not isinstance(facts.step, dict):
        return "step must be an object"
    minutes = facts.step_minutes
    if not (minutes is None and facts.step) and not (_is_number(minutes) and minutes and minutes > 0):
        return "step_minutes must be a positive number, or null beside a step"
    for name, length in (("context_length", facts.context_length), ("prediction_length", facts.prediction_length)):
        if not isinstance(length, int) or length < 1:
            return f"{name} must be a positive whole number"
    return None


def _scaling_problem(scaling: Mapping[str, Any], columns: int) -> str | None:
    """What is wrong with `mean` and `std` of the model, or of one series of it."""
    for name in ("mean", "std"):
        numbers = scaling.get(name)
        is_list = isinstance(numbers, list | tuple) and len(numbers) == columns
        if not is_list or not all(_is_number(number) for number in numbers or ()):
            return f"{name} must hold one finite number for each of the {columns} columns"
    return "std must be positive" if min(scaling["std"]) <= 0 else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
