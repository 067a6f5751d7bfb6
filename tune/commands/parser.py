"""What the parsers of the commands share: the form of errors, the common options, the examples."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from tune.common.errors import WrongInput, did_you_mean
from tune.common.program import COMMAND
from tune.config.cells import read_cells
from tune.config.repeats import Repeats, read_repeats
from tune.config.written_numbers import number as read_number
from tune.config.written_numbers import whole_number as read_whole_number

EXAMPLES = f"""examples:
  {COMMAND} --sweep pruning --dataset demo --epochs 2 --repeats 1    offline, on a laptop
  {COMMAND} --sweep pruning --data-dir DIR                ETTh1 from DIR/ETTh1.csv[.gz]
  {COMMAND} --sweep pruning --plan                        show the trials, run nothing
  {COMMAND} --sweep attention --over model.patch_length=12,24 --plan --gpu-model H100
  {COMMAND} --sweep custom --over train.learning_rate=1e-4,1e-3 --repeats 3
  {COMMAND} report SWEEP_ID                               the table of an earlier sweep
  {COMMAND} report SWEEP_ID --out DIR                     the same with charts: Markdown, HTML and PNG
  {COMMAND} compare SWEEP_ID other.json                   did an arm get slower or less accurate?
  {COMMAND} flush SWEEP_ID                                send its records that MLflow lacks
  {COMMAND} predict SWEEP_ID --input my.csv --output forecast.csv
  {COMMAND} train --dataset my.csv --from SWEEP_ID --seeds 3            a model like the winner
  {COMMAND} data show ETTh1                               what is in a data set
  {COMMAND} data import-pems FOLDER --out flow.parquet    Caltrans PeMS files -> one series
  {COMMAND} list                                          sweeps, backends, engines, data sets, ...
  {COMMAND} --sweep pruning --submit http://HEAD:8265 --storage-path /shared/runs    on a cluster
  {COMMAND} status|logs|stop --cluster http://HEAD:8265
  {COMMAND} gc                                            what earlier sweeps left on the disk
  {COMMAND} delete SWEEP_ID                               remove a sweep; it asks before
  {COMMAND} ui                                            the MLflow UI over your sweeps
  {COMMAND} doctor                                        what works here, and how to mend the rest
The same command again resumes a sweep that did not finish.
"""


class Parser(argparse.ArgumentParser):
    """argparse that raises WrongInput, with the nearest option for a misspelt one, instead of printing usage."""

    _given: Sequence[str] = ()

    def parse_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def]
        arguments = super().parse_args(args, namespace)
        arguments.words = list(args or ())  # as given, for a command that is sent elsewhere
        return arguments

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def]
        self._given = args or ()
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> None:  # type: ignore[override]
        known = [option.removeprefix("--") for option in self._option_string_actions if option.startswith("--")]
        words = [word.partition("=")[0].removeprefix("--") for word in self._given if word.startswith("--")]
        if not message.startswith(("unrecognized arguments", "the following arguments are required")):
            words = []
        near = {word: did_you_mean(word, known, "--") for word in words if word not in known}
        hints = [f" --{word}:{hint}" for word, hint in near.items() if hint]
        raise WrongInput(f"{message} (see --help){';' if hints else ''}{''.join(hints)}")


def whole_number(text: str) -> int:
    """The type of an option that takes a whole number, written as in a configuration file: 1000, 1_000 or 1e3."""
    try:
        return read_whole_number(text)
    except WrongInput as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def repeats(text: str) -> Repeats:
    """The type of --repeats: a whole number, or auto."""
    try:
        return read_repeats(text)
    except WrongInput as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def cells(text: str) -> list[str]:
    """The type of --only: names of data sets and cells, separated by commas."""
    try:
        return read_cells(text)
    except WrongInput as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def number(text: str) -> float:
    """The type of an option that takes a number, written as in a configuration file: 0.4, .4 or 4e-1."""
    try:
        return read_number(text)
    except WrongInput as error:
        raise argparse.ArgumentTypeError(str(error)) from None


SWEEP_HELP = "a sweep's id or its beginning, its name for the newest of that name, or last"


def add_folders(parser: Parser | argparse._ArgumentGroup) -> None:
    text = "folder with NAME.csv[.gz], which is downloaded if missing (default data)"
    parser.add_argument("--data-dir", type=Path, default=Path("data"), metavar="DIR", help=text)
    text = "folder for sweeps and converted data (default runs)"
    parser.add_argument("--storage-path", type=Path, default=Path("runs"), metavar="DIR", help=text)


def add_margin(parser: Parser) -> None:
    text = "a validation error larger by at most this counts as not worse (default 1)"
    parser.add_argument("--margin-pct", type=float, default=1.0, metavar="PCT", help=text)


def add_tracking_uri(parser: Parser) -> None:
    parser.add_argument(
        "--tracking-uri", metavar="URI", help="MLflow store (default MLFLOW_TRACKING_URI, else sqlite:///mlflow.db)"
    )


def tracking_uri(arguments: argparse.Namespace) -> str:
    """The MLflow store of a command: --tracking-uri, else MLFLOW_TRACKING_URI, else a file in the current folder."""
    return store_address(arguments.tracking_uri)


def store_address(given: str | None) -> str:
    """The MLflow store where `given` is what was asked for, as `tracking_uri` finds it."""
    return given or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path('mlflow.db').absolute()}"


def given_tracking_uri(arguments: argparse.Namespace) -> str | None:
    """The store that the command line or the environment names; None where neither does."""
    return arguments.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or None


def add_csv(parser: Parser | argparse._ArgumentGroup) -> None:
    text = "of a table, as benchmark has: also write one row a cell as CSV"
    parser.add_argument("--csv", metavar="FILE", help=text)


def add_shared(parser: Parser) -> None:
    add_tracking_uri(parser)
    parser.add_argument("--json", metavar="FILE", help="also write the result as JSON; - for stdout")
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")
