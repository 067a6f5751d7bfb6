"""Folders of Ray sessions that we started on this machine: removed at the end, and later those of killed processes.

SESSIONS/session_DATE_TIME_PID/     sockets, logs and copies of our code; PID is the process that started it
SESSIONS/session_latest             a link to the newest
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import time
from pathlib import Path

from tune.common.process import alive

KEPT = "kept"  # a file in the folder of a session to whose logs a message points
STARTING_S = 600.0  # a session this young may have no socket yet
_SESSION = re.compile(r"session_\d{4}-\d\d-\d\d_[\d_-]+_(\d+)")


def dead_sessions(sessions: Path, *, kept: bool = False) -> list[Path]:
    """Folders of sessions that have ended. With `kept` also those whose logs somebody was told to read."""
    if not sessions.is_dir():
        return []
    return [
        folder
        for folder in sorted(sessions.iterdir())
        if not folder.is_symlink() and _is_dead(folder) and (kept or not (folder / KEPT).exists())
    ]


def _is_dead(folder: Path) -> bool:
    """Whether its process has ended and nobody listens at its sockets.

    The number of a process in another container may be free here, but its sockets answer.
    """
    name = _SESSION.fullmatch(folder.name)
    if name is None or not folder.is_dir() or alive(int(name[1])):
        return False
    sockets = list((folder / "sockets").glob("*"))
    if not sockets and time.time() - folder.stat().st_mtime < STARTING_S:
        return False
    return not any(_listens(path) for path in sockets)


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(1.0)
        try:
            client.connect(str(path))
        except OSError:
            return False
    return True


def clear_dead_sessions(sessions: Path) -> None:
    """Remove what killed processes have left, before another session starts."""
    for folder in dead_sessions(sessions):
        shutil.rmtree(folder, ignore_errors=True)


def remove_own_session(sessions: Path) -> None:
    """Remove the folder of the session that this process started. Call it after Ray was shut down."""
    for folder in sessions.glob(f"session_*_{os.getpid()}"):
        if not (folder / KEPT).exists():
            shutil.rmtree(folder, ignore_errors=True)
    latest = sessions / "session_latest"
    if latest.is_symlink() and not latest.exists():
        latest.unlink(missing_ok=True)


def keep_own_session(sessions: Path) -> None:
    """Let the logs of this process's session stay, as a message points to them; `gc` removes them."""
    for folder in sessions.glob(f"session_*_{os.getpid()}"):
        (folder / KEPT).touch()
