"""The Ray actor's side of a trial: it computes nothing, but owns the process that does and the one ready for the next.

A trial gets a fresh process. While a trial starts (loads, passes its gate, compiles), before its first timed epoch, the
process of the next one is forked from a template that has imported everything, and brings up its device's context; the
trial's epochs wait until that process lies still. It serves one trial, then ends. Where none is ready, the trial starts
a process itself; its tag `warm_start` says `cold`, and `cold_because` why.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import replace
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from multiprocessing.reduction import send_handle
from pathlib import Path
from typing import Any, Self

from tune.hardware import OURS, alive, package_dir
from tune.memory import KernelKills
from tune.private import make_private
from tune.trial import Report, TrialJob
from tune.whole import seal

PREPARED, COLD = "prepared", "cold"  # values of the tag warm_start
READY_WITHIN_S = 120.0  # a process that takes longer to prepare is given up
GONE_WITHIN_S = 20.0  # a process that takes longer to end is killed


class ProcessLost(RuntimeError):
    """A trial's process ended before its trial did."""


class OutOfMemory(ProcessLost):
    """The kernel killed processes for want of memory while a trial's process was lost."""


class Serving:
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


def start_cold() -> Serving:
    """A process that knows nothing yet."""
    ours, theirs = Pipe()
    with theirs:
        return Serving(ours, _python("serve", theirs))


def _python(kind: str, pipe: Connection) -> subprocess.Popen[bytes]:
    """Imports what this process imports, from the same places: Ray may have shipped our packages."""
    places = [str(package_dir(name).parent) for name in OURS] + [path for path in sys.path if path]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(dict.fromkeys(places))}
    command = [sys.executable, "-P", "-m", "tune.standby", kind, str(pipe.fileno())]
    return subprocess.Popen(command, pass_fds=[pipe.fileno()], stdin=subprocess.DEVNULL, env=environment)


class Template:
    """The process that ready ones are forked from."""

    def __init__(self) -> None:
        self._control, theirs = Pipe()
        with theirs:
            self._popen = _python("template", theirs)

    @property
    def lives(self) -> bool:
        return self._popen.poll() is None

    def fork(self) -> Serving:
        """Returns at once; the process comes as soon as the template has imported everything. OSError if it is gone."""
        ours, theirs = Pipe()
        with theirs:
            send_handle(self._control, theirs.fileno(), self._popen.pid)
        return Serving(ours)

    def end(self) -> None:
        """The template ends with the pipe to it; what it has forked does not."""
        self._control.close()
        self._popen.wait()


class Nursery:
    """One actor's processes: the template, and at most one that stands by."""

    def __init__(self) -> None:
        self.template: Template | None = None
        self.standby: Serving | None = None
        self._backends: set[str] = set()  # attention of the trials so far: the next one is likely among them
        self._lost = ""  # why the process prepared last cannot be used

    def run(self, job: TrialJob, report: Report, checkpoint: str | None) -> None:
        """Compute one trial in a process of its own, which is killed if `report` raises. Raises ProcessLost.

        A process that had to measure or to compile may leave the epochs to another one (`TrialJob.rehearse`).
        """
        with _own_cache(job) as own:
            told = job if own is None else replace(job, compile_dir=own, gate_dir=str(Path(own) / "gate"))
            rehearsed_s = self._compute(told, report, checkpoint, None)
            if rehearsed_s is not None:
                self._compute(told, report, checkpoint, rehearsed_s)

    def _compute(
        self, job: TrialJob, report: Report, checkpoint: str | None, rehearsed_s: float | None
    ) -> float | None:
        """One process of a trial, to its end; how long it took if the trial is to begin anew in another, else None."""
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
            serving.send("run", order | {"rehearsed_s": rehearsed_s})
            return self._serve(serving, report, kills)

    def _serve(self, serving: Serving, report: Report, kills: KernelKills) -> float | None:
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

    def _take(self, job: TrialJob, *, again: bool) -> tuple[Serving, dict[str, str]]:
        """A process for `job`, and what the trial is to tell of it."""
        standby, self.standby = self.standby, None
        if standby is not None:
            if not job.isolate and standby.wakes(READY_WITHIN_S):
                return standby, {"warm_start": PREPARED}
            self._give_up(standby)
        none = "no other was prepared for its epochs" if again else "no trial ran before it in this actor"
        why = "isolated" if job.isolate else self._lost or none
        return start_cold(), {"warm_start": COLD, "cold_because": why}

    def _prepare(self, job: TrialJob) -> None:
        if self.template is None or not self.template.lives:
            self.template = Template()
        self._lost = ""
        try:
            self.standby = self.template.fork()
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

    def _give_up(self, standby: Serving) -> None:
        self._lost = f"the prepared process is of no use: {standby.problem}"
        standby.end(0.0)


def _pass_on(report: Report, result: dict[str, Any], folder: str | None) -> None:
    """Seal a checkpoint, report, and remove the trial's own copy of what is stored by then."""
    if folder is not None and "epoch" in result:
        seal(Path(folder))
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
        if (told := kills.told()) is None:
            raise
        raise OutOfMemory(f"{error}; {told}") from None


def _own_cache(job: TrialJob) -> AbstractContextManager[str | None]:
    """With `isolate` an empty folder for compiled code, removed afterwards."""
    if not job.isolate or job.compile_dir is None:
        return nullcontext()
    make_private(Path(job.compile_dir), "compiled programs")
    return tempfile.TemporaryDirectory(prefix=f"{job.trial_id}-", dir=job.compile_dir, ignore_cleanup_errors=True)


_NURSERY: list[Nursery] = []


def here() -> Nursery:
    """This process's own: an actor runs one trial after another, and keeps it between them."""
    if not _NURSERY:
        _NURSERY.append(Nursery())
    return _NURSERY[0]
