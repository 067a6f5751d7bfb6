"""Out of memory on a GPU or the host: which errors mean it, and whether the kernel killed processes because of it."""

from __future__ import annotations

import errno
import os
import re
import resource
from pathlib import Path

from tune.machine.device import GIB

VMSTAT = Path("/proc/vmstat")
REMEDY = "try a smaller train.batch_size or model"
# Only PyTorch's GPU allocator has an error class for it. The others have words: the CUDA driver (through PyTorch and
# Triton), cuBLAS and cuDNN, PyTorch's allocator for the host, and the host's kernel through any library.
_WORDS = re.compile(
    r"\b(CUDA|HIP)\b.*\bout of memory"
    r"|\bCU[A-Z]+_STATUS_\w*ALLOC(ATION)?_FAILED"
    r"|DefaultCPUAllocator"
    rf"|{re.escape(os.strerror(errno.ENOMEM))}"
)
_LOST_WORKER = re.compile(r"DataLoader worker .*(killed by signal: Killed|exited unexpectedly)")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error`, or an error that it was raised from, says that the GPU or the host was out of memory."""
    import torch

    kinds = torch.OutOfMemoryError | MemoryError
    return any(
        isinstance(cause, kinds) or getattr(cause, "errno", None) == errno.ENOMEM or _WORDS.search(str(cause))
        for cause in _chain(error)
    )


def lost_a_worker(error: BaseException) -> bool:
    """Whether a loader process was killed, as the kernel kills: PyTorch knows the signal but not the reason."""
    return any(_LOST_WORKER.search(str(cause)) for cause in _chain(error))


def _chain(error: BaseException | None) -> list[BaseException]:
    """The error and its causes. Its contexts are left out: errors being handled may have been dealt with."""
    chain: list[BaseException] = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__
    return chain


def peak_memory_gib() -> dict[str, float]:
    """Peak memory by MLflow name: of tensors on the GPU since the epoch or trial began, and of this process ever."""
    import torch

    peaks = {"final/host_peak_memory_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        peaks = {"final/peak_memory_gib": torch.cuda.max_memory_allocated() / GIB, **peaks}
    return peaks


class KernelKills:
    """Processes that the kernel killed on this machine for lack of memory since `restart`.

    The kernel does not say which ones; a trial is usually the largest.
    """

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Count from now on."""
        self._before = _killed_ever()

    def in_words(self) -> str | None:
        """How many were killed and what to do about it; None if none were, or if the kernel does not say."""
        if (killed := _killed_ever() - self._before) <= 0:
            return None
        processes = "process" if killed == 1 else "processes"
        return (
            f"the kernel killed {killed} {processes} on this machine for want of memory meanwhile, so that is the "
            f"likely cause: {REMEDY}, fewer data.num_workers, or a machine with more memory"
        )


def _killed_ever() -> int:
    """Processes that the kernel has killed on this machine for lack of memory; 0 if it does not say."""
    try:
        lines = VMSTAT.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
