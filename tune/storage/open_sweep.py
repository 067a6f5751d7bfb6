"""Opens a sweep for a command: the unfinished one that it continues, or a new one; one process at a time."""

from __future__ import annotations

import json
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from tune.common.errors import WrongInput, did_you_mean
from tune.common.files import write_atomically
from tune.common.ids import sweep_meant
from tune.common.program import PROGRAM
from tune.machine.environment import changes
from tune.storage.check_folder import LOCKS, unwritable
from tune.storage.moved import Command
from tune.storage.outbox import in_use_by
from tune.storage.params import FORMAT, format_of
from tune.storage.sweep_dir import FINISHED, RUNNING, SweepDir
from tune.storage.waiting import waiting

LATER_S = 0.001  # a sweep gets at least this much later a time than those before it
OPENING_S = 60.0  # how long a command waits while another command of the same plan opens its sweep


def create(storage: Path, sweep: str, content: dict[str, Any]) -> SweepDir:
    """A new sweep folder, readable by its owner only. Its id is the sweep's name, the UTC time and four hex digits.

    Creates `storage` if it is missing. Raises WrongInput if the folder cannot be written.
    """
    sweep_id = f"{sweep}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    path = storage / sweep_id
    if earlier := [
        created_s for created_s, _ in _records(storage)[0]
    ]:  # it is the latest, even if an earlier sweep's clock was ahead
        content = content | {"created_s": max(content["created_s"], max(earlier) + LATER_S)}
    text = json.dumps({"sweep_id": sweep_id, "state": RUNNING, "format": FORMAT, **content}, indent=1)
    try:
        path.mkdir(parents=True, mode=0o700)
        write_atomically(path / "sweep.json", text)
    except OSError as error:
        raise WrongInput(unwritable(storage, str(error.strerror))) from None
    return SweepDir(path)


@contextmanager
def sweep_lock(storage: Path, key: str) -> Iterator[None]:
    """A lock: no other command of this plan opens a sweep in `storage`. Of two that start at once, one finds the other.

    Keep it until the chosen sweep's outbox is open. Raises WrongInput if it is not free within OPENING_S seconds.
    """
    locks = storage / LOCKS
    locks.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        with FileLock(locks / f"{key}.lock", timeout=OPENING_S):
            yield
    except Timeout:
        problem = f"another command has been opening a sweep of this plan for {OPENING_S:g} s"
        raise WrongInput(f"--storage-path {storage}: {problem}; try again, or give another folder") from None


def every(storage: Path) -> list[SweepDir]:
    """All sweeps under `storage`, oldest first. A foreign sweep.json is left out, with a line on stderr."""
    sweeps, left_out = _records(storage)
    for line in left_out:
        print(line, file=sys.stderr)
    return [SweepDir(path) for _, path in sorted(sweeps)]


def _records(storage: Path) -> tuple[list[tuple[float, Path]], list[str]]:
    """(time of creation, folder) of each sweep; and a line for each sweep.json that cannot be read."""
    sweeps, left_out = [], []
    for file in storage.glob("*/sweep.json"):
        try:
            content = _checked(json.loads(file.read_text()))
        except (OSError, ValueError) as error:
            left_out.append(f"{file} is left out: it is not the record of a sweep ({error})")
        else:
            sweeps.append((content["created_s"], file.parent))
    return sweeps, left_out


def _checked(content: Any) -> dict[str, Any]:
    """The content of a sweep.json. ValueError if it lacks what `choose_sweep` reads, or is of a later version."""
    needed: dict[str, Any] = {"key": str, "state": str, "created_s": (int, float), "code": dict}
    if not isinstance(content, dict):
        raise ValueError("it has no fields")
    for name, kind in needed.items():
        if not isinstance(content.get(name), kind):
            raise ValueError(f"its field '{name}' is missing or of another kind")
    if (version := format_of(content)) > FORMAT:
        raise ValueError(f"its format is {version}, of a later version; this one reads up to {FORMAT}")
    return content


