"""A Ray actor that owns the processes of one GPU's probes, as Tune's actors own those of trials.

Most of a probe is loading compiled code and capturing, which needs no GPU for itself. So the probes of a wave load
together, and each is timed alone, while the others wait and compute nothing.
"""

from __future__ import annotations

import os
import tempfile
import threading
from pathlib import Path
from typing import Any

from tune.trial.job import TrialJob
from tune.trial.report import Report, Reporter, TrialEnd, as_result
from tune.worker.process import ForkServer
from tune.worker.supervisor import OutOfMemory, TrialSupervisor, reached


def session_folder() -> str:
    """Of Ray on this node: what lies there goes with it, whoever is killed."""
    from ray._private.worker import _global_node  # Ray has no public way to ask for it

    folder: str = _global_node.get_session_dir_path()
    return folder


class Wave:
    """Probes of one GPU that load together. Each has a thread, which calls `wait` before its timing, then `leave`."""

    def __init__(self, probes: int) -> None:
        self._loading = probes
        self._waiting: list[int] = []  # pids
        self._timed: int | None = None  # pid
        self._changed = threading.Condition()

    def wait(self, pid: int) -> list[int]:
        """Return once no probe loads and no other one is timed: the pids of those that wait."""
        with self._changed:
            self._loading -= 1
            self._waiting.append(pid)
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._loading == 0 and self._timed is None)
            self._waiting.remove(pid)
            self._timed = pid
            return list(self._waiting)

    def leave(self, *, waited: bool) -> None:
        """A probe's process is gone. waited: whether it had its turn, or ended before."""
        with self._changed:
            if waited:
                self._timed = None
            else:
                self._loading -= 1
            self._changed.notify_all()


class Prober:
    """Runs probes, each in a process of its own. Its working directory is a folder of Ray's session.

    Ray must let it run all probes of a wave at a time (max_concurrency).
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(dir=session_folder())
        os.chdir(self._folder.name)
        self._lock = threading.Lock()
        self._waves: dict[int, Wave] = {}
        self._fork_server: ForkServer | None = None

    def probe(self, values: dict[str, Any], wave: int, probes: int) -> dict[str, Any]:
        """Run the probe of a job, one of so many of a wave, which has a number. Returns its end in plain values.

        Raises ProcessLost.
        """
        with self._lock:
            turns = self._waves.setdefault(wave, Wave(probes))
        reports: list[dict[str, Any]] = []
        waited = False

        def note(report: Report, _: Path | None) -> None:
            reports.append(as_result(report))

        def wait_for_turn(pid: int) -> list[int]:
            nonlocal waited
            waited = True
            return turns.wait(pid)

        try:
            self._run(TrialJob.from_dict(values), note, TrialSupervisor(wait_for_turn))
        except OutOfMemory as error:
            return as_result(TrialEnd(status="oom", reason=str(error)))
        finally:
            turns.leave(waited=waited)
        (end,) = reports
        return end

    def _run(self, job: TrialJob, note: Reporter, supervisor: TrialSupervisor) -> None:
        import ray

        node_socket = job.fork_servers.get(ray.get_runtime_context().get_node_id())
        with self._lock:
            if self._fork_server is None or not self._fork_server.alive:
                self._fork_server = reached(node_socket) or ForkServer.start()
            supervisor.fork_server = self._fork_server
        try:
            supervisor.run(job, note, None, node_socket=node_socket)
        finally:
            if supervisor.fork_server is not self._fork_server:  # the common one was lost meanwhile
                supervisor.close()

    def close(self) -> None:
        """End its fork server, if it has one of its own, and remove its folder."""
        if self._fork_server is not None:
            self._fork_server.end()
        os.chdir("/")
        self._folder.cleanup()
