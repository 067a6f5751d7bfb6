"""The file that holds Ray's token is its owner's."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from tune.common.errors import WrongInput


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
