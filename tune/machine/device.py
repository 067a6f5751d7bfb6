"""What the machine is: its GPU or CPU. Unknown values are None.

Planning-safe: GPU facts come from NVML (nvidia-ml-py); torch is not imported.
"""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from data_pipeline.feed.placement import host_free
from model.attention import BACKENDS

GIB = 2**30


MOMENTARY = ("memory_free_gib", "host_free_gib")


@dataclass(frozen=True, kw_only=True)
class DeviceFacts:
    """The device a trial runs on."""

    device_type: Literal["cpu", "cuda"]
    name: str  # GPU model or CPU model
    capability: tuple[int, int] | None = None  # CUDA compute capability
    memory_gib: float | None = None
    driver: str | None = None
    gpus: int = 0  # GPUs of this node
    cpus: int = 1  # logical CPUs of this node
    assumed: bool = False  # True: not read from the node that will run the trial
    memory_free_gib: float | None = None  # of the first GPU, when it was asked
    host_free_gib: float | None = None  # of the node's memory, within its control group's limit, when it was asked
    missing: Mapping[str, str] | None = None  # attention backend -> why its package cannot be used; None: unknown
    compilers: Mapping[str, str] | None = None  # language -> why no compiler of it works (compilers.py); None: unknown

    def as_dict(self) -> dict[str, Any]:
        """As it is saved with a sweep, without what is another number at each look."""
        return {name: value for name, value in asdict(self).items() if name not in MOMENTARY}


@contextmanager
def nvml() -> Iterator[Any]:
    """The initialised NVML module, or None without an NVIDIA driver."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # no driver, no library or no permission: NVML has one error class for each
        yield None
        return
    try:
        yield pynvml
    finally:
        pynvml.nvmlShutdown()


def cpu_name() -> str:
    """The CPU model as the kernel names it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def cpu_facts(*, assumed: bool = False) -> DeviceFacts:
    missing = missing_packages(importing=False)
    return DeviceFacts(
        device_type="cpu",
        name=cpu_name(),
        cpus=available_cpus(),
        assumed=assumed,
        host_free_gib=_host_free_gib(),
        missing=missing,
    )


def _host_free_gib() -> float | None:
    free = host_free()
    return None if free is None else free / GIB


def missing_packages(names: Iterable[str] = BACKENDS, *, importing: bool) -> dict[str, str]:
    """Why packages of these attention backends cannot be used in this process: backend -> reason, usable ones left out.

    importing=False only checks that a package is installed; importing=True imports it with its dependencies.
    """
    reasons = {name: BACKENDS[name].missing_package(importing=importing) for name in names}
    return {name: reason for name, reason in reasons.items() if reason is not None}


def available_cpus(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """CPUs that this process may use, by its affinity and its control group's quota (a container's, v2 or v1)."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for files in (["cpu.max"], ["cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"]):
        try:
            quota, period = " ".join((cgroup / file).read_text() for file in files).split()
            if int(quota) > 0:  # -1 in v1, "max" in v2: no quota
                return max(1, min(allowed, math.ceil(int(quota) / int(period))))
        except (OSError, ValueError):
            continue
    return allowed


def node_facts(*, use_gpu: bool, assumed: bool = False) -> DeviceFacts:
    """Facts of this node: its first visible GPU if `use_gpu`, else its CPU.

    Raises RuntimeError if `use_gpu` and NVML shows no GPU.
    """
    if not use_gpu:
        return cpu_facts(assumed=assumed)
    with nvml() as lib:
        handles = visible_gpus(lib)
        if not handles:
            raise RuntimeError("NVML shows no GPU on this node: is the NVIDIA driver loaded?")
        first = handles[0]
        memory = lib.nvmlDeviceGetMemoryInfo(first)
        return DeviceFacts(
            device_type="cuda",
            name=lib.nvmlDeviceGetName(first),
            capability=tuple(lib.nvmlDeviceGetCudaComputeCapability(first)),
            memory_gib=round(memory.total / GIB, 1),
            memory_free_gib=memory.free / GIB,
            host_free_gib=_host_free_gib(),
            driver=lib.nvmlSystemGetDriverVersion(),
            gpus=len(handles),
            cpus=available_cpus(),
            assumed=assumed,
            missing=missing_packages(importing=False),
        )


def has_gpu() -> bool:
    """Whether NVML shows a GPU that CUDA_VISIBLE_DEVICES does not hide."""
    with nvml() as lib:
        return bool(visible_gpus(lib))


def visible_gpus(lib: Any) -> list[Any]:
    """NVML handles of the GPUs in CUDA_VISIBLE_DEVICES (indices or UUIDs), in its order; all GPUs if it is not set."""
    if lib is None:
        return []
    every = [lib.nvmlDeviceGetHandleByIndex(index) for index in range(lib.nvmlDeviceGetCount())]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return every
    chosen = []
    for item in filter(None, (part.strip() for part in visible.split(","))):
        if item.isdigit():
            if int(item) >= len(every):
                break  # CUDA ignores everything from the first invalid entry on
            chosen.append(every[int(item)])
        else:
            matches = [handle for handle in every if lib.nvmlDeviceGetUUID(handle).startswith(item)]
            if not matches:
                break
            chosen.extend(matches[:1])
    return chosen
