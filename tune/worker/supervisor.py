"""The Ray actor's side of a trial. It computes nothing: it owns the trial's process, and the next trial's.

A trial gets a fresh process, forked from a fork server that has imported everything. While the trial loads, passes its
gate and compiles, the next trial's process is forked and brings up its device context. The first timed epoch waits
until that process idles. A process computes one trial, then ends.

A trial's tag `warm_start` says how it got its process: `prepared` as above, `forked` for it at once, or `cold`, a new
Python. `unprepared_because` gives the reason for the last two.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

from tune.common.files import make_private
from tune.common.surroundings import complete_surroundings
from tune.machine.out_of_memory import KernelKills
from tune.storage.checksums import write_manifest
from tune.trial.job import TrialJob
from tune.trial.report import EpochReport, Report, Reporter, TrialEnd
from tune.worker.messages import PrepareOrder, RunOrder
from tune.worker.process import ForkServer, ProcessLost, TrialProcess, start_cold

PREPARED, FORKED, COLD = "prepared", "forked", "cold"  # values of the tag warm_start
READY_WITHIN_S = 120.0  # a process that takes longer to start or to prepare is given up


class OutOfMemory(ProcessLost):
    """A trial's process was lost while the kernel killed processes for lack of memory."""


class TrialSupervisor:
    """One actor's processes: a connection to a fork server, and at most one process prepared for the next trial.

    wait_for_turn: called before a trial's first timed step, with its process's pid, if others load on its device. It
    returns once none does, with their pids.
    """

    def __init__(self, wait_for_turn: Callable[[int], list[int]] | None = None) -> None:
        complete_surroundings()
        self._wait_for_turn = wait_for_turn
        self.fork_server: ForkServer | None = None
        self.prepared: TrialProcess | None = None
        self._backends: set[str] = set()  # attention of the trials so far: the next one is likely among them
        self._node_socket: str | None = None  # of the node's fork server
        self._unusable = ""  # why the process prepared last cannot be used

    def run(self, job: TrialJob, report: Reporter, checkpoint: str | None, *, node_socket: str | None = None) -> None:
        """Compute one trial in a process of its own, which is killed if `report` raises. Raises ProcessLost.

        A process that ran the gate or compiled may hand over to a fresh one (`TrialJob.may_hand_over`).

        node_socket: of the node's fork server. If that is None or nobody listens there, this actor starts its own.
        """
        self._node_socket = node_socket
        with _isolated_cache(job) as cache:
            if cache is not None:
                job = replace(job, compile_dir=cache, gate_dir=str(Path(cache) / "gate"))
            cache_warmup_s = self._compute(job, report, checkpoint, None)
            if cache_warmup_s is not None:
                self._compute(job, report, checkpoint, cache_warmup_s)

    def warm_up(self, job: TrialJob, *, node_socket: str | None = None) -> tuple[float, str | None]:
        """Fill the caches with what `job` needs, in a process that trains nothing (`TrialJob.warm_up`).

        Returns the seconds that it took, and why it did not come to its end; None if it did. Never raises for what can
        go wrong in the process.
        """
        self._node_socket, began_s = node_socket, time.monotonic()
        process, _ = self._take_process(job, fresh=False)
        order = RunOrder(job=job, folder=os.getcwd(), checkpoint=None, tags={}, cache_warmup_s=None, received_s=began_s)
        problem: str | None = None

        def note(report: Report, _: Path | None) -> None:
            nonlocal problem
            problem = report.reason if isinstance(report, TrialEnd) else "it trained an epoch"

        try:
            with process:
                process.send("run", order)
                self._attend(process, note, KernelKills())
        except ProcessLost as error:
            problem = str(error)
        return time.monotonic() - began_s, problem

    def close(self) -> None:
        """End the process that was prepared for a trial that does not come, and this actor's own fork server."""
        if self.prepared is not None:
            self.prepared.end(0.0)
        if self.fork_server is not None:
            self.fork_server.end()
        self.prepared = self.fork_server = None

    def _compute(
        self, job: TrialJob, report: Reporter, checkpoint: str | None, cache_warmup_s: float | None
    ) -> float | None:
        """Run one process of a trial to its end. Returns how long it took if it handed over, else None."""
        received_s = time.monotonic()
        process, tags = self._take_process(job, fresh=cache_warmup_s is not None)
        tags["rehearsed"] = str(cache_warmup_s is not None).lower()
        reasons = {"moved_because": job.moved_because, "checkpoint_damaged": job.checkpoint_damaged}
        tags |= {name: reason for name, reason in reasons.items() if reason is not None}
        self._backends.add(job.config.model.attention)
        if job.prepare_next and not job.isolate:
            self._prepare(job)
        order = RunOrder(
            job=job,
            folder=os.getcwd(),
            checkpoint=checkpoint,
            tags=tags,
            cache_warmup_s=cache_warmup_s,
            received_s=received_s,
        )
        with process, _naming_lack_of_memory() as kills:
            process.send("run", order)
            return self._attend(process, report, kills)

    def _attend(self, process: TrialProcess, report: Reporter, kills: KernelKills) -> float | None:
        for kind, content in process.messages():
            kills.restart()
            if kind == "hand_over":
                return float(content)
            if kind == "wait_until_idle":
                process.send("idle", [*self._wait_until_idle(), *self._others(process)])
            elif kind == "catch_up":
                process.send("caught_up")
            else:
                _pass_on(report, *content)
                if kind == "report":  # one that came early expects no answer
                    process.send("reported")
        return None

    def _take_process(self, job: TrialJob, *, fresh: bool) -> tuple[TrialProcess, dict[str, str]]:
        """A process for `job`, and the tags that say how it came. fresh: whether an earlier one handed over to it."""
        prepared, self.prepared = self.prepared, None
        if prepared is not None:
            if not job.isolate and prepared.responds(READY_WITHIN_S):
                return prepared, {"warm_start": PREPARED}
            self._give_up(prepared)
        never = "no other was prepared for its epochs" if fresh else "no trial ran before it in this actor"
        tags = {"warm_start": COLD, "unprepared_because": "isolated" if job.isolate else self._unusable or never}
        if not job.isolate and (forked := self._forked()) is not None:
            return forked, tags | {"warm_start": FORKED}
        return start_cold(), tags

    def _forked(self) -> TrialProcess | None:
        """A process that has imported everything. None if the fork server was lost: a cold one can say why."""
        try:
            forked = self._living_fork_server().fork()
        except OSError:
            return None
        if forked.responds(READY_WITHIN_S):
            return forked
        forked.end(0.0)
        return None

    def _living_fork_server(self) -> ForkServer:
        """The node's as long as it lives, else this actor's own."""
        if self.fork_server is not None and not self.fork_server.alive:
            self.fork_server.end()
            self.fork_server = None
        if self.fork_server is None:
            self.fork_server = reached(self._node_socket) or ForkServer.start()
        return self.fork_server

    def _prepare(self, job: TrialJob) -> None:
        self._unusable = ""
        try:
            self.prepared = self._living_fork_server().fork()
        except OSError as error:
            self._unusable = f"the fork server was lost: {error}"
        else:
            self.prepared.send("prepare", PrepareOrder(job=job, backends=sorted(self._backends)))

    def _wait_until_idle(self) -> list[int]:
        """Wait for the process that is being prepared. Returns its pid, or nothing if there is none."""
        if self.prepared is None:
            return []
        if not self.prepared.ready(READY_WITHIN_S):
            self._give_up(self.prepared)
            self.prepared = None
            return []
        assert self.prepared.pid is not None
        return [self.prepared.pid]

    def _others(self, process: TrialProcess) -> list[int]:
        if self._wait_for_turn is None:
            return []
        assert process.pid is not None
        return self._wait_for_turn(process.pid)

    def _give_up(self, prepared: TrialProcess) -> None:
        self._unusable = f"the prepared process cannot be used: {prepared.problem}"
        prepared.end(0.0)


