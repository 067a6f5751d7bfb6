"""Memory, energy and other processes of a trial's GPU."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from tune.common.process import alive
from tune.machine.device import GIB, nvml

if TYPE_CHECKING:
    import torch


def count_others(pids: Sequence[int], *, own: int, idle: Collection[int]) -> int | None:
    """How many of a GPU's processes `pids` are neither `own` nor in `idle`, whose processes do nothing there.

    In a container NVML may report the host's process numbers, which mean nothing inside; then processes are only
    counted. None if there are fewer than ours: NVML hides some of them, so it may hide others too.
    """
    if own in pids:
        return len(set(pids) - {own} - set(idle))
    others = len(pids) - 1 - len(idle)
    return None if others < 0 else others


class GpuMeter:
    """Memory, energy and other processes of the GPU that this process computes on. On a CPU all are None."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self.uuid: str | None = None
        self.name: str | None = None
        if self._cuda:
            import torch

            properties = torch.cuda.get_device_properties(device)
            self.uuid, self.name = f"GPU-{properties.uuid}", properties.name
        self._energy_mj: int | None = None

    def begin(self) -> None:
        """Start an epoch."""
        if self._cuda:
            import torch

            torch.cuda.reset_peak_memory_stats()
            self._energy_mj = self._read("nvmlDeviceGetTotalEnergyConsumption")

    def peak_memory_gib(self, *, at_least_bytes: int = 0) -> float | None:
        """Peak memory of tensors since `begin`.

        at_least_bytes: peak memory of a step while it was captured; the allocator does not count it in a replay.
        """
        if not self._cuda:
            return None
        import torch

        return max(torch.cuda.max_memory_allocated(), at_least_bytes) / GIB

    def energy_j(self) -> float | None:
        """Energy that the GPU used since `begin`, in J."""
        now = self._read("nvmlDeviceGetTotalEnergyConsumption")
        return None if now is None or self._energy_mj is None else (now - self._energy_mj) / 1e3

    def other_processes(self, idle: Collection[int] = ()) -> int | None:
        """How many processes use this GPU now, without this one and the living ones of `idle`."""
        running = self._read("nvmlDeviceGetComputeRunningProcesses")
        if running is None:
            return None
        return count_others([process.pid for process in running], own=os.getpid(), idle=set(filter(alive, idle)))

    def _read(self, function: str) -> Any:
        if self.uuid is None:
            return None
        with nvml() as lib:
            if lib is None:
                return None
            try:
                return getattr(lib, function)(lib.nvmlDeviceGetHandleByUUID(self.uuid))
            except lib.NVMLError:
                return None
