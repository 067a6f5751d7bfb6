"""`predict`: forecasts the rows after a file, or rows whose truth is known, with a saved model."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data_pipeline.datasets import FILE_ENDINGS, is_path
from data_pipeline.series.long import column_name
from data_pipeline.series.tail import (
    OUTPUT_ENDINGS,
    local_times,
    row_texts,
    write_table,
)
from tune.commands.data_options import add_data_options
from tune.commands.model_input import Forecast, forecast_file, input_options
from tune.commands.parser import Parser, add_folders, add_tracking_uri, tracking_uri
from tune.common.errors import DONE, WrongInput
from tune.common.files import write_atomically
from tune.common.program import PROGRAM
from tune.console.output import check_json_target, write_json
from tune.tracking.find_model import FoundModel, find_model

if TYPE_CHECKING:
    from model.facts import Facts
    from model.forecaster import Forecaster
    from tune.report.render.forecast import ForecastPicture

MOST_ROWS = 1_000_000  # of a forecast


def parser() -> Parser:
    text = "Forecast the rows after the last row of a file, in its units, with a model that a sweep has saved; or "
    text += "measure the model's errors where the truth is known (--backtest)."
    parser = Parser(prog=f"{PROGRAM} predict", description=text, allow_abbrev=False)
    text = "a sweep id (its best trial), a trial id (of the newest sweep that has it), an MLflow run (its id, or "
    text += "runs:/ID/model), or a folder"
    parser.add_argument("run", metavar="RUN", help=text)
    text = "CSV (also .gz) or Parquet with a time column and the model's columns"
    parser.add_argument("--input", type=Path, metavar="FILE", help=text)
    text = "CSV (also .gz) or Parquet to write, by its ending; CSV has as many decimals as each column of --input, "
    text += "Parquet keeps floats"
    parser.add_argument("--output", type=Path, metavar="FILE", help=text)
    text = "rows to forecast (default: what the model was trained for; rows beyond are forecast from forecasts)"
    parser.add_argument("--horizon", type=int, metavar="N", help=text)
    text = "print errors per column beside naive forecasts: over all windows of --input, or over the test set if "
    text += "--input is the file of the training, or not given"
    parser.add_argument("--backtest", action="store_true", help=text)
    text = "draw history and forecast of each column; with --backtest the last window, with its truth"
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help=text)
    parser.add_argument("--json", metavar="FILE", help="also write the errors of --backtest as JSON; - for stdout")
    parser.add_argument("--force", action="store_true", help="replace --output and --plot if they exist")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to compute (default cpu)")
    add_data_options(parser, "--input")
    add_folders(parser)
    add_tracking_uri(parser)
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Forecast into --output, draw --plot, print the errors of --backtest."""
    _check(arguments)
    with tempfile.TemporaryDirectory(prefix="model-") as scratch:
        uri, storage = tracking_uri(arguments), arguments.storage_path
        model = find_model(arguments.run, tracking_uri=uri, storage=storage, scratch=Path(scratch))
        forecaster = load_forecaster(model.folder, arguments.device)
    facts = forecaster.facts
    horizon = arguments.horizon or facts.prediction_length
    if rolled := _rolled(horizon, facts):
        print(f"--horizon {horizon}: {rolled}", file=sys.stderr)
    forecast = result = picture = None
    if arguments.output is not None or not arguments.backtest:
        options = input_options(arguments, facts)
        forecast = forecast_file(arguments.input.expanduser(), options, forecaster, horizon)
        picture = _picture(forecast, facts, f"{horizon} rows forecast by {model.words}")
    if arguments.backtest:  # before anything is written: it may refuse the file
        from tune.commands.backtest import backtest

        text = sys.stderr if arguments.json == "-" else sys.stdout
        result = backtest(arguments, forecaster, horizon, model.words, text)
        picture = result.picture
    if arguments.output is not None and forecast is not None:
        _write(arguments, forecast, model, rolled)
    if result is not None:
        write_json(arguments.json, {"backtest": result.content})
    if arguments.plot is not None and picture is not None:
        _plot(arguments, picture)
    return DONE


def _check(arguments: argparse.Namespace) -> None:
    """Raises WrongInput for options that do not go together, and for files that cannot be read or written."""
    source, target, plot = arguments.input, arguments.output, arguments.plot
    if target is None and plot is None and not arguments.backtest:
        raise WrongInput("nothing to do: give --output FILE, --plot FILE.png or --backtest")
    if source is None and (target is not None or not arguments.backtest):
        raise WrongInput("--input FILE is missing: give a CSV or Parquet file with the model's columns")
    if arguments.horizon is not None and not 1 <= arguments.horizon <= MOST_ROWS:
        raise WrongInput(f"--horizon {arguments.horizon}: give 1 to {MOST_ROWS:,} rows")
    if arguments.json is not None and not arguments.backtest:
        raise WrongInput(f"--json {arguments.json} is for the errors of --backtest: give it too, or leave --json out")
    check_json_target(arguments.json)
    if source is not None and not is_path(str(source)):
        raise WrongInput(f"--input {source}: give a file ending in {', '.join(FILE_ENDINGS)}")
    for option, path, endings in (("--output", target, OUTPUT_ENDINGS), ("--plot", plot, (".png",))):
        if path is not None and not path.name.lower().endswith(endings):
            raise WrongInput(f"{option} {path}: give a file ending in {', '.join(endings)}")
    source = None if source is None else source.expanduser()
    if source is not None and not source.exists():
        raise WrongInput(
            f"--input {source}: there is no such file; give a CSV or Parquet file with the model's columns"
        )
    for option, path in (("--output", target), ("--plot", plot)):
        if path is not None:
            check_target(option, path.expanduser(), source, force=arguments.force)


