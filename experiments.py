"""The command line: parse, run, report. `python experiments.py --help` lists everything."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from data_pipeline.errors import DataError
from tune.errors import INTERRUPTED, WRONG_INPUT, WrongInput
from tune.mlflow_store import TrackingError

EXAMPLES = """examples:
  python experiments.py --sweep pruning --dataset demo --epochs 2     offline, on a laptop
  python experiments.py --sweep pruning --data-dir DIR                ETTh1 from DIR/ETTh1.csv[.gz]
  python experiments.py --sweep pruning --plan                        show the trials, run nothing
  python experiments.py report SWEEP_ID                               the table of an earlier sweep
  python experiments.py data show ETTh1                               what is in a data set
The same command again resumes a sweep that did not finish.
"""


class Parser(argparse.ArgumentParser):
    """argparse with our error form: one line, exit code 2."""

    def error(self, message: str) -> None:  # type: ignore[override]
        raise WrongInput(f"{message} (see --help)")


def sweep_parser() -> Parser:
    parser = Parser(
        prog="experiments.py",
        description="Fast and fair sweeps over PatchTST training.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    what = parser.add_argument_group("what to run")
    what.add_argument("--sweep", required=True, metavar="NAME", help="the sweep, for example: pruning")
    what.add_argument(
        "--dataset",
        metavar="NAME",
        help="ETTh1 (default), ETTh2, ETTm1, ETTm2, traffic, demo, or the path of a CSV or Parquet file",
    )
    what.add_argument("--epochs", type=int, metavar="N", help="training epochs of each trial")
    what.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="a field for every arm, repeatable"
    )
    what.add_argument("--seed", type=int, default=1, metavar="N", help="seed of the first repeat (default 1)")
    text = "how often each arm runs, with its own seed (default 1; 3 in the final of full)"
    what.add_argument("--repeats", type=int, metavar="N", help=text)
    what.add_argument("--trials", type=int, metavar="N", help="how many trials the full sweep draws (default 50)")
    how = parser.add_argument_group("how to run it")
    how.add_argument("--plan", action="store_true", help="print the trials and run nothing")
    _add_folders(how)
    how.add_argument("--address", metavar="ADDR", help="a running Ray cluster, or auto; without it Ray starts here")
    how.add_argument("--gpus-per-trial", type=float, metavar="N", help="1 where there are GPUs; 0 runs on the CPU")
    how.add_argument("--max-concurrent", type=int, metavar="N", help="trials at a time (default: one per GPU)")
    how.add_argument("--fresh", action="store_true", help="start anew even if the same sweep is unfinished")
    how.add_argument("--resume", metavar="SWEEP_ID", help="go on with this sweep, also after a change of code")
    _add_shared(parser)
    return parser


def report_parser() -> Parser:
    parser = Parser(prog="experiments.py report", description="The table of a sweep, from MLflow.", allow_abbrev=False)
    parser.add_argument("sweep_id", metavar="SWEEP_ID")
    _add_shared(parser)
    return parser


def data_parser() -> Parser:
    parser = Parser(prog="experiments.py data show", description="What is in a series.", allow_abbrev=False)
    parser.add_argument("name", metavar="NAME", help="a data set, or the path of a CSV or Parquet file")
    parser.add_argument("--context-length", type=int, default=512, metavar="N", help="time steps in (default 512)")
    parser.add_argument("--prediction-length", type=int, default=96, metavar="N", help="time steps out (default 96)")
    parser.add_argument("--timestamp-column", metavar="NAME", help="of a file; without it, it is found")
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")
    _add_folders(parser)
    return parser


def _add_folders(parser: Parser | argparse._ArgumentGroup) -> None:
    text = "folder with NAME.csv[.gz], downloaded into it where missing (default data)"
    parser.add_argument("--data-dir", type=Path, default=Path("data"), metavar="DIR", help=text)
    text = "sweeps and converted data (default runs)"
    parser.add_argument("--storage-path", type=Path, default=Path("runs"), metavar="DIR", help=text)


def _add_shared(parser: Parser) -> None:
    parser.add_argument(
        "--tracking-uri", metavar="URI", help="MLflow store (default MLFLOW_TRACKING_URI, else sqlite:///mlflow.db)"
    )
    parser.add_argument("--json", metavar="FILE", help="also write the result as JSON; - for stdout")
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")


def tracking_uri(given: str | None) -> str:
    return given or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path('mlflow.db').absolute()}"


def run_command(arguments: argparse.Namespace) -> int:
    from tune import commands

    return commands.sweep(arguments, tracking_uri(arguments.tracking_uri))


def report_command(arguments: argparse.Namespace) -> int:
    from tune import commands

    return commands.report(arguments, tracking_uri(arguments.tracking_uri))


def data_command(arguments: argparse.Namespace) -> int:
    from tune import commands

    return commands.show_data(arguments)


COMMANDS = {
    ("report",): (report_parser, report_command),
    ("data", "show"): (data_parser, data_command),
    (): (sweep_parser, run_command),
}


def main(argv: Sequence[str]) -> int:
    for setting in ("MLFLOW_DISABLE_TELEMETRY=true", "RAY_USAGE_STATS_ENABLED=0"):
        os.environ.setdefault(*setting.split("="))  # nobody but the user hears of a sweep
    try:
        words, (parser, command) = next(item for item in COMMANDS.items() if tuple(argv[: len(item[0])]) == item[0])
        return command(parser().parse_args(argv[len(words) :]))
    except (WrongInput, DataError, TrackingError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return WRONG_INPUT
    except KeyboardInterrupt:
        print("interrupted; the same command again goes on from here", file=sys.stderr)
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
