"""`train`: trains one model to be used, with early stopping, as a sweep of one arm."""

from __future__ import annotations

import argparse
import shlex
import sys
from typing import IO, Any

from tune.commands.next_steps import program_words
from tune.commands.parser import SWEEP_HELP, Parser, add_shared, number, tracking_uri, whole_number
from tune.commands.sweep import add_how, run_request
from tune.commands.train_request import EPOCHS, PATIENCE, train_request
from tune.common.errors import WrongInput
from tune.common.program import PROGRAM
from tune.config.yaml_file import SHORT
from tune.console.output import write_json
from tune.tracking.store import PROJECT

# attributes of the parsed arguments of a sweep that `train` has no options for
OF_A_SWEEP: dict[str, Any] = {
    "sweep": "custom", "over": [], "only": None, "trials": None, "target_val_mse": None, "config": None,
    "save_config": None, "csv": None, "verbose": False,
}  # fmt: skip
FIELDS = {"preset": "model.preset", "patience": "train.patience"}  # options that are fields


def parser() -> Parser:
    text = (
        "Train one model to forecast with: like the arm that a sweep's answer names, or by a preset. It stops early, "
    )
    text += "keeps the weights of the epoch with the smallest validation error, and prints the errors beside those of "
    text += "naive forecasts. The same command again goes on after an interruption."
    parser = Parser(prog=f"{PROGRAM} train", description=text, allow_abbrev=False)
    what = parser.add_argument_group("what to train")
    text = "a name, or the path of a text or Parquet file (default with --from: the sweep's)"
    what.add_argument("--dataset", metavar="NAME", help=text)
    what.add_argument("--from", dest="source", metavar="SWEEP", help=f"train like the winner of it: {SWEEP_HELP}")
    what.add_argument("--arm", metavar="ARM", help="with --from: like this arm of it, whatever its answer")
    what.add_argument("--preset", metavar="NAME", help="without --from: a preset, as `list` names them")
    what.add_argument("--epochs", type=whole_number, metavar="N", help=f"at most (default {EPOCHS}, or the preset's)")
    text = f"stop after so many epochs without a smaller validation error (default {PATIENCE}, or the preset's)"
    what.add_argument("--patience", type=whole_number, metavar="N", help=text)
    text = "train so many models, each with another seed, and keep the best by validation error (default 1)"
    what.add_argument("--seeds", dest="repeats", type=whole_number, default=1, metavar="N", help=text)
    what.add_argument("--seed", type=whole_number, metavar="N", help="the first seed (default 1)")
    what.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="a field, repeatable")
    text = "do not read the test set: the epoch and the seed are chosen by the validation set as ever"
    what.add_argument("--no-test", action="store_true", help=text)
    text = "begin nothing after this time, and nothing that would not be done by then; the same command goes on later"
    what.add_argument("--minutes", type=number, metavar="M", help=text)
    add_how(parser.add_argument_group("how to run it"))
    add_shared(parser)
    parser.set_defaults(**OF_A_SWEEP)
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Train, and print errors, the model that is kept, and how to forecast with it."""
    for name, field in FIELDS.items():
        if (value := getattr(arguments, name)) is not None:
            if any(item.partition("=")[0] == field for item in arguments.set):
                raise WrongInput(f"--{name} {value} and --set {field}: the same field; give one")
            arguments.set = [*arguments.set, f"{field}={value}"]
    if arguments.repeats < 1:
        raise WrongInput(f"--seeds {arguments.repeats}: give 1 or more")
    store = tracking_uri(arguments)
    request = train_request(arguments, store)
    text: IO[str] = sys.stderr if arguments.json == "-" else sys.stdout
    dataset = str(request.overrides[SHORT["dataset"]])
    return run_request(request, arguments, lambda sweep_id: _show(arguments, store, sweep_id, dataset, text))


def _show(arguments: argparse.Namespace, store: str, sweep_id: str, dataset: str, text: IO[str]) -> None:
    from data_pipeline.datasets import is_path
    from tune.report.render.trained import kept_trial, print_trained
    from tune.report.values import as_json
    from tune.tracking.reader import read_sweep

    record = read_sweep(store, PROJECT, sweep_id)
    print_trained(record, text)
    if kept_trial(record) is not None:
        source = shlex.quote(dataset) if is_path(dataset) else "FILE.csv"
        print(f"Forecast: {_predict(arguments, sweep_id)} --input {source} --output forecast.csv", file=text)
    write_json(arguments.json, as_json(record))


def _predict(arguments: argparse.Namespace, sweep_id: str) -> str:
    """The command that forecasts with the model, with the folder and the store that this one was given."""
    words = ["predict", sweep_id]
    words += ["--tracking-uri", arguments.tracking_uri] if arguments.tracking_uri else []
    words += ["--storage-path", str(arguments.storage_path)] if str(arguments.storage_path) != "runs" else []
    return f"{program_words()} {shlex.join(words)}"
