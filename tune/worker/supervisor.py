"""The Ray actor's side of a trial: it computes nothing, but owns the process that does and the one ready for the next.

A trial gets a fresh process, forked from a template that has imported everything. While a trial starts (loads, passes
its gate, compiles), before its first timed epoch, the process of the next one is forked already, and brings up its
device's context; the trial's epochs wait until that process lies still. It serves one trial, then ends. A trial's tag
`warm_start` says how its process came: `prepared` in that way, `forked` where none was prepared for it, or `cold`, a
Python of its own. `unprepared_because` says why the last two.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from tune.common.files import make_private
from tune.machine.out_of_memory import KernelKills
from tune.storage.checksums import write_manifest
from tune.trial.job import Report, TrialJob
from tune.worker.process import ForkServer, ProcessLost, TrialProcess, start_cold

PREPARED, FORKED, COLD = "prepared", "forked", "cold"  # values of the tag warm_start
READY_WITHIN_S = 120.0  # a process that takes longer to come or to prepare is given up


class OutOfMemory(ProcessLost):
    """The kernel killed processes for want of memory while a trial's process was lost."""


class TrialSupervisor:
    """One actor's processes: the template, and at most one that stands by."""

    def __init__(self) -> None:
        self.template: ForkServer | None = None
        self.standby: TrialProcess | None = None
        self._backends: set[str] = set()  # attention of the trials so far: the next one is likely among them
        self._shared: str | None = None  # socket of the node's template
        self._lost = ""  # why the process prepared last cannot be used

    def run(self, job: TrialJob, report: Report, checkpoint: str | None, *, template: str | None = None) -> None:
        """Compute one trial in a process of its own, which is killed if `report` raises. Raises ProcessLost.

        A process that had to measure or to compile may leave the epochs to another one (`TrialJob.rehearse`).
        template: the socket of the node's own; None, or where nobody listens there: this actor has one for itself.
        """
        self._shared = template
        with _own_cache(job) as own:
            told = job if own is None else replace(job, compile_dir=own, gate_dir=str(Path(own) / "gate"))
            rehearsed_s = self._compute(told, report, checkpoint, None)
            if rehearsed_s is not None:
                self._compute(told, report, checkpoint, rehearsed_s)

    def _compute(
        self, job: TrialJob, report: Report, checkpoint: str | None, rehearsed_s: float | None
    ) -> float | None:
        """One process of a trial, to its end; how long it took if the trial is to begin anew in another, else None."""
        taken_s = time.monotonic()
        serving, tags = self._take(job, again=rehearsed_s is not None)
        tags["rehearsed"] = str(rehearsed_s is not None).lower()
        for name in ("moved_because", "checkpoint_damaged"):
            if (told := getattr(job, name)) is not None:
                tags[name] = told
        self._backends.add(job.config["model"]["attention"])
        if job.prepare_next and not job.isolate:
            self._prepare(job)
        order = {"job": job.as_dict(), "folder": os.getcwd(), "checkpoint": checkpoint, "tags": tags}
        with serving, _telling_of_memory() as kills:
            serving.send("run", order | {"rehearsed_s": rehearsed_s, "taken_s": taken_s})
            return self._serve(serving, report, kills)

    def _serve(self, serving: TrialProcess, report: Report, kills: KernelKills) -> float | None:
        for kind, content in serving.messages():
            kills.restart()
            if kind == "anew":
                return float(content)
            if kind == "settle":
                serving.send("idle", self._settle())
            elif kind == "caught_up":
                serving.send("caught_up")
            else:
                _pass_on(report, *content)
                if kind == "report":  # one that was handed over expects no answer
                    serving.send("reported")
        return None

    def _take(self, job: TrialJob, *, again: bool) -> tuple[TrialProcess, dict[str, str]]:
        """A process for `job`, and what the trial is to tell of it."""
        standby, self.standby = self.standby, None
        if standby is not None:
            if not job.isolate and standby.wakes(READY_WITHIN_S):
                return standby, {"warm_start": PREPARED}
            self._give_up(standby)
        none = "no other was prepared for its epochs" if again else "no trial ran before it in this actor"
        tags = {"warm_start": COLD, "unprepared_because": "isolated" if job.isolate else self._lost or none}
        if not job.isolate and (forked := self._forked()) is not None:
            return forked, tags | {"warm_start": FORKED}
        return start_cold(), tags

    def _forked(self) -> TrialProcess | None:
        """One that has imported everything; None where its template was lost: a cold one can say what is wrong."""
        try:
            forked = self._a_template().fork()
        except OSError:
            return None
        if forked.wakes(READY_WITHIN_S):
            return forked
        forked.end(0.0)
        return None

    def _a_template(self) -> ForkServer:
        """The node's, as long as it lives; else this actor's own."""
        if self.template is not None and not self.template.lives:
            self.template.end()
            self.template = None
        if self.template is None:
            self.template = _reached(self._shared) or ForkServer.start()
        return self.template

    def _prepare(self, job: TrialJob) -> None:
        self._lost = ""
        try:
            self.standby = self._a_template().fork()
        except OSError as error:
            self._lost = f"the template was lost: {error}"
        else:
            self.standby.send("prepare", {"job": job.as_dict(), "backends": sorted(self._backends)})

    def _settle(self) -> list[int]:
        """Wait for the process that is being prepared: its number, or none where there is none."""
        if self.standby is None:
            return []
        if not self.standby.ready(READY_WITHIN_S):
            self._give_up(self.standby)
            self.standby = None
            return []
        assert self.standby.pid is not None
        return [self.standby.pid]

    def _give_up(self, standby: TrialProcess) -> None:
        self._lost = f"the prepared process is of no use: {standby.problem}"
        standby.end(0.0)


def _reached(socket_path: str | None) -> ForkServer | None:
    if socket_path is None:
        return None
    try:
        return ForkServer.reach(socket_path)
    except OSError:  # its keeper was lost
        return None


def _pass_on(report: Report, result: dict[str, Any], folder: str | None) -> None:
    """Seal a checkpoint, report, and remove the trial's own copy of what is stored by then."""
    if folder is not None and "epoch" in result:
        write_manifest(Path(folder))
    report(result, None if folder is None else Path(folder))
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _telling_of_memory() -> Iterator[KernelKills]:
    """Inside, a process that is lost while the kernel kills processes for want of memory is told as OutOfMemory.

    Only what it did since the trial was last heard of counts, as whoever hears it notes by `restart`: a loss for
    another reason is tried again.
    """
    kills = KernelKills()
    try:
        yield kills
    except ProcessLost as error:
        if (told := kills.in_words()) is None:
            raise
        raise OutOfMemory(f"{error}; {told}") from None


def _own_cache(job: TrialJob) -> AbstractContextManager[str | None]:
    """With `isolate` an empty folder for compiled code, removed afterwards."""
    if not job.isolate or job.compile_dir is None:
        return nullcontext()
    make_private(Path(job.compile_dir), "compiled programs")
    return tempfile.TemporaryDirectory(prefix=f"{job.trial_id}-", dir=job.compile_dir, ignore_cleanup_errors=True)


_NURSERY: list[TrialSupervisor] = []


def here() -> TrialSupervisor:
    """This process's own: an actor runs one trial after another, and keeps it between them."""
    if not _NURSERY:
        _NURSERY.append(TrialSupervisor())
    return _NURSERY[0]
