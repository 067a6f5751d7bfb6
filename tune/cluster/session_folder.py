"""Where the Ray that we start on this machine keeps its session, and where it listens."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tune.common.errors import WrongInput, first_line
from tune.common.files import make_private


def session_folder() -> Path:
    """The folder for sockets, logs and our code of a Ray that we start: inside a folder that only we can enter.

    Ray opens its own folder to everybody, and its workers run the code in it. Names are short, as the paths of sockets
    are limited. WrongInput if others may write to the folder.
    """
    from ray._common.utils import get_default_ray_temp_dir

    own = Path(get_default_ray_temp_dir()).with_name(f"ray-{os.getuid()}")
    problem = f"{own} is a link, so its sessions are not trusted" if own.is_symlink() else None
    try:
        if problem is None:
            make_private(own, "sessions")
            own.chmod(0o700)  # one of an earlier version may be readable
    except (OSError, RuntimeError) as error:
        problem = first_line(error)
    if problem:
        raise WrongInput(f"Ray did not start on this machine: {problem}; or name another folder in RAY_TMPDIR")
    return own / "s"


@contextmanager
def on_loopback() -> Iterator[None]:
    """Inside, Ray starts with its ports on 127.0.0.1 only, as on a Mac; on Linux it would take all interfaces.

    Ray reads this constant from the environment when it is imported, which has happened by now.
    """
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
