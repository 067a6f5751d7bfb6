"""What to do after a sweep: commands to copy, under its report."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from data_pipeline.datasets import DATASETS
from tune.common.program import INSTALLED, PROGRAM

STORES = ("--tracking-uri", "--storage-path", "--data-dir")  # options that a later command needs, too
NOT_AGAIN = ("--fresh", "--resume", "--save-config", "--json")  # options that are for one command only
OWN_FILE = "my.csv"
TEXT_AT = 4  # columns of a command's indent


def next_steps(sweep_id: str, words: Sequence[str], dataset: str | None) -> list[str]:
    """A heading, and commands, each below what it is for.

    words: the command line of the sweep. dataset: a name or the path of a file; None where a sweep has several.
    """
    options, program = _options(words), program_words()
    store = [word for option in options if option[0] == "--tracking-uri" for word in option]
    folders = [word for option in options if option[0] in STORES for word in option]
    lines = ["Next:"]
    steps = [
        ("a page with charts, to look at or to send", ["report", sweep_id, "--html", "report.html", *store]),
        ("the best model's errors beside naive forecasts", ["predict", sweep_id, "--backtest", *folders]),
        ("every epoch in the MLflow UI", ["ui", *store]),
    ]
    if dataset in DATASETS:
        steps.append(("the same with your own data", [*_others(options), "--dataset", OWN_FILE]))
    elif dataset is not None:
        forecast = ["--input", dataset, "--output", "forecast.csv"]
        steps.insert(2, ("a forecast of the rows after your file", ["predict", sweep_id, *forecast, *folders]))
    for what, command in steps:
        lines += [f"  {what}:", " " * TEXT_AT + f"{program} {shlex.join(command)}"]
    return lines


def program_words() -> str:
    """How to start this program from the current folder, as its user has: a Python that a shell finds has no path."""
    if PROGRAM == INSTALLED:
        return INSTALLED
    script = Path(sys.argv[0]).absolute()
    here = os.path.relpath(script)
    return shlex.join([_python(), str(script) if here.startswith("..") else here])


def _python() -> str:
    if (found := shutil.which("python")) and os.path.samefile(Path(found).parent, Path(sys.executable).parent):
        return "python"
    here = os.path.relpath(sys.executable)
    return sys.executable if here.startswith("..") else here


def _options(words: Sequence[str]) -> list[list[str]]:
    """The options of a sweep's command line, each with its value if it has one."""
    options: list[list[str]] = []
    for word in words:
        if word.startswith("--"):
            options.append(word.split("=", 1))
        elif options:
            options[-1].append(word)
    return options


def _others(options: Sequence[Sequence[str]]) -> Iterator[str]:
    """The words of options that the same sweep of another data set has, too."""
    for option in options:
        if option[0] not in (*NOT_AGAIN, "--dataset"):
            yield from option
