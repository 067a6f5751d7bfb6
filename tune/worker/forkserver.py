"""Imports once, then forks processes that compute trials."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import recv_handle
from pathlib import Path

from tune.worker.child import _serve_and_exit

# In the template only: PyTorch asks NVML, not CUDA, whether there is a GPU; its compiler starts no workers on import.
TEMPLATE_SETTINGS = {"PYTORCH_NVML_BASED_CUDA_CHECK": "1", "TORCH_WARM_POOL": "0"}


def preload() -> None:
    """Import what every trial needs. Nothing here may initialise CUDA, or start a thread that a fork would lack."""
    import torch._inductor.compile_fx  # noqa: F401
    import transformers.models.patchtst.modeling_patchtst  # noqa: F401

    import data_pipeline.feed  # noqa: F401
    import tune.engine.graph  # noqa: F401
    import tune.trial.compile_cache  # noqa: F401
    import tune.trial.session  # noqa: F401


def _template(control: Connection, socket_path: Path | None) -> None:
    listening = [] if socket_path is None else [_listen(socket_path)]  # before the imports: who asks early waits
    try:
        os.environ |= {name: value for name, value in TEMPLATE_SETTINGS.items() if name not in os.environ}
        preload()
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody here waits for what is forked
        _fork_on_demand(control, listening)
    finally:
        if socket_path is not None:
            socket_path.unlink(missing_ok=True)


def _listen(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(128)
    return listener


def _fork_on_demand(control: Connection, listening: Sequence[socket.socket]) -> None:
    """Fork for everybody who sends the end of a pipe, until `control` closes."""
    asking = [control]
    while control in asking:
        for one in wait([*asking, *listening]):
            if isinstance(one, socket.socket):
                asking.append(Connection(one.accept()[0].detach()))
                continue
            assert isinstance(one, Connection)
            try:
                handle = recv_handle(one)
            except (EOFError, OSError):
                asking.remove(one)
                one.close()
            else:
                _fork(handle, [*asking, *listening])


def _fork(handle: int, held: Sequence[Connection | socket.socket]) -> None:
    """A process that serves whoever has the other end of the pipe `handle`."""
    if os.fork() == 0:
        for one in held:  # or nobody would see the template end
            one.close()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        _serve_and_exit(Connection(handle))
    os.close(handle)


def main(arguments: Sequence[str]) -> None:
    kind, number, *rest = arguments
    pipe = Connection(int(number))
    if kind == "template":
        _template(pipe, Path(rest[0]) if rest else None)
    else:
        _serve_and_exit(pipe)


if __name__ == "__main__":
    main(sys.argv[1:])
