"""The command line: parse, run, report. `python experiments.py --help` lists everything."""

from __future__ import annotations

import argparse
import itertools
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from data_pipeline.errors import DataError
from tune.cli import (
    data_parser,
    doctor_parser,
    list_parser,
    predict_parser,
    report_parser,
    runs_parser,
    sweep_parser,
)
from tune.errors import INTERRUPTED, OUTPUT_CLOSED, WRONG_INPUT, WrongInput, unknown_name
from tune.mlflow_store import TrackingError
from tune.streams import OutputClosed, lasting_stderr, watched_stdout


def tracking_uri(given: str | None) -> str:
    return given or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path('mlflow.db').absolute()}"


def run_command(arguments: argparse.Namespace) -> int:
    from tune import commands

    return commands.sweep(arguments, tracking_uri(arguments.tracking_uri))


def report_command(arguments: argparse.Namespace) -> int:
    from tune import commands

    return commands.report(arguments, tracking_uri(arguments.tracking_uri))


def predict_command(arguments: argparse.Namespace) -> int:
    from tune.predict import predict

    return predict(arguments, tracking_uri(arguments.tracking_uri))


def data_command(arguments: argparse.Namespace) -> int:
    from tune import commands

    return commands.show_data(arguments)


def list_command(arguments: argparse.Namespace) -> int:
    from tune import listing

    return listing.show_registries(arguments)


def runs_command(arguments: argparse.Namespace) -> int:
    from tune import listing

    return listing.show_runs(arguments, tracking_uri(arguments.tracking_uri))


def doctor_command(arguments: argparse.Namespace) -> int:
    from tune import doctor

    return doctor.doctor(arguments, tracking_uri(arguments.tracking_uri))


COMMANDS = {
    ("list", "runs"): (runs_parser, runs_command),
    ("list",): (list_parser, list_command),
    ("doctor",): (doctor_parser, doctor_command),
    ("report",): (report_parser, report_command),
    ("predict",): (predict_parser, predict_command),
    ("data", "show"): (data_parser, data_command),
    (): (sweep_parser, run_command),
}


def main(argv: Sequence[str]) -> int:
    for setting in ("MLFLOW_DISABLE_TELEMETRY=true", "RAY_USAGE_STATS_ENABLED=0"):
        os.environ.setdefault(*setting.split("="))  # nobody but the user hears of a sweep
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # stderr has our own progress
    with lasting_stderr():
        return _answer(argv)


def _answer(argv: Sequence[str]) -> int:
    try:
        with watched_stdout():
            words = command_words(argv)
            parser, command = COMMANDS[words]
            return command(parser().parse_args(argv[len(words) :]))
    except OutputClosed:
        return OUTPUT_CLOSED
    except (WrongInput, DataError, TrackingError) as error:
        line = " ".join(str(error).split())
        print(f"error: {line.encode(errors='backslashreplace').decode()}", file=sys.stderr)
        return WRONG_INPUT
    except KeyboardInterrupt:
        print("interrupted; the same command again goes on from here", file=sys.stderr)
        return INTERRUPTED


def command_words(argv: Sequence[str]) -> tuple[str, ...]:
    """The key in COMMANDS that the arguments begin with; WrongInput with the nearest for other words."""
    for words in COMMANDS:
        if tuple(argv[: len(words)]) == words and (words or not argv or argv[0].startswith("-")):
            return words
    several = any(words[:1] == (argv[0],) for words in COMMANDS)  # the first word is right
    given = " ".join(itertools.takewhile(lambda word: not word.startswith("-"), argv[: 2 if several else 1]))
    raise unknown_name("command", given, (" ".join(words) for words in COMMANDS if words))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
