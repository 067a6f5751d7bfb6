"""Can a folder hold sweeps? Found out before Ray starts."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

from tune.common.errors import WrongInput

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
    existing = next(path for path in (storage.absolute(), *storage.absolute().parents) if os.path.lexists(path))
    if not os.path.isdir(existing):
        raise WrongInput(unwritable(storage, f"{existing} is not a folder"))
    if not os.access(existing, os.W_OK | os.X_OK):
        raise WrongInput(unwritable(storage, f"{existing} is not writable"))
    locks = storage / LOCKS
    if locks.exists() and locks.stat().st_uid != os.getuid():
        raise WrongInput(unwritable(storage, "another account runs sweeps there, and only it may read them"))
    try:  # os.access says that /proc is writable, and for root that every folder is
        os.rmdir(tempfile.mkdtemp(prefix=".writable-", dir=existing))
    except OSError as error:
        raise WrongInput(unwritable(storage, f"nothing can be created in {existing} ({error.strerror})")) from None


def unwritable(storage: Path, problem: str) -> str:
    """The line for a storage folder that cannot be used."""
    return f"--storage-path {storage}: {problem}; give a folder that can be written or created"
