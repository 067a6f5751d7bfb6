"""Surroundings as in containers, made with `unshare` and `bindfs`: a bare uid, read-only disks, odd mounts."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from system_kit import skip_for_want_of, system_program

ROOT = Path(__file__).resolve().parents[2]
UID = 12345
AS_BARE_UID = ["unshare", "--user", f"--map-user={UID}", f"--map-group={UID}"]

# $1 is the only folder that can be written, $2 the size of /dev/shm, the rest is the command. The first user namespace
# may mount; the second is the uid that a container would have, and may nothing.
CONTAINER = """\
set -eu
work=$1 shm=$2; shift 2
ip link set lo up
root=$work/.root
mkdir -p "$root"
mount --rbind / "$root"
mount --make-rprivate "$root"
awk -v root="$root" '$5 == root || index($5, root "/") == 1 {print $5}' /proc/self/mountinfo | while read -r at; do
  mount -o remount,bind,ro "$at" 2> /dev/null || true
done
mount -t tmpfs -o "size=$shm,mode=1777" tmpfs "$root/dev/shm"
mount -t proc proc "$root/proc"
mount --rbind "$work" "$root$work"
exec unshare --root "$root" --wd "$work" --user --map-user={uid} --map-group={uid} "$@"
""".replace("{uid}", str(UID))


def need(*programs: str) -> None:
    """Skip the test where this machine makes no namespaces, or lacks one of the programs in PACKAGES."""
    for program in programs:
        system_program(program)
    tried = subprocess.run([*AS_BARE_UID, "true"], capture_output=True, text=True)
    if tried.returncode != 0:
        skip_for_want_of(f"unshare makes no user namespace here ({tried.stderr.strip()})")


def in_container(work: Path, *, shm: str = "64m") -> list[str]:
    """What to write before a command, to run it in a container whose only writable folder is `work`.

    It has no network, the uid 12345 without an account, `shm` of /dev/shm, and process numbers of its own.
    """
    namespaces = ["--user", "--map-root-user", "--mount", "--net", "--pid", "--ipc", "--fork", "--kill-child"]
    return ["unshare", *namespaces, "sh", "-c", CONTAINER, "sh", str(work), shm]


def with_mounts(*commands: str) -> list[str]:
    """What to write before a command, to run it where these commands of a shell have mounted something."""
    script = "set -eu; " + "; ".join(commands) + '; exec "$@"'
    return ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"]


@contextmanager
def bound(source: Path, target: Path, *options: str) -> Iterator[Path]:
    """`target` shows what is in `source`, with bindfs's options."""
    for folder in (source, target):
        folder.mkdir(exist_ok=True)
    made = subprocess.run([system_program("bindfs"), *options, source, target], capture_output=True, text=True)
    if made.returncode != 0:
        skip_for_want_of(f"bindfs cannot mount here ({made.stderr.strip()})")
    try:
        yield target
    finally:
        undo = ["umount", "--lazy"] if os.getuid() == 0 else ["fusermount", "-uz"]
        subprocess.run([*undo, target], check=True)


def environment(**changes: str | None) -> dict[str, str]:
    """This process's, without a user's name and a store, and with these changes; None removes a variable."""
    left = {name: value for name, value in os.environ.items() if name not in ("USER", "LOGNAME", "MLFLOW_TRACKING_URI")}
    return {name: value for name, value in (left | changes).items() if value is not None}


def python(
    text: str, *, before: Sequence[str] = (), env: dict[str, str], cwd: Path
) -> subprocess.CompletedProcess[str]:
    """Run a program of ours that is given as a text."""
    command = [*before, sys.executable, "-c", text]
    env = env | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, timeout=300)
