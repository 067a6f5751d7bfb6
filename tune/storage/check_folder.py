"""Can a folder hold sweeps? Found out before Ray starts. Caches that it cannot hold go elsewhere."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
from pathlib import Path

from tune.common.errors import WrongInput
from tune.common.files import is_private, keeps_private
from tune.common.temporary import own_folder

CACHES = ("compile", "gate")  # in `cache_place`
LOCKS = ".opening"  # folder of the locks of commands that open a sweep


def check_storage(storage: Path) -> None:
    """Raises WrongInput if `storage`, which may not exist yet, cannot be written or belongs to another account.

    Leaves nothing behind.
    """
    if scheme := re.match(
        r"([a-z][a-z0-9+.-]*):/", str(storage)
    ):  # otherwise a folder of this name would be created here
        problem = f"{scheme[1]}:// is not supported, trials share files with locks and appends"
        raise WrongInput(f"--storage-path {storage}: {problem}; give a folder that all nodes mount (NFS, EFS)")
    existing = _existing(storage)
    if not os.path.isdir(existing):
        raise WrongInput(unwritable(storage, f"{existing} is not a folder"))
    if not os.access(existing, os.W_OK | os.X_OK):
        raise WrongInput(unwritable(storage, f"{existing} is not writable"))
    try:  # os.access says that /proc is writable, and for root that every folder is
        private = keeps_private(existing)
    except OSError as error:
        raise WrongInput(unwritable(storage, f"nothing can be created in {existing} ({error.strerror})")) from None
    if not private:  # owners and modes mean nothing there; `cache_place` sees to what must be private
        return
    locks = storage / LOCKS
    if locks.exists() and locks.stat().st_uid != os.getuid():
        raise WrongInput(unwritable(storage, "another account runs sweeps there, and only it may read them"))
    for cache in (storage / name for name in CACHES):
        if cache.exists() and not is_private(cache):
            problem = f"others can write to {cache}, so what is cached there is not trusted"
            raise WrongInput(f"--storage-path {storage}: {problem}; do: chmod -R go-w {shlex.quote(str(cache))}")


def unwritable(storage: Path, problem: str) -> str:
    """The line for a storage folder that cannot be used."""
    return f"--storage-path {storage}: {problem}; give a folder that can be written or created"


def cache_place(folder: Path) -> Path:
    """Where caches of `folder`, which may not exist yet, are: in it, or in a folder of our own that stands in for it.

    Trials trust what they find there (compiled programs, gate results) and load libraries from it: its file system must
    keep it private and allow execution. WrongInput as `own_folder`.
    """
    try:
        if no_caches(folder) is None:
            return folder
    except OSError:  # it cannot be written: nothing is put there, and what is there may be read
        return folder
    return own_folder() / "caches" / hashlib.sha256(os.fsencode(folder.absolute())).hexdigest()[:12]


def no_caches(folder: Path) -> str | None:
    """Why `folder` cannot hold caches, in words; None if it can. OSError if nothing can be made there."""
    existing = _existing(folder)
    if not keeps_private(existing):
        return "its file system keeps no permissions or owners"
    if os.statvfs(existing).f_flag & os.ST_NOEXEC:
        return "its file system is mounted noexec"
    return None


def cache_note(storage: Path) -> str | None:
    """A line for the user where compiled programs and gate results are not kept in `storage`."""
    if (why := no_caches(storage)) is None:
        return None
    where = cache_place(storage)
    return f"--storage-path {storage}: {why}, so compiled programs and gate results are kept in {where}"


def _existing(folder: Path) -> Path:
    """The folder, or the nearest above it that exists."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(path))
