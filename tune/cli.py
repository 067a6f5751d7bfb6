"""The parsers of the command line: every option, its help and its default. No logic."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from tune.errors import WrongInput, did_you_mean

WAIT_FOR_GPUS_S = 600.0

EXAMPLES = """examples:
  python experiments.py --sweep pruning --dataset demo --epochs 2 --repeats 1    offline, on a laptop
  python experiments.py --sweep pruning --data-dir DIR                ETTh1 from DIR/ETTh1.csv[.gz]
  python experiments.py --sweep pruning --plan                        show the trials, run nothing
  python experiments.py --sweep attention --over model.patch_length=12,24 --plan --gpu-model H100
  python experiments.py --sweep custom --over train.learning_rate=1e-4,1e-3 --repeats 3
  python experiments.py report SWEEP_ID                               the table of an earlier sweep
  python experiments.py report SWEEP_ID --out DIR                     the same with charts: Markdown, HTML and PNG
  python experiments.py compare SWEEP_ID other.json                   did an arm get slower or less accurate?
  python experiments.py flush SWEEP_ID                                what MLflow lacks of it, once it answers again
  python experiments.py predict SWEEP_ID --input my.csv --output forecast.csv
  python experiments.py data show ETTh1                               what is in a data set
  python experiments.py list                                          sweeps, backends, engines, data sets, ...
  python experiments.py --sweep pruning --submit http://HEAD:8265 --storage-path /shared/runs    on a cluster
  python experiments.py status|logs|stop --cluster http://HEAD:8265
  python experiments.py doctor                                        what works here, and what to do about the rest
