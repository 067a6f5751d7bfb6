"""The command line: parse, dispatch, turn errors into exit codes. `experiments.py` calls `program`."""

from __future__ import annotations

import importlib
import itertools
import sys
from collections.abc import Sequence
from typing import Any

from data_pipeline.errors import DataError, DataFaults
from tune.common import signals
from tune.common.errors import (
    INTERRUPTED,
    OUTPUT_CLOSED,
    WRONG_INPUT,
    WrongInput,
    disk_full,
    printable,
    unknown_name,
)
from tune.common.process_setup import prepare_process
from tune.console.streams import OutputClosed, lasting_stderr, watched_stdout
from tune.tracking.store import TrackingError, check_no_password

# The words of a command -> its module in tune/commands, which holds parser() and run(arguments).
COMMANDS: dict[tuple[str, ...], str] = {
    ("list", "runs"): "listing_runs",
    ("list",): "listing",
    ("doctor",): "doctor",
    ("status",): "status",
    ("logs",): "logs",
    ("stop",): "stop",
    ("report",): "report",
    ("flush",): "flush",
    ("gc",): "gc",
    ("delete",): "delete",
    ("compare",): "compare",
    ("predict",): "predict",
    ("train",): "train",
    ("ui",): "ui",
    ("version",): "version",
    ("data", "show"): "data",
    ("data", "import-pems"): "import_pems",
    (): "sweep",
}


def load_command(words: tuple[str, ...]) -> Any:
    """The module of a command, imported when it is asked for: together they take seconds."""
    return importlib.import_module(f"tune.commands.{COMMANDS[words]}")


def program(argv: Sequence[str]) -> int:
    """`main` for a process that runs nothing else: signals stop it, with 128 + the signal as exit code."""
    try:
        signals.install(hint=_hint(argv))
        code = main(argv)
        signals.over()
    except signals.Stopped:  # while something else was being said
        print(signals.line(), file=sys.stderr)
        code = INTERRUPTED
    if signals.received():
        signals.leave(signals.exit_code(code) if code == INTERRUPTED else code)
    return code


def main(argv: Sequence[str]) -> int:
    """Run the command that the arguments name; returns the process's exit code."""
    prepare_process()
    with lasting_stderr():
        try:
            with watched_stdout():
                words, options = split_command(argv)
                command = load_command(words)
                arguments = command.parser().parse_args(options)
                check_no_password(getattr(arguments, "tracking_uri", None))
                return command.run(arguments)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt) or signals.received():  # then any other error is its consequence
                signals.over()
                print(signals.line(_hint(argv)), file=sys.stderr)
                return INTERRUPTED
            return _exit_code(error, argv)


def _exit_code(error: BaseException, argv: Sequence[str]) -> int:
    """Say in one line what a user can do about an error. Raises it again if that is nothing."""
    if isinstance(error, OutputClosed):
        return OUTPUT_CLOSED
    if isinstance(error, WrongInput | DataError | TrackingError):
        lines = str(error).splitlines() if isinstance(error, DataFaults) else [" ".join(str(error).split())]
        for line in lines:
            print(f"error: {printable(line.encode(errors='backslashreplace').decode())}", file=sys.stderr)
        return WRONG_INPUT
    if isinstance(error, ModuleNotFoundError):
        return _incomplete(error)
    if not isinstance(error, Exception) or (reason := disk_full(error)) is None:
        raise error
    resumable = _runs_a_sweep(argv)
    hint = "nothing is lost, make room and the same command goes on from here" if resumable else "make room"
    print(f"error: a disk is full: {reason}; {hint}", file=sys.stderr)
    return INTERRUPTED if resumable else WRONG_INPUT


def _incomplete(missing: ModuleNotFoundError) -> int:
    """Says that this Python is not the one that `make setup` filled."""
    how = "run `make setup` and `. .venv/bin/activate`, then the same command again"
    print(f"error: {sys.executable} has no package '{missing.name}': {how}", file=sys.stderr)
    return WRONG_INPUT


def _hint(argv: Sequence[str]) -> str:
    return "; the same command again goes on from here" if _runs_a_sweep(argv) else ""


def _runs_a_sweep(argv: Sequence[str]) -> bool:
    """Whether the command runs a sweep, which the same command resumes."""
    others = {words[0] for words in COMMANDS if words} - {"train"}
    return "--plan" not in argv and not others & set(argv[:1])


def _sweep_meant(word: str) -> str:
    """What to write for a first word that is a sweep's name, or that other programs run things with; "" for others."""
    from tune.config.sweeps import SWEEPS

    if word in SWEEPS:
        return f"did you mean --sweep {word}?"
    return "a sweep runs with --sweep NAME, as `list` names them" if word in ("run", "sweep", "start") else ""


def split_command(argv: Sequence[str]) -> tuple[tuple[str, ...], list[str]]:
    """The key in COMMANDS that the arguments begin with, and the rest; WrongInput with the nearest for other words."""
    if list(argv) == ["--version"]:
        return ("version",), []
    given = tuple(itertools.takewhile(lambda word: not word.startswith("-"), argv))
    longer = [words for words in COMMANDS if len(words) > 1 and words[:1] == given[:1]]
    for words in COMMANDS:
        if given[: len(words)] == words and (words or not given):
            if given[1:] and longer and len(words) == 1:  # the second word is wrong
                break
            return words, list(argv[len(words) :])
    if longer and argv[1:2] in (["--help"], ["-h"]):
        return longer[0], list(argv[1:])
    if given and (meant := _sweep_meant(given[0])):
        raise WrongInput(f"{given[0]!r} is no command: {meant}")
    shown = " ".join(given[: 2 if longer else 1])
    raise unknown_name("command", shown, (" ".join(words) for words in COMMANDS if words))
