"""`predict`: reads a file with the columns of a saved model and writes the rows that come next."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data_pipeline.datasets import FILE_ENDINGS, is_path
from data_pipeline.options import DataOptions
from data_pipeline.series.steps import MICROSECONDS_PER_MINUTE
from data_pipeline.series.tail import OUTPUT_ENDINGS, Table, other_columns, read_tail, times_as_text, write_table
from tune.commands.data_options import add_data_options, given_options
from tune.commands.parser import Parser, add_tracking_uri, tracking_uri
from tune.common.errors import DONE, WrongInput
from tune.tracking.find_model import find_model

if TYPE_CHECKING:
    from model.facts import Facts
    from model.forecaster import Forecaster


def parser() -> Parser:
    text = "Forecast the rows after the last row of a file, in its units, with a model that a sweep has saved."
    parser = Parser(prog="experiments.py predict", description=text, allow_abbrev=False)
    text = "a sweep id (its best trial), a trial id (of the newest sweep that has it), an MLflow run (its id, or "
    text += "runs:/ID/model), or a folder"
    parser.add_argument("run", metavar="RUN", help=text)
    text = "CSV (also .gz) or Parquet with a time column and the model's columns"
    parser.add_argument("--input", type=Path, required=True, metavar="FILE", help=text)
    text = "CSV (also .gz) or Parquet to write, by its ending"
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help=text)
    parser.add_argument("--force", action="store_true", help="replace --output if it exists")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to compute (default cpu)")
    add_data_options(parser, "--input")
    add_tracking_uri(parser)
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Forecast the prediction_length rows after the last row of --input, in its units, into --output."""
    source, target = arguments.input.expanduser(), arguments.output.expanduser()
    check_files(source, target, force=arguments.force)
    with tempfile.TemporaryDirectory(prefix="model-") as scratch:
        model = find_model(arguments.run, tracking_uri=tracking_uri(arguments), scratch=Path(scratch))
        forecaster = _load(model.folder, arguments.device)
    facts = forecaster.facts
    assert facts.step_minutes is not None
    options = _input_options(given_options(arguments), facts)
    past = read_tail(
        source,
        columns=facts.columns,
        rows=facts.context_length,
        step_minutes=facts.step_minutes,
        options=options,
    )
    if ignored := other_columns(source, past, options):
        print(f"not columns of the model, ignored: {', '.join(ignored)}", file=sys.stderr)
    future = _continued(past, forecaster.forecast(past.values), facts)
    check_files(source, target, force=arguments.force)  # a file may have appeared there meanwhile
    try:
        write_table(target, future)
    except OSError as error:
        raise WrongInput(f"--output {target}: {error.strerror or error}; name another file") from None
    first, last = (times_as_text(future.timestamps[[at]], zoned=future.zoned)[0] for at in (0, -1))
    print(f"{target}: {len(future.values)} rows x {len(facts.columns)} columns, {first} to {last}, by {model.words}")
    return DONE


def _input_options(given: DataOptions, facts: Facts) -> DataOptions:
    """How --input is read: as the command line says, otherwise with the time column of the training file."""
    return given if given.timestamp_column else replace(given, timestamp_column=facts.dataset.get("timestamp_column"))


def check_files(source: Path, target: Path, *, force: bool) -> None:
    """Raises WrongInput unless `source` is a file of a known kind and `target` can be written."""
    if not is_path(str(source)):
        raise WrongInput(f"--input {source}: give a file ending in {', '.join(FILE_ENDINGS)}")
    if not target.name.lower().endswith(OUTPUT_ENDINGS):
        raise WrongInput(f"--output {target}: give a file ending in {', '.join(OUTPUT_ENDINGS)}")
    if not source.exists():
        raise WrongInput(
            f"--input {source}: there is no such file; give a CSV or Parquet file with the model's columns"
        )
    folder = target.absolute().parent
    if not folder.is_dir():
        raise WrongInput(f"--output {target}: there is no folder {folder}; make it or name another")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise WrongInput(f"--output {target}: the folder {folder} is not writable; name a file in another")
    if not os.path.lexists(target):
        return
    if not target.is_file():
        raise WrongInput(f"--output {target}: it is not a file, or a link to no file; name another")
    if target.samefile(source):
        raise WrongInput(f"--output {target}: this is the input; name another file")
    if not force:
        raise WrongInput(f"--output {target}: it exists; name another file, or give --force to replace it")


def _load(folder: Path, device: str) -> Forecaster:
    import torch

    from model.forecaster import Forecaster

    if device == "cuda" and not torch.cuda.is_available():
        raise WrongInput("--device cuda: PyTorch finds no CUDA GPU here; use --device cpu")
    try:
        return Forecaster(folder, device=device)
    except ValueError as error:
        raise WrongInput(f"this model cannot be used: {error}") from None


def _continued(past: Table, values_HC: np.ndarray, facts: Facts) -> Table:
    """The forecast as a table whose times follow those of `past`."""
    assert facts.step_minutes is not None
    step_us = round(facts.step_minutes * MICROSECONDS_PER_MINUTE)
    steps = np.arange(1, len(values_HC) + 1, dtype=np.int64)
    return Table(
        timestamp_column=past.timestamp_column,
        timestamps=past.timestamps[-1] + step_us * steps,
        zoned=past.zoned,
        columns=facts.columns,
        values=values_HC,
    )
