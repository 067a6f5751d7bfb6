"""The process that computes one trial, and ends with it.

    python -m tune.worker.child FD

FD is one end of a pipe to the process that started it; tune/worker/messages.py lists what goes through. The process
may be told to prepare while another trial runs, and then idles until it is told to run. It exits when its parent's
pipe closes, so nothing outlives the actor. It knows nothing of Ray.
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

from tune.trial.job import HandOver, Host
from tune.trial.report import EpochReport, Report
from tune.trial.run import run_trial
from tune.worker.messages import PrepareOrder, RunOrder


class ParentPipe:
    """Our end of the pipe. A thread always reads it, so this process exits when it closes, whatever it does then."""

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


def serve(parent: ParentPipe) -> None:
    """Prepare if told to, then compute one trial. A failure while preparing is reported, and ends the process."""
    parent.send("pid", os.getpid())
    while True:
        kind, content = parent.receive()
        if kind == "run":
            return _run(parent, content)
        if kind == "environment":  # the actor's own: its fork server may belong to another process
            os.environ.clear()
            os.environ |= content
            continue
        try:
            if kind == "prepare":
                prepare(content)
        except Exception as error:  # the next trial then starts a process itself, and says so
            return parent.send("failed", f"{type(error).__name__}: {error}")
        parent.send("ready")


def _run(parent: ParentPipe, order: RunOrder) -> None:
    os.chdir(order.folder)
    job = order.job

    def send_report(report: Report, folder: Path | None) -> None:
        content = (report, None if folder is None else str(folder))
        if job.awaits_answer or not isinstance(report, EpochReport):
            parent.ask("report", content)  # answered after those that were sent early
            return
        parent.ask("catch_up")  # at most one is on its way; and no answer arrives during a timed epoch
        parent.send("report_early", content)

    def wait_until_idle() -> Sequence[int]:
        return parent.ask("wait_until_idle")

    if "torch._inductor" in sys.modules and job.config.train.engine != "eager":
        from torch._inductor.async_compile import maybe_warm_pool

        maybe_warm_pool()  # its workers, as importing the compiler starts them: a fork gets none from its server
    checkpoint = None if order.checkpoint is None else Path(order.checkpoint)
    host = Host(
        tags=order.tags,
        wait_until_idle=wait_until_idle,
        scratch=Path(order.folder),
        cache_warmup_s=order.cache_warmup_s,
        waited_s=time.monotonic() - order.received_s,
    )
    try:
        run_trial(job, send_report, checkpoint, host)
    except HandOver as hand_over:
        return parent.send("hand_over", hand_over.took_s)
    parent.send("end")


def prepare(order: PrepareOrder) -> None:
    """Import the packages of the attention backends, bring up the device's context and libraries, and map the data."""
    import torch

    from data_pipeline.series.store import open_series
    from tune.machine.device import missing_packages

    job, data = order.job, order.job.config.data
    missing_packages(order.backends, importing=True)
    open_series(data.dataset, Path(job.data_dir), Path(job.cache_dir), data.options)
    if job.device_type == "cuda":
        square = torch.ones(64, 64, device="cuda")
        (square @ square).sum().item()
        del square
        torch._C._cuda_clearCublasWorkspaces()  # or the trial's peak memory would count them
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def serve_and_exit(pipe: Connection) -> NoReturn:
    """Serve, then exit without the interpreter's long shutdown: everything that must be closed is closed by then."""
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


def main(arguments: Sequence[str]) -> None:
    (number,) = arguments
    serve_and_exit(Connection(int(number)))


if __name__ == "__main__":
    main(sys.argv[1:])