def reached(socket_path: str | None) -> ForkServer | None:
    """The fork server that listens there; None if none does."""
    if socket_path is None:
        return None
    try:
        return ForkServer.reach(socket_path)
    except OSError:  # its owner was lost
        return None


def _pass_on(report: Reporter, content: Report, folder: str | None) -> None:
    """Write a checkpoint's manifest, report, and remove the trial's own copy: it is stored by then."""
    if folder is not None and isinstance(content, EpochReport):
        write_manifest(Path(folder))
    report(content, None if folder is None else Path(folder))
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _naming_lack_of_memory() -> Iterator[KernelKills]:
    """Inside, ProcessLost becomes OutOfMemory if the kernel was killing processes for lack of memory.

    Only kills since the last `restart` count, which the caller calls at each message of the trial: a process that is
    lost for another reason is tried again.
    """
    kills = KernelKills()
    try:
        yield kills
    except ProcessLost as error:
        if (killed := kills.in_words()) is None:
            raise
        raise OutOfMemory(f"{error}; {killed}") from None


def _isolated_cache(job: TrialJob) -> AbstractContextManager[str | None]:
    """With `isolate` an empty folder for compiled code, removed afterwards."""
    if not job.isolate or job.compile_dir is None:
        return nullcontext()
    make_private(Path(job.compile_dir), "compiled programs")
    return tempfile.TemporaryDirectory(prefix=f"{job.trial_id}-", dir=job.compile_dir, ignore_cleanup_errors=True)


_SUPERVISORS: list[TrialSupervisor] = []


def of_this_process() -> TrialSupervisor:
    """This process's supervisor: an actor runs one trial after another, and keeps it between them."""
    if not _SUPERVISORS:
        _SUPERVISORS.append(TrialSupervisor())
    return _SUPERVISORS[0]
