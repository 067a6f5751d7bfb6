"""What lies under a storage folder and nobody needs any more: checkpoints of ended trials, drafts of killed processes.

A finished sweep is never resumed, so it needs no checkpoint and none of Ray Tune's own files. It keeps its models, raw
samples and forecasts: they can be sent to another MLflow store. An unfinished sweep keeps the checkpoints that its
trials go on from.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from tune.common.process import alive
from tune.storage.paths import FOLDERS, as_found
from tune.storage.sweep_dir import FINISHED, SweepDir

_DRAFT = re.compile(r"\..+\.(\d+)\.tmp")  # tune.common.files.write_atomically; the number is the process's


def leftovers(sweep: SweepDir) -> list[Path]:
    """Files and folders, absolute, that the sweep does not need. The caller makes sure that no process runs it."""
    sweep = SweepDir(sweep.path.absolute())  # as the paths that are needed
    finished = sweep.read()["state"] == FINISHED
    needed = _sent_folders(sweep)
    if not finished:
        for trial in (sweep.path / "checkpoints").glob("*"):
            needed |= {Path(path) for path in sweep.checkpoints(trial.name)}
    found = [sweep.path / "checkpoints"] if finished and (sweep.path / "checkpoints").exists() else []
    for attempt in sorted(sweep.path.glob("attempt-*")):
        found += _without(attempt, needed)
    return found + [folder for folder in [sweep.path / "isolated"] if folder.exists()]


def clear_leftovers(sweep: SweepDir) -> None:
    """Remove `leftovers`. What cannot be removed stays, for `gc`: it only takes space."""
    for path in leftovers(sweep):
        remove(path)


def remove(path: Path) -> None:
    """Remove a file, a link or a folder, as far as that is possible."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def _sent_folders(sweep: SweepDir) -> set[Path]:
    """The folders that the outbox names: MLflow gets them, perhaps once more."""
    if not sweep.outbox.exists():
        return set()
    folders: set[Path] = set()
    with sweep.outbox.open("rb") as lines:
        for line in lines:
            if b'_dir":' not in line:  # a report is megabytes long
                continue
            with suppress(ValueError):
                record = as_found(json.loads(line), sweep.path)
                folders |= {Path(record[name]) for name in FOLDERS if record.get(name)}
    return folders


def _without(folder: Path, needed: set[Path]) -> list[Path]:
    """What lies in `folder` beside the `needed` folders; `folder` itself if it holds none of them."""
    if folder in needed:
        return []
    if not any(path.is_relative_to(folder) and path.exists() for path in needed):
        return [folder]
    return [left for entry in sorted(folder.iterdir()) for left in _without(entry, needed)]


def stale_drafts(storage: Path) -> Iterator[Path]:
    """Unfinished files of processes that were killed, in `storage` and in the folders of its sweeps."""
    for folder in (storage, *(file.parent for file in storage.glob("*/sweep.json"))):
        for path in sorted(folder.glob(".*.tmp")):
            if (draft := _DRAFT.fullmatch(path.name)) and not alive(int(draft[1])):
                yield path


def size_bytes(path: Path) -> int:
    """The space that a file or folder takes, without what its links point to."""
    files = path.rglob("*") if path.is_dir() and not path.is_symlink() else [path]
    total = 0
    for file in files:
        with suppress(OSError):
            total += 0 if file.is_dir() and not file.is_symlink() else file.lstat().st_size
    return total
