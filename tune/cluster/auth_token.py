"""The file with Ray's token must be its owner's only."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from tune.common.errors import WrongInput


def check_token_file() -> None:
    """Make sure that only its owner can read the file with Ray's token.

    Raises WrongInput if others can read the file that the user named. Ray writes its default file readable by all:
    its mode is corrected.
    """
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    path = Path(named or "~/.ray/auth_token").expanduser()
    try:
        status = path.stat()
    except OSError:  # no file: Ray says so if it needs one
        return
    if not status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        return
    if named or status.st_uid != os.getuid():
        raise WrongInput(f"RAY_AUTH_TOKEN_PATH {path}: others can read the token; do: chmod 600 {path}")
    path.chmod(stat.S_IRUSR | stat.S_IWUSR)
