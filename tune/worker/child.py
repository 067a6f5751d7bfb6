"""The process that computes one trial, and the template that such processes are forked from.

    python -m tune.worker.forkserver serve FD               computes one trial and ends
    python -m tune.worker.forkserver template FD [SOCKET]   imports everything once, then forks such a process when it is asked to

FD is one end of a pipe to the process that started it (`tune.worker.process`). One that serves a Ray actor is told
("environment", ...) where it was forked, ("prepare", ...) while another trial runs, ("wake", None) to see if it lives,
and then ("run", order). It ends with its trial, and when the other end of its pipe closes: nothing outlives the actor.
It knows nothing of Ray. A template may be asked by whoever can connect to SOCKET, too; it ends with FD's other end.

The template must never initialise CUDA, or nothing that it forks could use it.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn

from tune.trial.job import HandOver, Host, TrialJob
from tune.trial.run import run_trial


class ParentPipe:
    """Our end of the pipe. A thread reads it all the time, so that its closing ends this process whatever it does."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._inbox: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        try:
            while True:
                self._inbox.put(self._pipe.recv())
        except (EOFError, OSError):
            os._exit(1)

    def send(self, kind: str, content: Any = None) -> None:
        self._pipe.send((kind, content))

    def receive(self) -> tuple[str, Any]:
        return self._inbox.get()

    def ask(self, kind: str, content: Any = None) -> Any:
        """Send, and wait for the answer's content."""
        self.send(kind, content)
        return self.receive()[1]


def serve(line: ParentPipe) -> None:
    """Prepare if told to, then compute one trial. What fails while preparing is told, and ends the process."""
    line.send("pid", os.getpid())
    while True:
        kind, content = line.receive()
        if kind == "run":
            return _run(line, content)
        if kind == "environment":  # the actor's own: its template may be another process's
            os.environ.clear()
            os.environ |= content
            continue
        try:
            if kind == "prepare":
                prepare(TrialJob(**content["job"]), content["backends"])
        except Exception as error:  # the next trial then starts a process itself, and says so
            return line.send("failed", f"{type(error).__name__}: {error}")
        line.send("ready")


def _run(line: ParentPipe, order: dict[str, Any]) -> None:
    os.chdir(order["folder"])

    def report(result: dict[str, Any], folder: Path | None) -> None:
        content = (result, None if folder is None else str(folder))
        if job.awaits_answer or "epoch" not in result:
            line.ask("report", content)  # answered after those that were handed over
            return
        line.ask("caught_up")  # one is on its way at most; and no answer comes into an epoch that is timed
        line.send("hand_over", content)

    def settle() -> Sequence[int]:
        return line.ask("settle")

    job = TrialJob(**order["job"])
    if "torch._inductor" in sys.modules and job.config["train"]["engine"] != "eager":
        from torch._inductor.async_compile import maybe_warm_pool

        maybe_warm_pool()  # its workers, as importing the compiler starts them: the template has none to hand on
    checkpoint = None if order["checkpoint"] is None else Path(order["checkpoint"])
    host = Host(
        tags=order["tags"],
        settle=settle,
        scratch=Path(order["folder"]),
        rehearsed_s=order["rehearsed_s"],
        waited_s=time.monotonic() - order["taken_s"],  # on Linux one clock for all processes
    )
    try:
        run_trial(job, report, checkpoint, host)
    except HandOver as anew:
        return line.send("anew", anew.took_s)
    line.send("end")


def prepare(job: TrialJob, backends: Sequence[str]) -> None:
    """Bring up what the trial after `job` needs too: the packages of the attention `backends`, the device's context and
    libraries, the mapped data."""
    import torch

    from data_pipeline.series.store import open_series
    from tune.config.trial_config import TrialConfig
    from tune.machine.device import missing_packages

    missing_packages(backends, importing=True)
    data = TrialConfig.model_validate(job.config).data
    open_series(data.dataset, Path(job.data_dir), Path(job.cache_dir), timestamp_column=data.timestamp_column)
    if job.device_type == "cuda":
        square = torch.ones(64, 64, device="cuda")
        (square @ square).sum().item()
        del square
        torch._C._cuda_clearCublasWorkspaces()  # or the trial's peak memory would count them
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _serve_and_exit(pipe: Connection) -> NoReturn:
    """Without an interpreter's long way down: everything that must be closed is closed by then."""
    code = 1
    try:
        serve(ParentPipe(pipe))
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
