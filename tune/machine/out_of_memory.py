"""Out of memory: which errors mean it, of a GPU or of the host, and whether the kernel killed for want of it."""

from __future__ import annotations

import errno
import os
import re
import resource
from pathlib import Path

from tune.machine.device import GIB

VMSTAT = Path("/proc/vmstat")
REMEDY = "try a smaller train.batch_size or model"
# What is not PyTorch's own allocator has no error of its own for it, only words: the CUDA driver, as PyTorch and Triton
# pass them on; cuBLAS, cuDNN and their like; PyTorch's allocator for the host; the host's kernel, through any library.
_WORDS = re.compile(
    r"\b(CUDA|HIP)\b.*\bout of memory"
    r"|\bCU[A-Z]+_STATUS_\w*ALLOC(ATION)?_FAILED"
    r"|DefaultCPUAllocator"
    rf"|{re.escape(os.strerror(errno.ENOMEM))}"
)
_LOST_WORKER = re.compile(r"DataLoader worker .*(killed by signal: Killed|exited unexpectedly)")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error`, or one that it was raised from, says that the GPU or the host had no memory left."""
    import torch

    kinds = torch.OutOfMemoryError | MemoryError
    return any(
        isinstance(one, kinds) or getattr(one, "errno", None) == errno.ENOMEM or _WORDS.search(str(one))
        for one in _chain(error)
    )


def lost_a_worker(error: BaseException) -> bool:
    """Whether a process that loads data was killed, as the kernel does it; PyTorch knows the signal, not the reason."""
    return any(_LOST_WORKER.search(str(one)) for one in _chain(error))


def _chain(error: BaseException | None) -> list[BaseException]:
    """The error and what it was raised from. Not what was being handled: that may have been dealt with."""
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__
    return found


def peak_memory_gib() -> dict[str, float]:
    """Most memory that tensors held on the GPU since the epoch or the trial began, and that this process ever held."""
    import torch

    peaks = {"final/host_peak_memory_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        peaks = {"final/peak_memory_gib": torch.cuda.max_memory_allocated() / GIB, **peaks}
    return peaks


class KernelKills:
    """What the kernel has killed on this machine for want of memory since `restart`. It does not say to whom it did
    that; a trial is mostly the largest there is."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Count from now on: what was heard of until now was no loss."""
        self._before = _killed_ever()

    def told(self) -> str | None:
        """In words, with what to do; None where the kernel killed nothing, or does not say."""
        if (killed := _killed_ever() - self._before) <= 0:
            return None
        processes = "process" if killed == 1 else "processes"
        return (
            f"the kernel killed {killed} {processes} on this machine for want of memory meanwhile, so that is the "
            f"likely cause: {REMEDY}, fewer data.num_workers, or a machine with more memory"
        )


def _killed_ever() -> int:
    """Processes that the kernel has killed on this machine for want of memory; 0 where it does not say."""
    try:
        lines = VMSTAT.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
