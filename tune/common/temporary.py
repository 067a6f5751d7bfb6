"""Our folder for temporary files of this account: Ray's sessions and token, caches where nothing better holds them."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from tune.common.errors import WrongInput, first_line
from tune.common.files import make_private


def temporary_folder() -> Path:
    """RAY_TMPDIR, or what Python takes: TMPDIR, /tmp, ..., the current folder. WrongInput if none can be written."""
    if named := os.environ.get("RAY_TMPDIR"):
        return Path(named).absolute()
    try:
        return Path(tempfile.gettempdir())
    except FileNotFoundError as error:
        raise WrongInput(f"{first_line(error)}: set TMPDIR to a folder that can be written") from None


def own_folder() -> Path:
    """The folder that only this account can enter, below `temporary_folder`; made if it is missing.

    WrongInput names RAY_TMPDIR if it cannot be made, or others may write to it.
    """
    own = temporary_folder() / f"ray-{os.getuid()}"
    problem = f"{own} is a link, so its sessions are not trusted" if own.is_symlink() else None
    try:
        if problem is None:
            make_private(own, "sessions")
            own.chmod(0o700)  # one of an earlier version may be readable
    except (OSError, RuntimeError) as error:
        problem = first_line(error)
    if problem:
        raise WrongInput(f"Ray did not start on this machine: {problem}; or name another folder in RAY_TMPDIR")
    return own