def check_target(option: str, target: Path, source: Path | None, *, force: bool) -> None:
    """Raises WrongInput unless `target` can be written: a new file, with `force` any but `source`."""
    folder = target.absolute().parent
    if not folder.is_dir():
        raise WrongInput(f"{option} {target}: there is no folder {folder}; make it or name another")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise WrongInput(f"{option} {target}: the folder {folder} is not writable; name a file in another")
    if not os.path.lexists(target):
        return
    if not target.is_file():
        raise WrongInput(f"{option} {target}: it is not a file, or a link to no file; name another")
    if source is not None and target.samefile(source):
        raise WrongInput(f"{option} {target}: this is the input; name another file")
    if not force:
        raise WrongInput(f"{option} {target}: it exists; name another file, or give --force to replace it")


def load_forecaster(folder: Path, device: str) -> Forecaster:
    """The model saved in `folder`, on a device: cpu or cuda. WrongInput where there is no such device or model."""
    import torch

    from model.forecaster import Forecaster

    if device == "cuda" and not torch.cuda.is_available():
        raise WrongInput("--device cuda: PyTorch finds no CUDA GPU here; use --device cpu")
    try:
        return Forecaster(folder, device=device)
    except ValueError as error:
        raise WrongInput(f"this model cannot be used: {error}") from None


def _rolled(horizon: int, facts: Facts) -> str:
    """What to say of a forecast that is longer than the model's own; empty if it is not."""
    own = facts.prediction_length
    return f"rows {own + 1} to {horizon} are forecast from forecasts, so errors add up" if horizon > own else ""


def _write(arguments: argparse.Namespace, forecast: Forecast, model: FoundModel, rolled: str) -> None:
    """Write --output and print what is in it."""
    target, tables = arguments.output.expanduser(), [future for _, _, future in forecast.series]
    check_target("--output", target, arguments.input.expanduser(), force=arguments.force)  # one may have appeared
    ids = [name for name, _, _ in forecast.series]
    try:
        write_table(target, *tables, id_column=forecast.id_column, ids=ids)
    except OSError as error:
        raise WrongInput(f"--output {target}: {error.strerror or error}; name another file") from None
    first, last = min(row_texts(table)[0] for table in tables), max(row_texts(table)[-1] for table in tables)
    remarks = [rolled] if rolled else []
    decimals = {digits for table in tables for digits in table.decimals}
    if not target.name.lower().endswith(".parquet") and decimals != {None}:
        remarks.append(_decimals_in_words(decimals))
    text = sys.stderr if arguments.json == "-" else sys.stdout
    many = "" if forecast.id_column is None else f" x {len(tables)} series"
    shape = f"{len(tables[0].values)} rows x {len(tables[0].columns)} columns{many}"
    print("; ".join([f"{target}: {shape}, {first} to {last}, by {model.words}", *remarks]), file=text)


def _decimals_in_words(decimals: set[int | None]) -> str:
    known = sorted(digits for digits in decimals if digits is not None)
    span = f"{known[0]}" if len(known) == 1 else f"{known[0]} to {known[-1]}"
    rest = ", others in full" if None in decimals else ""
    return f"{span} decimals, those of each column's last rows{rest}"


def _picture(forecast: Forecast, facts: Facts, title: str) -> ForecastPicture:
    from tune.report.render.forecast import ForecastPicture, Panel

    panels = []
    for name, past, future in forecast.series:
        rows = np.concatenate((past.timestamps, future.timestamps))
        times = rows if past.timestamp_column is None else local_times(rows, past.zone)
        panels += [
            Panel(
                name=column if forecast.id_column is None else column_name(name, column, past.columns),
                times=times,
                history=past.values[:, at],
                forecast=future.values[:, at],
                truth=None,
            )
            for at, column in enumerate(past.columns)
        ]
    own, horizon = facts.prediction_length, len(forecast.series[0][2].values)
    return ForecastPicture(title=title, panels=panels, rolled_from=own if horizon > own else None)


def _plot(arguments: argparse.Namespace, picture: ForecastPicture) -> None:
    from tune.report.render.forecast import MOST_PANELS, forecast_png

    target: Path = arguments.plot.expanduser()
    content: Any = forecast_png(picture)
    source = None if arguments.input is None else arguments.input.expanduser()
    check_target("--plot", target, source, force=arguments.force)
    try:
        write_atomically(target, content)
    except OSError as error:
        raise WrongInput(f"--plot {target}: {error.strerror or error}; name another file") from None
    if len(picture.panels) > MOST_PANELS:
        print(f"{target}: the first {MOST_PANELS} of {len(picture.panels)} columns", file=sys.stderr)
