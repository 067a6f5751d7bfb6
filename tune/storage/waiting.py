"""What an ended sweep still has to send, seen from its folder: no store is asked."""

from __future__ import annotations

import shlex
from pathlib import Path

from tune.common.program import COMMAND
from tune.storage.outbox import beside, in_use_by
from tune.storage.sweep_dir import ENDED, SweepDir


def flush_command(sweep_id: str, storage_path: Path, *options: str) -> str:
    """The command that sends a sweep's records."""
    command = [*COMMAND.split(), "flush", sweep_id]
    if storage_path.absolute() != Path("runs").absolute():
        command += ["--storage-path", str(storage_path)]
    return shlex.join([*command, *options])


def waiting(storage_path: Path, sweep_id: str) -> str | None:
    """Which records of an ended sweep MLflow may lack, and the command that sends them, in one line.

    None without any, without a folder of this sweep, and while a process runs it.
    """
    folder = SweepDir(storage_path / sweep_id)
    try:
        state = folder.read()["state"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if in_use_by(folder.outbox):
        return None
    refused = _lines(beside(folder.outbox, "rejected"))
    parts = [
        f"{refused} records of {sweep_id} were refused by MLflow" if refused else "",
        f"records of {sweep_id} wait in {folder.path}" if state == ENDED else "",
    ]
    if not any(parts):
        return None
    return f"{'; '.join(filter(None, parts))}: to send what MLflow takes now: {flush_command(sweep_id, storage_path)}"


def _lines(path: Path) -> int:
    try:
        with path.open("rb") as file:
            return sum(1 for _ in file)
    except OSError:
        return 0
