"""Sweeps as a person runs them: the real command in a folder of its own, run to its end or watched from outside."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from tune.commands.main import main
from tune.tracking.reader import SweepRecord, list_sweeps, read_sweep
from tune.tracking.store import PROJECT

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Ran:
    folder: Path
    code: int
    out: str
    err: str

    @property
    def uri(self) -> str:
        return f"sqlite:///{self.folder / 'mlflow.db'}"

    @property
    def sweep_ids(self) -> list[str]:
        return [summary.sweep_id for summary in list_sweeps(self.uri, PROJECT)]

    def record(self, sweep_id: str | None = None) -> SweepRecord:
        return read_sweep(self.uri, PROJECT, sweep_id or self.sweep_ids[0])


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}


def run(folder: Path, *arguments: str, program: Path = ROOT / "experiments.py") -> Ran:
    done = subprocess.run(
        [sys.executable, str(program), *arguments],
        cwd=folder, env=_environment(), capture_output=True, text=True, timeout=540,
    )  # fmt: skip
    return Ran(folder, done.returncode, done.stdout, done.stderr)


def read(folder: Path, *arguments: str) -> Ran:
    """A command that starts nothing, in this process: a Python of its own would import MLflow for seconds."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setattr("tune.commands.main.prepare_process", lambda: None)
        patch.chdir(folder)
        code = main(arguments)
    return Ran(folder, code, out.getvalue(), err.getvalue())


def outbox(folder: Path) -> list[dict[str, Any]]:
    files = list((folder / "runs").glob("*/outbox.jsonl"))
    text = files[0].read_text() if files else ""
    return [json.loads(line) for line in text.splitlines() if line.endswith("}")]


def ended(folder: Path) -> set[str]:
    return {record["trial_id"] for record in outbox(folder) if record["kind"] == "end"}


def epochs(folder: Path) -> list[tuple[str, int]]:
    return [(record["trial_id"], record["epoch"]) for record in outbox(folder) if record["kind"] == "epoch"]


class Driver:
    """The sweep in the background, watched through its outbox."""

    def __init__(self, folder: Path, log: str, *arguments: str, program: Path = ROOT / "experiments.py") -> None:
        self.folder, self.log = folder, folder / log
        with open(self.log, "wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, str(program), *arguments],
                cwd=folder, env=_environment(), stdout=file, stderr=file,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # as in a terminal
            )  # fmt: skip

    def until(self, happened: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline and self.process.poll() is None:
            if result := happened():
                return result
            time.sleep(0.02)
        raise AssertionError(f"did not happen: {self.log.read_text()}")

    def until_a_trial_is_between_epochs(self) -> None:
        """Wait until a trial that has not ended reports another epoch."""
        before = set(epochs(self.folder))
        self.until(lambda: {trial for trial, _ in set(epochs(self.folder)) - before} - ended(self.folder))

    def processes(self, named: str) -> list[psutil.Process]:
        """Its descendants with this text in their command line."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        return [child for child in children if named in " ".join(child.cmdline())]
