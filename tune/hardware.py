"""What the machine is: device facts, versions, code identity. Whatever is not known is None.

Planning-safe: GPU facts come from NVML (nvidia-ml-py), versions from importlib.metadata; torch is not imported.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
import math
import os
import platform
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from model.attention import BACKENDS

REPO_ROOT = Path(__file__).resolve().parents[1]
OURS = ("tune", "model", "data_pipeline")  # packages
CODE = ("experiments.py", *OURS)
IDENTITY_FILE = "code_identity.json"  # beside experiments.py in a copy that was sent to a cluster, which has no git
PACKAGES = (
    "torch",
    "triton",
    "transformers",
    "granite-tsfm",
    "flash-attn",
    "flash_attn_3",
    "flash-attn-4",
    "ray",
    "mlflow",
    "pandas",
    "pyarrow",
    "numpy",
)
GIB = 2**30


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
    missing: Mapping[str, str] | None = None  # attention backend -> why its package cannot be used; None: not known

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@contextmanager
def nvml() -> Iterator[Any]:
    """The initialised NVML module, or None where there is no NVIDIA driver."""
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
    """CPU model as the kernel names it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def cpu_facts(*, assumed: bool = False) -> DeviceFacts:
    missing = missing_packages(importing=False)
    return DeviceFacts(device_type="cpu", name=cpu_name(), cpus=available_cpus(), assumed=assumed, missing=missing)


def missing_packages(names: Iterable[str] = BACKENDS, *, importing: bool) -> dict[str, str]:
    """Those of the attention backends `names` whose package cannot be used in this process, with the reason.

    importing=False only looks whether a package is installed; importing=True imports it, and what it needs.
    """
    reasons = {name: BACKENDS[name].missing_package(importing=importing) for name in names}
    return {name: reason for name, reason in reasons.items() if reason is not None}


def available_cpus(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """CPUs this process may use: its affinity, and the quota of its control group (a container's, v2 or v1)."""
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
    """Facts of the node this runs on: its first visible GPU if `use_gpu`, else its CPU.

    Raises RuntimeError if a GPU is wanted and NVML shows none.
    """
    if not use_gpu:
        return cpu_facts(assumed=assumed)
    with nvml() as lib:
        handles = visible_gpus(lib)
        if not handles:
            raise RuntimeError("NVML shows no GPU on this node: is the NVIDIA driver loaded?")
        first = handles[0]
        return DeviceFacts(
            device_type="cuda",
            name=lib.nvmlDeviceGetName(first),
            capability=tuple(lib.nvmlDeviceGetCudaComputeCapability(first)),
            memory_gib=round(lib.nvmlDeviceGetMemoryInfo(first).total / GIB, 1),
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
    """NVML handles of the GPUs that CUDA_VISIBLE_DEVICES leaves, in its order (indices and UUIDs are understood)."""
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


def alive(pid: int) -> bool:
    """Whether a process runs under this number; one that has ended and waits to be collected does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        threads = len(os.listdir(f"/proc/{pid}/task"))  # its memory is there until the last of them has ended
    except (OSError, IndexError):
        return False
    return state not in ("Z", "X") or threads > 1


def versions() -> dict[str, str | None]:
    """Installed versions of the packages a result depends on; None where one is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found


def code_identity() -> dict[str, Any]:
    """Which code this is: git commit and dirty flag (None outside git), and a hash over our own source files."""
    sha256 = _code_sha256()
    sent = _sent_identity()
    if sent.get("code_sha256") == sha256:
        return sent
    return {"git_commit": _git("rev-parse", "HEAD"), "git_dirty": _git_dirty(), "code_sha256": sha256}


def _sent_identity() -> dict[str, Any]:
    try:
        found = json.loads((REPO_ROOT / IDENTITY_FILE).read_text())
        return {name: found[name] for name in ("git_commit", "git_dirty", "code_sha256")}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def tracked_files(entries: Iterable[str], *, others: bool = False) -> list[str] | None:
    """Files under `entries` that git knows, from REPO_ROOT; with `others` those it neither knows nor ignores.

    None outside git.
    """
    listed = _git("ls-files", "-z", *(["--others", "--exclude-standard"] if others else []), "--", *entries)
    return None if listed is None else [name for name in listed.split("\0") if name]


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(REPO_ROOT), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _git_dirty() -> bool | None:
    if _git("rev-parse", "HEAD") is None:
        return None
    changed = _git("status", "--porcelain", "--untracked-files=no")
    return None if changed is None else bool(changed)


def _code_sha256() -> str:
    digest = hashlib.sha256()
    for entry in CODE:
        path = REPO_ROOT / entry
        for source in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(f"{source.relative_to(REPO_ROOT)}\0".encode())
            digest.update(source.read_bytes() + b"\0")
    return digest.hexdigest()


def package_dir(name: str) -> Path:
    """Where this process imports the package `name` of ours from: Ray may ship each to a folder of its own."""
    found = importlib.util.find_spec(name)
    if found is None or not found.submodule_search_locations:
        raise RuntimeError(f"the package {name} is not there: {REPO_ROOT} is no whole copy of the project")
    return Path(found.submodule_search_locations[0])


@functools.cache
def packages_sha256() -> str:
    """Hash of our packages as this process imports them: the same in the driver and in all of its workers."""
    digest = hashlib.sha256()
    for name in OURS:
        folder = package_dir(name)
        for source in sorted(folder.rglob("*.py")):
            digest.update(f"{name}/{source.relative_to(folder)}\0".encode())
            digest.update(source.read_bytes() + b"\0")
    return digest.hexdigest()


def environment() -> dict[str, Any]:
    """What is saved with every sweep beside the device facts: the node's versions and processor."""
    return {"versions": versions(), "host_cpu": cpu_name(), "host_cpus": available_cpus()}