def choose_sweep(
    storage: Path, *, command: Command, environment: dict[str, Any], fresh: bool, resume: str | None
) -> tuple[SweepDir | None, str]:
    """The sweep to continue (None: start a new one), and a line that tells the user why.

    This is the latest unfinished sweep that the command fits, though it may have moved. It must have run with the code,
    versions and driver of `environment`, as the results of a sweep come from one program; a sweep that `resume` names
    need not.
    """
    if resume is not None:
        return _named(storage, resume, command), f"resuming {resume}, as asked"
    if fresh:
        return None, "starting a new sweep, as asked by --fresh"
    planned = [sweep for sweep in every(storage) if command.plans(sweep)]
    same = [sweep for sweep in planned if command.fits(sweep)]
    if not same:
        return None, "starting a new sweep" + _elsewhere(planned)
    latest = same[-1]
    if latest.read()["state"] == FINISHED:
        left = waiting(storage, latest.sweep_id)
        ended = f"{latest.sweep_id} ran this same plan to its end; starting a new sweep"
        return None, f"{ended}; {left}" if left else ended
    check_idle(latest)
    if other := _other_program(latest.read(), environment):
        raise WrongInput(
            f"{latest.sweep_id} is unfinished but was started {other}; use --fresh to start anew, or --resume "
            f"{latest.sweep_id} to continue it anyway"
        )
    return latest, f"resuming {latest.sweep_id}, which did not finish (use --fresh to start anew)"


def _elsewhere(planned: list[SweepDir]) -> str:
    """What to say of unfinished sweeps of this plan that are recorded in another store."""
    left = [sweep for sweep in planned if sweep.read()["state"] != FINISHED]
    if not left:
        return ""
    sweep_id, store = left[-1].sweep_id, left[-1].read()["tracking_uri"]
    return (
        f"; {sweep_id}, of this plan, is unfinished in another store: --tracking-uri {store} goes on there, "
        f"--resume {sweep_id} moves all of it to this one"
    )


def _other_program(content: dict[str, Any], environment: dict[str, Any]) -> str | None:
    """How the program of a sweep differs from `environment`, in words; None if it does not."""
    theirs = content["code"]
    if theirs["code_sha256"] != environment["code_sha256"]:
        return f"by other code ({_describe(theirs)}; now {_describe(environment)})"
    differences = changes(content.get("environment") or {}, environment)
    return f"with other versions ({'; '.join(differences)})" if differences else None


def check_idle(sweep: SweepDir) -> None:
    """Raises WrongInput if a process is running this sweep."""
    if owner := in_use_by(sweep.outbox):
        raise WrongInput(
            f"{sweep.sweep_id} is running as {owner}; wait for it, or stop it: its command then continues it"
        )


def check_not_running(storage: Path, asked: str) -> None:
    """Raises WrongInput, naming the process, if one is running a sweep here whose command asked for the same."""
    for sweep in running(storage):
        if sweep.read().get("asked") == asked:
            check_idle(sweep)


def running(storage: Path) -> list[SweepDir]:
    """The sweeps under `storage` that a process is running."""
    return [sweep for sweep in every(storage) if in_use_by(sweep.outbox)]


def find_known(storage: Path, meant: str, *, given: str) -> str:
    """The id of the sweep in `storage` that is meant, as `tune.common.ids` says.

    given: the words of the command line, such as `--resume ID`.

    Raises WrongInput if there is none (the error names the latest ones), if it could be several, or if it is running.
    """
    known = [sweep.sweep_id for sweep in every(storage)]
    sweep_id = sweep_meant(meant, known[::-1])
    if sweep_id is None:
        latest = ", ".join(known[-3:]) or "none"
        near = did_you_mean(meant, known)
        raise WrongInput(f"{given}: no such sweep in {storage}; the latest are: {latest}.{near}")
    check_idle(SweepDir(storage / sweep_id))
    return sweep_id


def _named(storage: Path, sweep_id: str, command: Command) -> SweepDir:
    sweep_id = find_known(storage, sweep_id, given=f"--resume {sweep_id}")
    chosen = SweepDir(storage / sweep_id)
    if not command.plans(chosen):
        raise WrongInput(f"--resume {sweep_id}: it has another plan or data than this command; run its own command")
    if chosen.read()["state"] == FINISHED:
        raise WrongInput(f"--resume {sweep_id}: it is finished; use `{PROGRAM} report {sweep_id}`")
    return chosen


def _describe(code: dict[str, Any]) -> str:
    commit = code["git_commit"]
    if commit is None:
        return f"code {code['code_sha256'][:10]}"
    return f"commit {commit[:10]}{' with uncommitted changes' if code['git_dirty'] else ''}"
