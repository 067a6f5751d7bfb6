"""Folders that only their owner can write to, files written atomically, and folders that leave no trace."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def make_private(folder: Path, what: str) -> None:
    """Make `folder` for its owner only. Raises RuntimeError, which names `what` is in it, if others can write there."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not is_private(folder):
        how = f"chmod 700 {folder}" if keeps_private(folder) else "use a file system that keeps permissions and owners"
        raise RuntimeError(f"{folder} can be written by others, so its {what} are not trusted: {how}")


def keeps_private(folder: Path) -> bool:
    """Whether a new folder inside `folder` is as private as it was made.

    It is not where a mount shows one mode for all (WSL's /mnt/c, SMB, exFAT, shared folders of Docker Desktop), or one
    owner (NFS with root_squash, SMB). OSError if nothing can be made there.
    """
    made = Path(tempfile.mkdtemp(prefix=".private-", dir=folder))  # mode 700
    try:
        return is_private(made)
    finally:
        made.rmdir()


def is_private(folder: Path) -> bool:
    """Whether the folder is this account's, and only it can write there."""
    status = folder.stat()
    return status.st_uid == os.getuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write `content` beside `path`, then rename it into place. A failure leaves nothing behind.

    A crash of the machine leaves the old file or the new one: the content is on the disk before it is renamed.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def without_new_folders(folder: Path) -> Iterator[None]:
    """Remove what of `folder` and the folders above it is made inside, as far as it is empty again."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        yield
    finally:
        for path in made:
            with suppress(OSError):
                path.rmdir()
