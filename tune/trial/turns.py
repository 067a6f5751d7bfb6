"""Who may use a GPU how while several processes warm up on it: all compile together, one at a time may time kernels.

Each GPU has a file that its processes lock. Those that compile share the lock; who times kernels holds it alone, so it
waits until nobody compiles. The kernel releases the lock of a process that ends, however it ends. Warm-ups that wait
for their turn must not be joined by new ones, or they would wait for those too: the driver starts them in waves
(tune/driver/warm_ups.py).
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Self

from tune.common.files import make_private

FOLDER = "turns"  # in the folder of compiled code


class Turns:
    """This process's part on one GPU; a context manager inside which it may compile beside others."""

    def __init__(self, compile_dir: Path, gpu: str) -> None:
        folder = compile_dir / FOLDER
        make_private(folder, "locks of warm-ups")
        self._file = os.open(folder / f"{gpu}.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)

    def __enter__(self) -> Self:
        fcntl.flock(self._file, fcntl.LOCK_SH)
        return self

    def __exit__(self, *exception: object) -> None:
        os.close(self._file)

    def alone(self) -> None:
        """Wait until no other process compiles or times on this GPU; from now on none does until this one leaves."""
        fcntl.flock(self._file, fcntl.LOCK_UN)  # else two that wait would wait for each other
        fcntl.flock(self._file, fcntl.LOCK_EX)
