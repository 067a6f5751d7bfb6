"""Processes that compute trials, and the templates that they are forked from, as seen by the Ray actor that owns them.

A template has imported what every trial needs. Each node that may run trials has one from the moment the sweep knows of
it (`tune.worker.node_forkserver`), which forks for all actors there; where an actor cannot reach it, it starts one of its own.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from multiprocessing.reduction import send_handle
from pathlib import Path
from typing import Any, Self

from tune.common.process import alive
from tune.machine.code_identity import OURS, package_dir

GONE_WITHIN_S = 20.0  # a process that takes longer to end is killed


class ProcessLost(RuntimeError):
    """A trial's process ended before its trial did."""


class TrialProcess:
    """A process that serves one trial. As a context manager: it is gone afterwards."""

    def __init__(self, pipe: Connection, popen: subprocess.Popen[bytes] | None = None) -> None:
        self._pipe, self._popen = pipe, popen
        self.pid: int | None = popen.pid if popen else None  # of a forked one it is its first message
        self._ready = False
        self.problem: str | None = None  # why it cannot be used

    def send(self, kind: str, content: Any = None) -> None:
        with suppress(OSError):  # it is gone: whoever reads next finds out
            self._pipe.send((kind, content))

    def ready(self, within_s: float) -> bool:
        """Whether it is prepared and lives; waits for that. If not, `problem` says why."""
        until = time.monotonic() + within_s
        try:
            while self._pipe.poll(0 if self._ready else max(0.0, until - time.monotonic())):
                kind, content = self._pipe.recv()
                if kind == "pid":
                    self.pid = content
                elif kind == "ready":
                    self._ready = True
                else:
                    self.problem = content
                    return False
        except (EOFError, OSError):
            self.problem = "it was lost"
            return False
        if not self._ready:
            self.problem = f"it was not ready within {within_s:g} s"
        return self._ready

    def wakes(self, within_s: float) -> bool:
        """The same, asked of the process itself: a pipe does not tell at once that its other end was killed."""
        self._ready = False
        self.send("wake")
        return self.ready(within_s)

    def messages(self) -> Iterator[tuple[str, Any]]:
        """What its trial says, up to its end. Raises ProcessLost."""
        while True:
            try:
                kind, content = self._pipe.recv()
            except (EOFError, OSError):
                raise ProcessLost(f"the trial's process {self.pid} was lost before the trial ended") from None
            if kind == "end":
                return
            if kind not in ("pid", "ready"):
                yield kind, content

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self.end(GONE_WITHIN_S if kind is None else 0.0)

    def end(self, within_s: float) -> None:
        """Wait until it is gone, with its memory on the device; kill it after `within_s` seconds."""
        until = time.monotonic() + within_s
        if self.pid is None:  # forked a moment ago: it reads the end of the pipe before anything else
            self._pipe.close()
            return
        while self._lives() and time.monotonic() < until:
            time.sleep(0.005)
        if self._lives():
            with suppress(ProcessLookupError):  # it ended by itself just now
                os.kill(self.pid, 9)
        while self._lives():
            time.sleep(0.005)
        self._pipe.close()

    def _lives(self) -> bool:
        if self._popen is not None:
            return self._popen.poll() is None
        return self.pid is not None and alive(self.pid)


def start_cold() -> TrialProcess:
    """A process that knows nothing yet."""
    ours, theirs = Pipe()
    with theirs:
        return TrialProcess(ours, _python("serve", theirs))


def _python(kind: str, pipe: Connection, *arguments: str) -> subprocess.Popen[bytes]:
    """Imports what this process imports, from the same places: Ray may have shipped our packages."""
    places = [str(package_dir(name).parent) for name in OURS] + [path for path in sys.path if path]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(dict.fromkeys(places))}
    command = [sys.executable, "-P", "-m", "tune.worker.forkserver", kind, str(pipe.fileno()), *arguments]
    return subprocess.Popen(command, pass_fds=[pipe.fileno()], stdin=subprocess.DEVNULL, env=environment)


class ForkServer:
    """A way to the process that ready ones are forked from; `start` and `reach` make one."""

    def __init__(self, control: Connection, popen: subprocess.Popen[bytes] | None) -> None:
        self._control, self._popen = control, popen

    @classmethod
    def start(cls, *, listen_at: Path | None = None) -> Self:
        """A template of this process's own, which ends with it. listen_at: a socket where others may reach it too."""
        ours, theirs = Pipe()
        with theirs:
            return cls(ours, _python("template", theirs, *([] if listen_at is None else [str(listen_at)])))

    @classmethod
    def reach(cls, socket_path: str) -> Self:
        """Somebody else's on this machine, at its socket. OSError where none listens."""
        line = socket.socket(socket.AF_UNIX)
        try:
            line.connect(socket_path)
        except OSError:
            line.close()
            raise
        return cls(Connection(line.detach()), None)

    @property
    def lives(self) -> bool:
        return not self._control.poll()  # it never says anything: what there is to read is its end

    def fork(self) -> TrialProcess:
        """Returns at once; the process comes as soon as the template has imported everything. OSError if it is gone.

        It gets the environment that this process has now.
        """
        ours, theirs = Pipe()
        with theirs:
            send_handle(self._control, theirs.fileno(), None)
        serving = TrialProcess(ours)
        serving.send("environment", dict(os.environ))
        return serving

    def end(self) -> None:
        """The template ends with the pipe of whoever started it; what it has forked does not."""
        self._control.close()
        if self._popen is not None:
            self._popen.wait()
