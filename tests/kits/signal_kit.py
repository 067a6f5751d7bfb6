"""A sweep that signals stop, and what each of them left."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from kill_kit import SWEEP, finished, orphans, processes
from sweep_kit import Driver

from tune.commands import listing_runs
from tune.tracking.store import TrackingError

ENDS_WITHIN_S = 120.0  # on a machine that others load


@dataclass
class Stop:
    """One signal to one command, and what came of it."""

    when: str
    number: signal.Signals
    code: int
    said: str  # on stdout and stderr
    left: list[str]  # processes, sockets, core files
    row: dict[str, Any]  # of `list runs` afterwards

    def wrong(self, *, may_be_done: bool = False) -> list[str]:
        """A line for each thing that is not as it should be. may_be_done: the sweep may have ended before."""
        wrong = [f"{what} was left" for what in self.left]
        allowed = (128 + self.number, 0) if may_be_done else (128 + self.number,)
        if self.code not in allowed:
            wrong.append(f"exit code {self.code}")
        if self.code != 0 and len(re.findall("the same command again goes on from here", self.said)) != 1:
            wrong.append("it does not say how to go on")
        noise = ("Traceback", "***", "Exception ignored", "tried again", "Error")
        wrong += [f"{line!r} was said" for line in self.said.splitlines() if any(word in line for word in noise)]
        return [f"{self.number.name} {self.when}: {line}" for line in wrong]


@dataclass
class SignalledSweep:
    """One sweep whose command was given again after each signal."""

    folder: Path
    tmp: Path
    stops: list[Stop] = field(default_factory=list)

    def start(self) -> Driver:
        return Driver(self.folder, f"{len(list(self.folder.glob('*.log')))}.log", *SWEEP)

    def send(self, driver: Driver, number: signal.Signals, *, to_all: bool = False) -> None:
        """to_all: to all processes of the sweep, as systemd and Slurm do."""
        for process in processes(self.tmp) if to_all else [psutil.Process(driver.process.pid)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def stop(
        self, driver: Driver, number: signal.Signals, when: str, *, to_all: bool = False, twice: bool = False
    ) -> Stop:
        with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended by itself
            self.send(driver, number, to_all=to_all)
            if twice:
                time.sleep(0.7)  # two that are closer count as one
                self.send(driver, number)
        code = driver.process.wait(timeout=ENDS_WITHIN_S)
        left = [*orphans(self.tmp), *_files_left(self.tmp), *_files_left(self.folder)]
        row = {} if finished(self.folder) else self.row()
        self.stops.append(Stop(when, number, code, driver.log.read_text(), left, row))
        return self.stops[-1]

    def row(self) -> dict[str, Any]:
        """The row of the sweep in `list runs`; nothing before it has one."""
        file = self.folder / "list.json"
        if not (self.folder / "mlflow.db").exists():
            return {}
        arguments = ["--tracking-uri", f"sqlite:///{self.folder / 'mlflow.db'}", "--json", str(file)]
        try:
            assert listing_runs.run(listing_runs.parser().parse_args(arguments)) == 0
        except TrackingError:  # the store has no experiment yet
            return {}
        rows = json.loads(file.read_text())["sweeps"]
        assert len(rows) <= 1
        return rows[0] if rows else {}


def _files_left(folder: Path) -> list[str]:
    return [str(path) for path in folder.rglob("*") if path.is_socket() or re.fullmatch(r"core(\.\d+)?", path.name)]


def ray_starts(tmp: Path) -> Callable[[], bool]:
    return lambda: any(process.name() in ("gcs_server", "raylet") for process in processes(tmp))
