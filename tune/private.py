"""Folders whose content is believed later: only their owner may write there."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from tune.errors import WrongInput


def make_private(folder: Path, what: str) -> None:
    """Make `folder` for its owner only. RuntimeError, naming `what` lies in it, where others can write to it."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    found = folder.stat()
    if found.st_uid != os.getuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise RuntimeError(f"{folder} can be written by others, so its {what} are not trusted: chmod 700 {folder}")


def check_token_file() -> None:
    """Nobody but its owner reads the file that Ray takes its token from.

    Raises WrongInput for one that the user named. The default one Ray itself writes, for others to read: that is put
    right.
    """
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    path = Path(named or "~/.ray/auth_token").expanduser()
    try:
        found = path.stat()
    except OSError:  # none there: Ray says so where it needs one
        return
    if not found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        return
    if named or found.st_uid != os.getuid():
        raise WrongInput(f"RAY_AUTH_TOKEN_PATH {path}: others can read the token; do: chmod 600 {path}")
    path.chmod(stat.S_IRUSR | stat.S_IWUSR)
