"""Folders that only their owner can write to, because their content is trusted later; files written atomically."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def make_private(folder: Path, what: str) -> None:
    """Make `folder` for its owner only. Raises RuntimeError, which names `what` is in it, if others can write there."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    status = folder.stat()
    if status.st_uid != os.getuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise RuntimeError(f"{folder} can be written by others, so its {what} are not trusted: chmod 700 {folder}")


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
