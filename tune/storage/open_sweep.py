"""Which sweep a command goes on with, or a new one; who may."""

from __future__ import annotations

import json
import os
import re
import secrets
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from tune.common.errors import WrongInput, did_you_mean
from tune.common.files import write_atomically
from tune.machine.environment import changes
from tune.storage.outbox import in_use_by
from tune.storage.params import FORMAT, format_of
from tune.storage.sweep_dir import FINISHED, RUNNING, SweepDir

LOCKS = ".opening"
LATER_S = 0.001  # between two sweeps of which the later one would have the earlier time
OPENING_S = 60.0  # how long one command waits while another of the same plan opens its sweep


def create(storage: Path, sweep: str, content: dict[str, Any]) -> SweepDir:
    """A new sweep folder, readable by its owner only. Its id is the sweep's name, the UTC time and four hex digits.

    Raises WrongInput where it cannot be written; `storage` itself is made if it is not there.
    """
    sweep_id = f"{sweep}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    path = storage / sweep_id
    if earlier := [created_s for created_s, _ in _records(storage)[0]]:  # the latest also where the clock was ahead
        content = content | {"created_s": max(content["created_s"], max(earlier) + LATER_S)}
    text = json.dumps({"sweep_id": sweep_id, "state": RUNNING, "format": FORMAT, **content}, indent=1)
    try:
        path.mkdir(parents=True, mode=0o700)
        write_atomically(path / "sweep.json", text)
    except OSError as error:
        raise WrongInput(_unwritable(storage, str(error.strerror))) from None
    return SweepDir(path)


@contextmanager
def sweep_lock(storage: Path, key: str) -> Iterator[None]:
    """Inside, no other command of this plan opens a sweep in `storage`: of two that start at once, one finds the other.

    Held until the chosen sweep's outbox is held. Raises WrongInput where it cannot be had within OPENING_S seconds.
    """
    locks = storage / LOCKS
    locks.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        with FileLock(locks / f"{key}.lock", timeout=OPENING_S):
            yield
    except Timeout:
        problem = f"another command has been opening a sweep of this plan for {OPENING_S:g} s"
        raise WrongInput(f"--storage-path {storage}: {problem}; try again, or give another folder") from None


def check_storage(storage: Path) -> None:
    """Raises WrongInput if nothing can be written in `storage`, there or yet to be made, or if it is another account's.

    Leaves nothing behind.
    """
    if scheme := re.match(r"([a-z][a-z0-9+.-]*):/", str(storage)):  # as a folder it would be made here, unnoticed
        problem = f"{scheme[1]}:// is not supported, trials share files with locks and appends"
        raise WrongInput(f"--storage-path {storage}: {problem}; give a folder that all nodes mount (NFS, EFS)")
    there = next(path for path in (storage.absolute(), *storage.absolute().parents) if os.path.lexists(path))
    if not os.path.isdir(there):
        raise WrongInput(_unwritable(storage, f"{there} is not a folder"))
    if not os.access(there, os.W_OK | os.X_OK):
        raise WrongInput(_unwritable(storage, f"{there} is not writable"))
    locks = storage / LOCKS
    if locks.exists() and locks.stat().st_uid != os.getuid():
        raise WrongInput(_unwritable(storage, "another account runs sweeps there, and what it keeps is its own"))
    try:  # /proc says of itself that it is writable, and so does every folder to root
        os.rmdir(tempfile.mkdtemp(prefix=".writable-", dir=there))
    except OSError as error:
        raise WrongInput(_unwritable(storage, f"nothing can be made in {there} ({error.strerror})")) from None


def _unwritable(storage: Path, problem: str) -> str:
    return f"--storage-path {storage}: {problem}; give a folder that can be written, or made"


def every(storage: Path) -> list[SweepDir]:
    """All sweeps under `storage`, oldest first. A sweep.json that is not ours is left out, with a line on stderr."""
    found, left_out = _records(storage)
    for line in left_out:
        print(line, file=sys.stderr)
    return [SweepDir(path) for _, path in sorted(found)]


def _records(storage: Path) -> tuple[list[tuple[float, Path]], list[str]]:
    """When each sweep was created, with its folder; and a line for each sweep.json that cannot be read."""
    found, left_out = [], []
    for file in storage.glob("*/sweep.json"):
        try:
            content = _checked(json.loads(file.read_text()))
        except (OSError, ValueError) as error:
            left_out.append(f"{file} is left out: it is not the record of a sweep ({error})")
        else:
            found.append((content["created_s"], file.parent))
    return found, left_out


