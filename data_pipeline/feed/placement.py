"""Where a series lies while a model trains on it: on the device, in page-locked host memory, or in its file.

`choose_placement` decides by what is free, before anything starts, so that all arms of a sweep have the same feed. The
feeds measure again when they open, and refuse a series for which there is no room. Importable without torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from data_pipeline.errors import DataUnsupported

if TYPE_CHECKING:
    import torch

GIB = 2**30
DEVICE_KEPT = 0.25
"""Of the device's memory: for model, optimizer, activations and the compiler's work."""
HOST_KEPT = 0.20
"""Of the host's free memory: for the processes of the sweep, and the page cache."""
CGROUP, OWN_CGROUP, MEMINFO = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup"), Path("/proc/meminfo")
UNLIMITED = 1 << 60
"""A limit of cgroup v1 above this means that there is none."""


@dataclass(frozen=True, kw_only=True)
class Room:
    """Free memory in bytes; None where it is unknown."""

    device: int | None
    """Of one GPU; None on a CPU, too."""
    host: int | None
    """Of the node, for one trial."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """A feed that was chosen by measuring."""

    feed: str
    """A name in FEEDS: device, pinned or mapped."""
    reason: str
    """One line with the numbers."""


def choose_placement(series_bytes: int, room: Room) -> Placement:
    """The fastest feed that there is room for: device, then pinned, then mapped. Unknown room counts as enough."""
    size = f"the series takes {size_text(series_bytes)}"
    if room.device is None:
        return Placement(feed="device", reason=size)
    on_device = int(room.device * (1 - DEVICE_KEPT))
    of_device = f"{size_text(on_device)} of the GPU's free {size_text(room.device)} may hold data"
    if series_bytes <= on_device:
        return Placement(feed="device", reason=f"{size}, and {of_device}")
    if room.host is None:
        return Placement(feed="pinned", reason=f"{size}, and only {of_device}; the host's free memory is unknown")
    on_host = int(room.host * (1 - HOST_KEPT))
    of_host = f"{size_text(on_host)} of the host's free {size_text(room.host)}"
    if series_bytes <= on_host:
        return Placement(feed="pinned", reason=f"{size}, only {of_device}, and {of_host}")
    return Placement(feed="mapped", reason=f"{size}, only {of_device}, and only {of_host}")


def size_text(n_bytes: int) -> str:
    """A size in words, in GiB, MiB or KiB."""
    for unit, name in ((GIB, "GiB"), (2**20, "MiB")):
        if n_bytes >= 0.1 * unit:
            return f"{n_bytes / unit:.1f} {name}"
    return f"{n_bytes / 2**10:.1f} KiB"


def check_device_memory(series_bytes: int, device: torch.device) -> None:
    """Raise DataUnsupported if the series is larger than the GPU's free memory."""
    if device.type != "cuda":
        return
    import torch

    free, _ = torch.cuda.mem_get_info(device)
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if series_bytes > free:
        raise DataUnsupported(
            f"feed 'device' needs {size_text(series_bytes)} of GPU memory for the series, and {size_text(free)} are "
            "free: use data.feed=pinned, or mapped if it is larger than the host's memory"
        )


def check_host_memory(series_bytes: int) -> None:
    """Raise DataUnsupported if the series is larger than the host's free memory."""
    free = host_free()
    if free is not None and series_bytes > free:
        raise DataUnsupported(
            f"feed 'pinned' needs {size_text(series_bytes)} of host memory for the series, and {size_text(free)} are "
            "free: use data.feed=mapped, which reads the file"
        )


def host_free(meminfo: Path = MEMINFO, cgroup: Path = CGROUP, own_cgroup: Path = OWN_CGROUP) -> int | None:
    """Bytes that this process may still take: what the system has available, within its control groups' limits.

    Pages of files count as free: the kernel drops them. None if nothing is known.
    """
    known = [_available(meminfo)]
    for line in _lines(own_cgroup):
        number, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            known += [_left_in_v1(folder) for folder in _upwards(cgroup / "memory", path)]
        elif number == "0":
            known += [_left_in_v2(folder) for folder in _upwards(cgroup, path)]
    return min((free for free in known if free is not None), default=None)


def _upwards(root: Path, path: str) -> list[Path]:
    """The folder of a control group and those above it. A container may show its own group as the root."""
    own = root / path.strip("/")
    return [folder for folder in (own, *own.parents) if folder == root or folder.is_relative_to(root)]


def _available(meminfo: Path) -> int | None:
    for line in _lines(meminfo):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _left_in_v2(group: Path) -> int | None:
    limit, used = _number(group / "memory.max"), _number(group / "memory.current")
    return _left(limit, used, group / "memory.stat", ("inactive_file", "active_file"))


def _left_in_v1(group: Path) -> int | None:
    limit, used = _number(group / "memory.limit_in_bytes"), _number(group / "memory.usage_in_bytes")
    return _left(limit, used, group / "memory.stat", ("total_inactive_file", "total_active_file"))


def _left(limit: int | None, used: int | None, stat: Path, of_files: tuple[str, ...]) -> int | None:
    if limit is None or used is None or limit >= UNLIMITED:
        return None
    fields = dict(line.split()[:2] for line in _lines(stat) if len(line.split()) > 1)
    return max(0, limit - used + sum(int(fields.get(name, 0)) for name in of_files))


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except OSError:
        return []


def _number(file: Path) -> int | None:
    """The number in a file; None if there is no such file, or if it says max."""
    lines = _lines(file)
    return int(lines[0]) if lines and lines[0].strip().isdigit() else None
