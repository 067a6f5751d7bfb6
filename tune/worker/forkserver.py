"""Imports once what every trial needs, then forks a trial's process whenever it is asked to.

    python -m tune.worker.forkserver FD [SOCKET]

FD is one end of a pipe to the process that started it, and it ends when that closes. Whoever can connect to SOCKET may
ask it too. It forks for everybody who sends the end of a pipe (`tune.worker.child` serves it). A forked process keeps
this one's command line.

The fork server must never initialise CUDA, or no forked process could use it.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import recv_handle
from pathlib import Path

from tune.machine.device import has_gpu
from tune.worker.child import serve_and_exit
from tune.worker.learned_once import learn

# In the fork server only: PyTorch asks NVML, not CUDA, whether there is a GPU; its compiler starts no workers on import
ENVIRONMENT = {"PYTORCH_NVML_BASED_CUDA_CHECK": "1", "TORCH_WARM_POOL": "0"}


def preload() -> None:
    """Import what every trial needs. Nothing here may initialise CUDA, or start a thread that a fork would lack."""
    import torch._inductor.compile_fx  # noqa: F401
    import transformers.models.patchtst.modeling_patchtst  # noqa: F401

    import data_pipeline.feed  # noqa: F401
    import tune.engine.graph  # noqa: F401
    import tune.trial.cache_warmup  # noqa: F401
    import tune.trial.session  # noqa: F401
    import tune.trial.summary  # noqa: F401


def _run(owner: Connection, socket_path: Path | None) -> None:
    listeners = [] if socket_path is None else [_listen(socket_path)]  # before the imports: early requests wait
    try:
        os.environ |= {name: value for name, value in ENVIRONMENT.items() if name not in os.environ}
        preload()
        if has_gpu():  # on a CPU trials compile only where asked to
            learn()
        gc.collect()
        gc.freeze()  # or each trial's process would look through all of this, for up to a second in the gap before it
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody here waits for forked processes
        _fork_on_demand(owner, listeners)
    finally:
        if socket_path is not None:
            socket_path.unlink(missing_ok=True)


def _listen(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(128)
    return listener


def _fork_on_demand(owner: Connection, listeners: Sequence[socket.socket]) -> None:
    """Fork for everybody who sends the end of a pipe, until `owner` closes."""
    clients = [owner]
    while owner in clients:
        for ready in wait([*clients, *listeners]):
            if isinstance(ready, socket.socket):
                clients.append(Connection(ready.accept()[0].detach()))
                continue
            assert isinstance(ready, Connection)
            try:
                handle = recv_handle(ready)
            except (EOFError, OSError):
                clients.remove(ready)
                ready.close()
            else:
                _fork(handle, [*clients, *listeners])


def _fork(handle: int, inherited: Sequence[Connection | socket.socket]) -> None:
    """Fork a process that serves whoever has the other end of the pipe `handle`."""
    if os.fork() == 0:
        for connection in inherited:  # or clients would not see the fork server end
            connection.close()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        serve_and_exit(Connection(handle))
    os.close(handle)


def main(arguments: Sequence[str]) -> None:
    number, *rest = arguments
    _run(Connection(int(number)), Path(rest[0]) if rest else None)


if __name__ == "__main__":
    main(sys.argv[1:])