def _checked(content: Any) -> dict[str, Any]:
    """The content of a sweep.json. ValueError if it lacks what `choose_sweep` reads."""
    needed: dict[str, Any] = {"key": str, "state": str, "created_s": (int, float), "code": dict}
    if not isinstance(content, dict):
        raise ValueError("it holds no fields")
    for name, kind in needed.items():
        if not isinstance(content.get(name), kind):
            raise ValueError(f"its field '{name}' is missing or of another kind")
    if (version := format_of(content)) > FORMAT:
        raise ValueError(f"its format is {version}, of a later version; this one reads up to {FORMAT}")
    return content


def choose_sweep(
    storage: Path, *, key: str, environment: dict[str, Any], fresh: bool, resume: str | None
) -> tuple[SweepDir | None, str]:
    """The sweep to go on with (None: start a new one) and a line telling the user why.

    The latest unfinished sweep with this key goes on. It must have run on the same code, versions and driver as
    `environment` has: the results of one sweep come from one program. `resume` names a sweep and waives that.
    """
    if resume is not None:
        return _named(storage, resume, key), f"resuming {resume}, as asked"
    if fresh:
        return None, "starting a new sweep, as asked by --fresh"
    same = [sweep for sweep in every(storage) if sweep.read()["key"] == key]
    if not same:
        return None, "starting a new sweep"
    latest = same[-1]
    if latest.read()["state"] == FINISHED:
        return None, f"{latest.sweep_id} ran this same plan to its end; starting a new sweep"
    check_idle(latest)
    if other := _other_program(latest.read(), environment):
        raise WrongInput(
            f"{latest.sweep_id} is unfinished but was started {other}; use --fresh to start anew, or --resume "
            f"{latest.sweep_id} to go on all the same"
        )
    return latest, f"resuming {latest.sweep_id}, which did not finish (use --fresh to start anew)"


def _other_program(content: dict[str, Any], environment: dict[str, Any]) -> str | None:
    """What a sweep ran on that its next trials would not, in words; None where it is the same."""
    theirs = content["code"]
    if theirs["code_sha256"] != environment["code_sha256"]:
        return f"by other code ({_describe(theirs)}; now {_describe(environment)})"
    found = changes(content.get("environment") or {}, environment)
    return f"with other versions ({'; '.join(found)})" if found else None


def check_idle(sweep: SweepDir) -> None:
    """Raises WrongInput if a process runs this sweep at the moment."""
    if who := in_use_by(sweep.outbox):
        raise WrongInput(f"{sweep.sweep_id} is running as {who}; wait for it or stop it, its command then goes on")


def check_not_running(storage: Path, asked: str) -> None:
    """Raises WrongInput, naming who, if a process runs a sweep here at the moment whose command asked for the same."""
    for sweep in running(storage):
        if sweep.read().get("asked") == asked:
            check_idle(sweep)


def running(storage: Path) -> list[SweepDir]:
    """The sweeps under `storage` that a process runs at the moment."""
    return [sweep for sweep in every(storage) if in_use_by(sweep.outbox)]


def check_known(storage: Path, sweep_id: str, *, given: str) -> None:
    """Raises WrongInput if `storage` holds no sweep of this id, naming the latest ones, or if it is running.

    given: what the user wrote, such as `--resume ID`.
    """
    known = [sweep.sweep_id for sweep in every(storage)]
    if sweep_id not in known:
        latest = ", ".join(known[-3:]) or "none"
        near = did_you_mean(sweep_id, known)
        raise WrongInput(f"{given}: no such sweep in {storage}; the latest are: {latest}.{near}")
    check_idle(SweepDir(storage / sweep_id))


def _named(storage: Path, sweep_id: str, key: str) -> SweepDir:
    check_known(storage, sweep_id, given=f"--resume {sweep_id}")
    chosen = SweepDir(storage / sweep_id)
    if chosen.read()["key"] != key:
        raise WrongInput(
            f"--resume {sweep_id}: it has another plan, data or store than this command; run its own command"
        )
    if chosen.read()["state"] == FINISHED:
        raise WrongInput(f"--resume {sweep_id}: it is finished; use `experiments.py report {sweep_id}`")
    return chosen


def _describe(code: dict[str, Any]) -> str:
    commit = code["git_commit"]
    if commit is None:
        return f"code {code['code_sha256'][:10]}"
    return f"commit {commit[:10]}{' with uncommitted changes' if code['git_dirty'] else ''}"
