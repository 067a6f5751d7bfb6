"""Checks of the machine: versions, folders, limits, memory."""

from __future__ import annotations

import os
import resource
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from data_pipeline.feed.placement import host_free
from tune.doctor.finding import Finding, Place
from tune.machine.environment import versions

GIB = 2**30
LITTLE_SHM_GIB = 1.0  # loader workers hand over slots of up to 256 MiB each (data_pipeline)
LITTLE_MEMORY_GIB = 3.0  # Ray's processes and a trial's, each with torch, take that much together
FEW_FILES = 1024  # Ray raises the soft limit to the hard one, and opens hundreds of sockets
FEW_PROCESSES = 500  # Ray, torch and the fork server start as many threads


def versions_here(place: Place) -> Iterator[Finding]:
    """The packages that a result depends on."""
    for package, version in versions().items():
        yield Finding(kind="version", name=package, works=None, found=version or "not installed")


def home(place: Place) -> Iterator[Finding]:
    """Some programs keep caches and settings there; a sweep needs none of them."""
    named = os.environ.get("HOME")
    if not named:
        yield Finding(kind="folder", name="HOME", works=None, found="not set; a sweep keeps nothing there")
        return
    problem = _write(Path(named), 1)
    found = f"{named} can be written" if problem is None else f"{named}: {problem}; a sweep keeps nothing there"
    yield Finding(kind="folder", name="HOME", works=True if problem is None else None, found=found)


def temporary(place: Place) -> Iterator[Finding]:
    """Where Ray, compilers and uploads keep files for a while."""
    try:
        used = tempfile.gettempdir()
    except FileNotFoundError:
        found = "none of /tmp, /var/tmp and the current folder can be written: set TMPDIR to a folder that can"
        yield Finding(kind="folder", name="TMPDIR", works=False, found=found, needed=True)
        return
    if problem := _write(Path(used), 1 << 20):
        found = f"{used}: {problem}: make room, or set TMPDIR to another folder"
        yield Finding(kind="folder", name="TMPDIR", works=False, found=found, needed=True)
    else:
        yield Finding(kind="folder", name="TMPDIR", works=True, found=f"{used} can be written")


def _write(folder: Path, size: int) -> str | None:
    """Why a file of `size` bytes cannot be written there; None if it can."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0" * size)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return str(error.strerror).lower()
    return None


def limits(place: Place) -> Iterator[Finding]:
    """ulimit -n and -u, and the number of processes that the control group allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = hard != resource.RLIM_INFINITY and hard < FEW_FILES
    more = f"; under {FEW_FILES} is little: raise the limit (ulimit -Hn, LimitNOFILE=)" if few else ""
    yield Finding(kind="limit", name="open files", works=not few, found=f"{_words(soft)} of {_words(hard)}{more}")
    for name, allowed, used, how in (
        ("processes", resource.getrlimit(resource.RLIMIT_NPROC)[0], _own_threads(), "ulimit -u, TasksMax="),
        ("processes of the control group", *_pids(), "--pids-limit, pids.max"),
    ):
        if allowed == resource.RLIM_INFINITY or (os.geteuid() == 0 and used is None):
            continue
        left = allowed - (used or 0)
        more = f"; under {FEW_PROCESSES} more are little: raise the limit ({how})" if left < FEW_PROCESSES else ""
        yield Finding(kind="limit", name=name, works=not more, found=f"{left} of {allowed} are free{more}")


def _words(limit: int) -> str:
    return "unlimited" if limit == resource.RLIM_INFINITY else str(limit)


def _own_threads() -> int | None:
    """Threads of this account, which the limit counts; None for root, whom no limit stops."""
    if os.geteuid() == 0:
        return None
    count = 0
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdecimal() and folder.stat().st_uid == os.geteuid():
                count += len(os.listdir(folder / "task"))
        except OSError:  # it has ended, or hides its threads
            continue
    return count


def _pids(cgroup: Path = Path("/sys/fs/cgroup")) -> tuple[int, int]:
    """Processes that the control group allows and has; (RLIM_INFINITY, 0) without a limit."""
    for folder in (cgroup, cgroup / "pids"):
        try:
            return int((folder / "pids.max").read_text()), int((folder / "pids.current").read_text())
        except (OSError, ValueError):  # "max": no limit
            continue
    return resource.RLIM_INFINITY, 0


def memory(place: Place) -> Iterator[Finding]:
    """What is free of the machine's memory, within the control group's limit."""
    free = host_free()
    if free is None:
        yield Finding(kind="memory", name="host", works=None, found="the kernel does not say how much is free")
        return
    little = free < LITTLE_MEMORY_GIB * GIB
    more = f"; under {LITTLE_MEMORY_GIB:g} GiB is little: end other programs, or allow the container more"
    yield Finding(
        kind="memory", name="host", works=not little, found=f"{free / GIB:.1f} GiB free{more if little else ''}"
    )


def shared_memory(place: Place) -> Iterator[Finding]:
    """Room for the slots of loader workers and for Ray's objects."""
    folder = Path("/dev/shm")  # asked for its size  # nosec B108
    if not folder.is_dir():
        yield Finding(kind="shared memory", name=str(folder), works=None, found="there is none; workers of feeds fail")
        return
    yield room("shared memory", folder, LITTLE_SHM_GIB, "free some, or give the container more (--shm-size)")


def room(kind: str, folder: Path, little_gib: float, how: str) -> Finding:
    """How much is free on the disk of a folder that exists."""
    free_gib = shutil.disk_usage(folder).free / GIB
    more = "" if free_gib >= little_gib else f"; under {little_gib:g} GiB is little: {how}"
    return Finding(kind=kind, name=str(folder), works=not more, found=f"{free_gib:.1f} GiB free{more}")
