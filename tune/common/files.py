"""Folders whose content is believed later: only their owner may write there."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def make_private(folder: Path, what: str) -> None:
    """Make `folder` for its owner only. RuntimeError, naming `what` lies in it, where others can write to it."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    found = folder.stat()
    if found.st_uid != os.getuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise RuntimeError(f"{folder} can be written by others, so its {what} are not trusted: chmod 700 {folder}")


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write `content` beside `path`, then rename it into place; where that fails, nothing is left behind.

    A crash of the machine leaves the old file or the new one: what is renamed is on the disk by then.
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
