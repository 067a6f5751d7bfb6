"""Where the Ray that we start on this machine keeps its session, and where it listens."""

from __future__ import annotations

import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tune.common.errors import WrongInput
from tune.common.temporary import own_folder

# Results go through files, so Ray's objects are small. Ray's default is 30 % of the memory, and it refuses to start
# where /dev/shm is much smaller, as in a container.
OBJECT_STORE_BYTES = 100 * 2**20
CONNECTS_WITHIN_S = 5.0
SHARED_MEMORY = Path("/dev/shm")  # nosec B108
LONGEST_SOCKET_BYTES = 107  # of an address in the file system: sockaddr_un(7)
LONGEST_BELOW = "session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"  # the longest name that Ray gives
LEAST_FREE_MIB = 200  # code, logs and, where /dev/shm is small, objects


def session_folder() -> Path:
    """The folder for sockets, logs and our code of a Ray that we start: inside a folder that only we can enter.

    Ray opens its own folder to everybody, and its workers run the code in it. WrongInput names RAY_TMPDIR if others may
    write to the folder, or Ray could not use it: its path is too long for sockets or has letters Ray does not take,
    or its disk is full. WrongInput too without a loopback interface, for which Ray would wait for minutes.
    """
    _check_loopback()
    sessions = own_folder() / "s"
    chosen = sessions.parents[1]
    named = next((name for name in ("RAY_TMPDIR", "TMPDIR") if os.environ.get(name)), "the temporary folder")
    if not re.fullmatch(r"[\w ./+@=:,~%-]+", str(chosen), re.ASCII):  # Ray puts it into command lines, as ASCII
        raise WrongInput(
            f"{named} {chosen}: Ray takes no quotes or letters beyond ASCII in its path: set RAY_TMPDIR to another "
            "folder such as /tmp"
        )
    too_long = len(os.fsencode(sessions / LONGEST_BELOW)) - LONGEST_SOCKET_BYTES
    if too_long > 0:
        least = len(os.fsencode(chosen)) - too_long
        raise WrongInput(
            f"{named} {chosen}: its path is too long for Ray's sockets, at most {least} bytes: set RAY_TMPDIR to a "
            "short folder such as /tmp"
        )
    free_mib = shutil.disk_usage(chosen).free >> 20
    if free_mib < LEAST_FREE_MIB:
        raise WrongInput(
            f"{named} {chosen}: {free_mib} MiB are free, Ray needs {LEAST_FREE_MIB}: make room, or set RAY_TMPDIR to a "
            "folder with more"
        )
    return sessions


def _check_loopback() -> None:
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            socket.create_connection(server.getsockname(), timeout=CONNECTS_WITHIN_S).close()
    except OSError as error:
        problem = f"nothing can connect to 127.0.0.1 ({error.strerror or error})"
        how = "bring its loopback interface up: ip link set lo up"
        raise WrongInput(f"Ray did not start on this machine: {problem}; {how}") from None


def object_store(sessions: Path) -> dict[str, Any]:
    """Options of `ray.init`: how large its store of objects is, and that it lies by `sessions`, if not in /dev/shm."""
    try:
        tempfile.TemporaryFile(dir=SHARED_MEMORY).close()
        there = shutil.disk_usage(SHARED_MEMORY).free >= OBJECT_STORE_BYTES
    except OSError:
        there = False
    place = {} if there else {"_plasma_directory": str(sessions.parent)}
    return {"object_store_memory": OBJECT_STORE_BYTES, **place}


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
