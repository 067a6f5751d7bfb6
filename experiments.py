"""The command line: parse, run, report. `python experiments.py --help` lists everything."""

from __future__ import annotations

import argparse
import itertools
import os
import sys
from collections.abc import Sequence
from pathlib import Path


def incomplete(missing: ModuleNotFoundError) -> int:
    """Says that this Python is not the one that `make setup` filled."""
    how = "run `make setup` and `. .venv/bin/activate`, then the same command again"
    print(f"error: {sys.executable} has no package '{missing.name}': {how}", file=sys.stderr)
    return 2


try:
    from data_pipeline.errors import DataError
    from tune.commands.compare import compare_parser
    from tune.commands.data import data_parser
    from tune.commands.doctor import doctor_parser
    from tune.commands.flush import flush_parser
    from tune.commands.jobs import logs_parser, status_parser, stop_parser
    from tune.commands.listing import list_parser, runs_parser
    from tune.commands.predict import predict_parser
    from tune.commands.report import report_parser
    from tune.commands.sweep import sweep_parser
    from tune.common.errors import (
        INTERRUPTED,
        OUTPUT_CLOSED,
        WRONG_INPUT,
        WrongInput,
        disk_full,
        printable,
        unknown_name,
    )
    from tune.console.streams import OutputClosed, lasting_stderr, watched_stdout
    from tune.tracking.store import TrackingError, check_no_password
except KeyboardInterrupt:  # Ctrl-C before main() can answer it
    sys.exit(130)
except ModuleNotFoundError as missing:
    sys.exit(incomplete(missing))


def tracking_uri(given: str | None) -> str:
    return given or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path('mlflow.db').absolute()}"


def run_command(arguments: argparse.Namespace) -> int:
    from tune.commands import sweep

    if arguments.submit is not None:
        from tune.commands import jobs

        return jobs.submit(arguments)
    return sweep.sweep(arguments, tracking_uri(arguments.tracking_uri))


def status_command(arguments: argparse.Namespace) -> int:
    from tune.commands import jobs

    return jobs.status(arguments, tracking_uri(arguments.tracking_uri))


def logs_command(arguments: argparse.Namespace) -> int:
    from tune.commands import jobs

    return jobs.logs(arguments, tracking_uri(arguments.tracking_uri))


def stop_command(arguments: argparse.Namespace) -> int:
    from tune.commands import jobs

    return jobs.stop(arguments, tracking_uri(arguments.tracking_uri))


def report_command(arguments: argparse.Namespace) -> int:
    from tune.commands import report

    return report.report(arguments, tracking_uri(arguments.tracking_uri))


def compare_command(arguments: argparse.Namespace) -> int:
    from tune.commands import compare

    return compare.compare(arguments, tracking_uri(arguments.tracking_uri))


def flush_command(arguments: argparse.Namespace) -> int:
    from tune.commands.flush import flush

    return flush(arguments, arguments.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or None)


def predict_command(arguments: argparse.Namespace) -> int:
    from tune.commands.predict import predict

    return predict(arguments, tracking_uri(arguments.tracking_uri))


def data_command(arguments: argparse.Namespace) -> int:
    from tune.commands import data

    return data.show_data(arguments)


def list_command(arguments: argparse.Namespace) -> int:
    from tune.commands import listing

    return listing.show_registries(arguments)


def runs_command(arguments: argparse.Namespace) -> int:
    from tune.commands import listing

    return listing.show_runs(arguments, tracking_uri(arguments.tracking_uri))


def doctor_command(arguments: argparse.Namespace) -> int:
    from tune.commands import doctor

    return doctor.doctor(arguments, tracking_uri(arguments.tracking_uri))


COMMANDS = {
    ("list", "runs"): (runs_parser, runs_command),
    ("list",): (list_parser, list_command),
    ("doctor",): (doctor_parser, doctor_command),
    ("status",): (status_parser, status_command),
    ("logs",): (logs_parser, logs_command),
    ("stop",): (stop_parser, stop_command),
    ("report",): (report_parser, report_command),
    ("flush",): (flush_parser, flush_command),
    ("compare",): (compare_parser, compare_command),
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
            words, options = split_command(argv)
            parser, command = COMMANDS[words]
            arguments = parser().parse_args(options)
            check_no_password(getattr(arguments, "tracking_uri", None))
            return command(arguments)
    except OutputClosed:
        return OUTPUT_CLOSED
    except (WrongInput, DataError, TrackingError) as error:
        line = " ".join(str(error).split())
        print(f"error: {printable(line.encode(errors='backslashreplace').decode())}", file=sys.stderr)
        return WRONG_INPUT
    except ModuleNotFoundError as missing:  # of what a command imports when it is needed
        return incomplete(missing)
    except KeyboardInterrupt:
        print(f"interrupted{'; the same command again goes on from here' if _sweeps(argv) else ''}", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        if (told := disk_full(error)) is None:
            raise
        rest = "nothing is lost, make room and the same command goes on from here" if _sweeps(argv) else "make room"
        print(f"error: a disk is full: {told}; {rest}", file=sys.stderr)
        return INTERRUPTED if _sweeps(argv) else WRONG_INPUT


def _sweeps(argv: Sequence[str]) -> bool:
    """Whether a command runs a sweep, which can go on."""
    return "--plan" not in argv and not any(word in argv[:1] for word, *_ in filter(None, COMMANDS))


def split_command(argv: Sequence[str]) -> tuple[tuple[str, ...], list[str]]:
    """The key in COMMANDS that the arguments begin with, and the rest; WrongInput with the nearest for other words."""
    given = tuple(itertools.takewhile(lambda word: not word.startswith("-"), argv))
    longer = [words for words in COMMANDS if len(words) > 1 and words[:1] == given[:1]]
    for words in COMMANDS:
        if given[: len(words)] == words and (words or not given):
            if given[1:] and longer and len(words) == 1:  # the second word is wrong
                break
            return words, list(argv[len(words) :])
    if longer and argv[1:2] in (["--help"], ["-h"]):
        return longer[0], list(argv[1:])
    shown = " ".join(given[: 2 if longer else 1])
    raise unknown_name("command", shown, (" ".join(words) for words in COMMANDS if words))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