The same command again resumes a sweep that did not finish.
"""


class Parser(argparse.ArgumentParser):
    """argparse with our error form: one line, exit code 2, with the nearest option for a misspelt one."""

    _given: Sequence[str] = ()

    def parse_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def]
        found = super().parse_args(args, namespace)
        found.words = list(args or ())  # as given, for a command that is sent elsewhere
        return found

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


def sweep_parser() -> Parser:
    parser = Parser(
        prog="experiments.py",
        description="Fast and fair sweeps over PatchTST training.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    what = parser.add_argument_group("what to run")
    what.add_argument("--sweep", metavar="NAME", help="the sweep, for example: pruning (see `experiments.py list`)")
    what.add_argument(
        "--dataset",
        metavar="NAME",
        help="ETTh1 (default), ETTh2, ETTm1, ETTm2, traffic, demo, or the path of a CSV or Parquet file",
    )
    what.add_argument("--epochs", type=int, metavar="N", help="training epochs of each trial")
    what.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="a field for every arm, repeatable"
    )
    what.add_argument(
        "--over",
        action="append",
        default=[],
        metavar="FIELD=V1,V2",
        help="run every arm at each of these values, repeatable (all combinations); ratios are against the sweep's own "
        "baseline arm at the first value of each; over the full sweep: one more dimension of the search",
    )
    what.add_argument("--seed", type=int, metavar="N", help="seed of the first repeat (default 1)")
    text = "how often each arm runs, each time with another seed (default 5; 1 where there is one arm only)"
    what.add_argument("--repeats", type=int, metavar="N", help=text)
    what.add_argument("--trials", type=int, metavar="N", help="how many trials the full sweep draws (default 50)")
    text = "all of these as YAML, a data file's path from its folder; the command line wins"
    what.add_argument("--config", type=Path, metavar="FILE", help=text)
    what.add_argument("--save-config", type=Path, metavar="FILE", help="write what is run as such a file")
    how = parser.add_argument_group("how to run it")
    how.add_argument("--plan", action="store_true", help="print the trials and run nothing")
    _add_folders(how)
    how.add_argument("--address", metavar="ADDR", help="a running Ray cluster, or auto; without it Ray starts here")
    text = "send the sweep to a cluster's job server, http://HOST:8265, and follow it; Ctrl-C only stops following"
    how.add_argument("--submit", metavar="URL", help=text)
    how.add_argument(
        "--gpu-model",
        metavar="NAME",
        help="the GPU model to use where a cluster has several; with --plan: the one to plan for, there or not",
    )
    how.add_argument("--gpus-per-trial", type=float, metavar="N", help="1 where there are GPUs; 0 runs on the CPU")
    text = "trials at a time (default: one per GPU); of a cluster's autoscaler as many GPUs are asked for"
    how.add_argument("--max-concurrent", type=int, metavar="N", help=text)
    text = "how long a cluster's workers may take to join, if need be started for it (default 600; 0: no waiting)"
    how.add_argument("--wait-for-gpus", type=float, default=WAIT_FOR_GPUS_S, metavar="SECONDS", help=text)
    how.add_argument("--fresh", action="store_true", help="start anew even if the same sweep is unfinished")
    how.add_argument("--resume", metavar="SWEEP_ID", help="go on with this sweep, also after a change of code")
    text = "start each trial's process anew, with empty caches of compiled code and gate results: slower"
    how.add_argument("--isolate", action="store_true", help=text)
    _add_shared(parser)
    return parser


def report_parser() -> Parser:
    parser = Parser(prog="experiments.py report", description="The table of a sweep, from MLflow.", allow_abbrev=False)
    parser.add_argument("sweep_id", metavar="SWEEP_ID")
    text = "also write all of it there: report.md, report.html (one page that works offline), png/CHART.png"
    parser.add_argument("--out", metavar="DIR", help=text)
    parser.add_argument("--html", metavar="FILE", help="also write the HTML page alone, under a name of your own")
    text = "what a GPU costs for an hour, with a currency if you like (2.50, or '2.50 EUR'): adds the sweep's cost"
    parser.add_argument("--price-per-gpu-hour", metavar="PRICE", help=text)
    _add_margin(parser)
    _add_shared(parser)
    return parser


def compare_parser() -> Parser:
    text = "Did an arm get slower or less accurate? Exit code 1 if one did from A to B, 0 if not."
    parser = Parser(prog="experiments.py compare", description=text, allow_abbrev=False)
    text = "a sweep id, or a file as --json writes it"
    parser.add_argument("before", metavar="A", help=f"{text}: what is held against")
    parser.add_argument("after", metavar="B", help=text)
    _add_margin(parser)
    _add_shared(parser)
    return parser


def flush_parser() -> Parser:
    text = "Send what a sweep has recorded and MLflow lacks: it did not answer, or was too slow. May be repeated."
    parser = Parser(prog="experiments.py flush", description=text, allow_abbrev=False)
    parser.add_argument("sweep_id", metavar="SWEEP_ID")
    text = "where the sweep lies (default runs)"
    parser.add_argument("--storage-path", type=Path, default=Path("runs"), metavar="DIR", help=text)
    text = "the sweep's MLflow store (default MLFLOW_TRACKING_URI, else the one it was started with)"
    parser.add_argument("--tracking-uri", metavar="URI", help=text)
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")
    return parser


def predict_parser() -> Parser:
    text = "The rows after the last of a file, by a model that a sweep has saved, in the units of the file."
    parser = Parser(prog="experiments.py predict", description=text, allow_abbrev=False)
    text = "a sweep id (its best trial), a trial id (of the newest sweep that has it), an MLflow run (its id, or "
    text += "runs:/ID/model), or a folder"
    parser.add_argument("run", metavar="RUN", help=text)
    text = "CSV (also .gz) or Parquet with a time column and the model's columns"
    parser.add_argument("--input", type=Path, required=True, metavar="FILE", help=text)
    text = "CSV (also .gz) or Parquet to write, by its ending"
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help=text)
    parser.add_argument("--force", action="store_true", help="replace --output if it is there")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to compute (default cpu)")
    parser.add_argument("--timestamp-column", metavar="NAME", help="of --input; without it, it is found")
    _add_tracking_uri(parser)
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


def list_parser() -> Parser:
    parser = Parser(prog="experiments.py list", description="What can be named, in one line each.", allow_abbrev=False)
    parser.add_argument("--json", metavar="FILE", help="also as JSON; - for stdout")
    return parser


def runs_parser() -> Parser:
    parser = Parser(prog="experiments.py list runs", description="The latest sweeps in MLflow.", allow_abbrev=False)
    parser.add_argument("--limit", type=int, default=20, metavar="N", help="how many (default 20)")
    _add_shared(parser)
    return parser


def status_parser() -> Parser:
    parser = Parser(prog="experiments.py status", description="The sweeps sent to a cluster.", allow_abbrev=False)
    _add_job(parser, "this one only")
    _add_shared(parser)
    return parser


def logs_parser() -> Parser:
    text = "What a sweep on a cluster has printed."
    parser = Parser(prog="experiments.py logs", description=text, allow_abbrev=False)
    _add_job(parser, "whose (default: your only one that runs)")
    parser.add_argument("-f", "--follow", action="store_true", help="and what it prints until it ends")
    _add_tracking_uri(parser)
    return parser


def stop_parser() -> Parser:
    text = "Interrupt a sweep on a cluster, so that its command can go on later; it is killed after 90 s."
    parser = Parser(prog="experiments.py stop", description=text, allow_abbrev=False)
    _add_job(parser, "which (default: your only one that runs)")
    _add_tracking_uri(parser)
    return parser


def _add_job(parser: Parser, which: str) -> None:
    parser.add_argument("job", nargs="?", metavar="JOB_OR_SWEEP_ID", help=which)
    text = "the cluster's job server, http://HOST:8265 (default RAY_API_SERVER_ADDRESS)"
    parser.add_argument("--cluster", metavar="URL", help=text)


def doctor_parser() -> Parser:
    parser = Parser(prog="experiments.py doctor", description="What works on this machine.", allow_abbrev=False)
    _add_folders(parser)
    _add_shared(parser)
    return parser


def _add_folders(parser: Parser | argparse._ArgumentGroup) -> None:
    text = "folder with NAME.csv[.gz], downloaded into it where missing (default data)"
    parser.add_argument("--data-dir", type=Path, default=Path("data"), metavar="DIR", help=text)
    text = "sweeps and converted data (default runs)"
    parser.add_argument("--storage-path", type=Path, default=Path("runs"), metavar="DIR", help=text)


def _add_margin(parser: Parser) -> None:
    text = "how much larger a validation error may be and count as not worse (default 1)"
    parser.add_argument("--margin-pct", type=float, default=1.0, metavar="PCT", help=text)


def _add_tracking_uri(parser: Parser) -> None:
    parser.add_argument(
        "--tracking-uri", metavar="URI", help="MLflow store (default MLFLOW_TRACKING_URI, else sqlite:///mlflow.db)"
    )


def _add_shared(parser: Parser) -> None:
    _add_tracking_uri(parser)
    parser.add_argument("--json", metavar="FILE", help="also write the result as JSON; - for stdout")
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")
