"""`predict --backtest`: a saved model's errors where the truth is known, beside those of naive forecasts."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from data_pipeline.feed.known import FileWindows, KnownWindows, test_windows
from data_pipeline.series.long import column_name
from data_pipeline.series.steps import RowStep
from data_pipeline.series.store import Series, open_series
from data_pipeline.series.tail import local_times, times_as_text
from data_pipeline.source.content import content_sha256
from model.facts import Facts
from model.forecaster import Forecaster, standardised
from tune.commands.model_input import input_options, long_options, step_of, training_options
from tune.common.errors import WrongInput
from tune.measure.accuracy import naive_forecasts
from tune.measure.backtest import ColumnErrors, Windows, column_errors
from tune.plan.data import cache_dir, fetch_if_missing
from tune.report.render.forecast import ForecastPicture, Panel

SEQUENCES = 2048  # windows x columns forecast at a time
MOST_SHOWN = 40  # columns of the table
SAY_EVERY_S = 10.0
NAMES = {"model": "model", "last_value": "last value", "last_day": "last day"}


@dataclass(frozen=True, kw_only=True)
class Backtest:
    """The errors as JSON, and the last window as a picture."""

    content: dict[str, Any]
    picture: ForecastPicture


@dataclass(frozen=True, kw_only=True)
class _Source:
    """What is forecast."""

    words: str
    batches: Iterator[KnownWindows]
    file: FileWindows | None
    """None: the test set of a data set."""
    zone: Callable[[], str | None]
    """The zone of the times, once all are read."""
    numbered: bool
    """Whether times are the numbers of rows."""


def backtest(
    arguments: argparse.Namespace, forecaster: Forecaster, horizon: int, model: str, text: IO[str]
) -> Backtest:
    """Measure, print the table to `text`. Raises WrongInput and DataError for data that cannot be forecast."""
    facts = forecaster.facts
    source = _source(arguments, facts, horizon)
    windows = _Windows(source.batches, forecaster)
    forecasts: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "model": lambda past: forecaster.roll(past, horizon),
        **naive_forecasts(
            context_length=facts.context_length, prediction_length=horizon, per_day=step_of(facts).per_day
        ),
    }
    errors = column_errors(forecasts, windows)
    zone = source.zone()
    ends = np.array([windows.first_us, windows.last_us])
    first, last = map(str, ends.tolist()) if source.numbered else times_as_text(ends, zone)
    left_out = f", {source.file.left_out:,} with a gap or a missing value left out" if source.file else ""
    lengths = f"{facts.context_length} + {horizon} rows"
    words = f"{source.words}: {windows.count:,} windows of {lengths}{left_out}, forecasts of {first} to {last}"
    print(f"backtest of {model} over {words}", file=text)
    _print_table(errors, facts, text)
    content = {
        "over": source.words,
        "windows": windows.count,
        "left_out": source.file.left_out if source.file else 0,
        "horizon": horizon,
        "first": first,
        "last": last,
        "errors": {name: found.as_dict(facts.columns) for name, found in errors.items()},
    }
    return Backtest(
        content=content,
        picture=windows.picture(horizon, f"Last window of the backtest of {model}", zone, numbered=source.numbered),
    )


def _source(arguments: argparse.Namespace, facts: Facts, horizon: int) -> _Source:
    size, numbered = max(1, SEQUENCES // len(facts.columns)), isinstance(step_of(facts), RowStep)
    if arguments.input is None:
        series = _training_series(arguments, facts)
        batches = test_windows(series, context_length=facts.context_length, horizon=horizon, size=size)
        words, zone = f"the test set of {series.name}", series.zone
        return _Source(words=words, batches=batches, file=None, zone=lambda: zone, numbered=numbered)
    path: Path = arguments.input.expanduser()
    if facts.series is not None or long_options(path, input_options(arguments, facts), facts) is not None:
        raise WrongInput(
            f"--backtest --input {path}: series under each other are measured over the test set only: leave --input out"
        )
    test_times = facts.dataset.get("test_times_us")
    if test_times is not None and content_sha256(path) != facts.dataset.get("source_sha256"):
        test_times = None
    file = FileWindows(
        path=path,
        columns=facts.columns,
        context_length=facts.context_length,
        horizon=horizon,
        step=step_of(facts),
        options=input_options(arguments, facts),
        within=None if test_times is None else (test_times[0], test_times[1]),
    )
    words = f"the test set of {path}, which the model was trained on" if test_times else f"all windows of {path}"
    if test_times is None:
        print(f"{path}: if the model saw rows of it in training, errors over them are too small", file=sys.stderr)
    return _Source(words=words, batches=file.batches(size), file=file, zone=lambda: file.zone, numbered=numbered)


def _training_series(arguments: argparse.Namespace, facts: Facts) -> Series:
    """The series that the model was trained on. WrongInput if its source is another one now, or has moved."""
    name = str(facts.dataset.get("name"))
    if Path(name).is_absolute() and not Path(name).exists():
        remedy = "give it with --input FILE (its content tells that it is the same)"
        if facts.series is not None:  # --input takes none of these
            remedy = "put a link to it there"
        raise WrongInput(f"{name}, which the model was trained on, is not there: if it has moved, {remedy}")
    fetch_if_missing(name, arguments.data_dir, quiet=False)
    series = open_series(name, arguments.data_dir, cache_dir(arguments.storage_path), training_options(facts))
    if series.source_sha256 != facts.dataset.get("source_sha256"):
        raise WrongInput(
            f"{name} here is not the data that the model was trained on (its sha256 differs): give the file to "
            "measure over with --input FILE"
        )
    return series


class _Windows:
    """The windows standardised, as tensors. It counts them and keeps the last ones."""

    def __init__(self, batches: Iterator[KnownWindows], forecaster: Forecaster) -> None:
        self._batches, self._forecaster = batches, forecaster
        self.count, self.first_us, self.last_us = 0, 0, 0
        self._last: KnownWindows | None = None

    def __iter__(self) -> Iterator[Windows]:
        forecaster = self._forecaster
        length, said_s = forecaster.facts.context_length, time.monotonic()
        for batch in self._batches:
            first_us, last_us = int(batch.timestamps[0, length]), int(batch.timestamps[-1, -1])
            self.first_us = min(self.first_us, first_us) if self.count else first_us
            self.last_us = max(self.last_us, last_us) if self.count else last_us
            self.count, self._last = self.count + len(batch.past), batch
            mean, std = forecaster.scaling(batch.series)
            past, future = (
                torch.from_numpy(standardised(rows, mean, std)).to(forecaster.device)
                for rows in (batch.past, batch.future)
            )
            counted = None if batch.counted is None else torch.from_numpy(batch.counted).to(forecaster.device)
            yield Windows(past=past, future=future, counted=counted, std=std)
            if time.monotonic() - said_s > SAY_EVERY_S:
                said_s = time.monotonic()
                print(f"backtest: {self.count:,} windows forecast", file=sys.stderr, flush=True)

    def picture(self, horizon: int, title: str, zone: str | None, *, numbered: bool) -> ForecastPicture:
        """The last window with its forecast."""
        assert self._last is not None
        facts, last = self._forecaster.facts, self._last
        own = facts.prediction_length
        forecast_NC = self._forecaster.forecast(last.past[-1], horizon=horizon, series=last.series)
        panels = [
            Panel(
                name=name if last.series is None else column_name(last.series, name, facts.columns),
                times=last.timestamps[-1] if numbered else local_times(last.timestamps[-1], zone),
                history=last.past[-1, :, at],
                forecast=forecast_NC[:, at],
                truth=last.future[-1, :, at],
            )
            for at, name in enumerate(facts.columns)
        ]
        return ForecastPicture(title=title, panels=panels, rolled_from=own if horizon > own else None)


def _print_table(errors: dict[str, ColumnErrors], facts: Facts, text: IO[str]) -> None:
    """Errors of each column in its own units, then of all, then standardised as in training."""
    from rich.console import Console
    from rich.table import Table

    table = Table("column")
    for name in errors:
        for kind in ("MSE", "MAE"):
            table.add_column(f"{NAMES[name]}\n{kind}", justify="right")
    worst = np.argsort(errors["model"].scaled_mse)[::-1][:MOST_SHOWN]
    for index in sorted(worst.tolist()):
        table.add_row(facts.columns[index], *_cells((found.mse[index], found.mae[index]) for found in errors.values()))
    table.add_section()
    table.add_row("all", *_cells(found.overall() for found in errors.values()))
    table.add_row("all, standardised", *_cells(found.standardised() for found in errors.values()))
    console = Console(file=text, width=None if text.isatty() else 200, highlight=False, markup=False)
    console.print(table)
    if len(facts.columns) > MOST_SHOWN:
        print(
            f"the {MOST_SHOWN} columns with the largest standardised MSE of {len(facts.columns)}; --json FILE has all",
            file=text,
        )


def _cells(pairs: Iterable[tuple[float, float]]) -> list[str]:
    return [f"{value:.4g}" for pair in pairs for value in pair]
