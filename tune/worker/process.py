"""Handles of trials' processes and of fork servers, for the Ray actor that owns or uses them.

A fork server has imported what every trial needs. Each node that may run trials has one as soon as the sweep knows the
node (`tune.worker.node_forkserver`); it forks for all actors there. An actor that cannot reach it starts its own.
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
from tune.common.process_setup import no_core_dumps
from tune.common.secrets import without_secrets
from tune.machine.code_identity import OURS, package_dir

GONE_WITHIN_S = 20.0  # a process that takes longer to end is killed


class ProcessLost(RuntimeError):
    """A trial's process ended before its trial did."""


class TrialProcess:
    """A process that computes one trial. As a context manager: it is gone afterwards."""

    def __init__(self, pipe: Connection, popen: subprocess.Popen[bytes] | None = None) -> None:
        self._pipe, self._popen = pipe, popen
        self.pid: int | None = popen.pid if popen else None  # a forked process sends it first
        self._ready = False
        self.problem: str | None = None  # why it cannot be used

    def send(self, kind: str, content: Any = None) -> None:
        with suppress(OSError):  # it is gone: the next read finds out
            self._pipe.send((kind, content))

    def ready(self, within_s: float) -> bool:
        """Whether it is prepared and alive; waits for that. If not, `problem` says why."""
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

    def responds(self, within_s: float) -> bool:
        """As `ready`, but asks the process: a pipe does not show at once that its other end was killed."""
        self._ready = False
        self.send("ping")
        return self.ready(within_s)

    def messages(self) -> Iterator[tuple[str, Any]]:
        """What its trial says (tune.worker.messages), up to its end. Raises ProcessLost."""
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
        if self.pid is None:  # just forked: it reads the end of the pipe before anything else
            self._pipe.close()
            return
        while self._alive() and time.monotonic() < until:
            time.sleep(0.005)
        if self._alive():
            with suppress(ProcessLookupError):  # it has just ended by itself
                os.kill(self.pid, 9)
        while self._alive():
            time.sleep(0.005)
        self._pipe.close()

    def _alive(self) -> bool:
        if self._popen is not None:
            return self._popen.poll() is None
        return self.pid is not None and alive(self.pid)


def start_cold() -> TrialProcess:
    """A new Python that has imported nothing yet."""
    ours, theirs = Pipe()
    with theirs:
        return TrialProcess(ours, _python("tune.worker.child", theirs))


def _python(module: str, pipe: Connection, *arguments: str) -> subprocess.Popen[bytes]:
    """Run `module` with the same import paths as this process: Ray may have sent our packages here.

    It gets no secrets. Neither does it leave core dumps, nor does this process from now on.
    """
    no_core_dumps()
    places = [str(package_dir(name).parent) for name in OURS] + [path for path in sys.path if os.path.isabs(path)]
    paths = {"PYTHONPATH": os.pathsep.join(dict.fromkeys(places)), "PYTHONSAFEPATH": "1"}
    environment = without_secrets(os.environ) | paths
    command = [sys.executable, "-P", "-m", module, str(pipe.fileno()), *arguments]
    return subprocess.Popen(command, pass_fds=[pipe.fileno()], stdin=subprocess.DEVNULL, env=environment)


class ForkServer:
    """A connection to a fork server; `start` and `reach` make one."""

    def __init__(self, control: Connection, popen: subprocess.Popen[bytes] | None) -> None:
        self._control, self._popen = control, popen

    @classmethod
    def start(cls, *, listen_at: Path | None = None) -> Self:
        """Start one that ends with this process. listen_at: a socket where other processes may reach it too."""
        ours, theirs = Pipe()
        with theirs:
            socket_path = [] if listen_at is None else [str(listen_at)]
            return cls(ours, _python("tune.worker.forkserver", theirs, *socket_path))

    @classmethod
    def reach(cls, socket_path: str) -> Self:
        """Connect to another process's fork server on this machine. OSError if none listens there."""
        client = socket.socket(socket.AF_UNIX)
        try:
            client.connect(socket_path)
        except OSError:
            client.close()
            raise
        return cls(Connection(client.detach()), None)

    @property
    def alive(self) -> bool:
        return not self._control.poll()  # it sends nothing: the only thing to read is its end

    def fork(self) -> TrialProcess:
        """Ask for a process with this process's environment, less its secrets. OSError if the fork server is gone.

        Returns at once; the process starts as soon as the fork server has imported everything.
        """
        ours, theirs = Pipe()
        with theirs:
            send_handle(self._control, theirs.fileno(), None)
        process = TrialProcess(ours)
        process.send("environment", without_secrets(os.environ) | {"PYTHONSAFEPATH": "1"})
        return process

    def end(self) -> None:
        """Close the connection. That ends the fork server if this process started it, but none of its forks."""
        self._control.close()
        if self._popen is not None:
            self._popen.wait()
