"""Removes a sweep's folder. A mark in it lets an interrupted removal go on, and hides the sweep from other commands."""

from __future__ import annotations

import os
import shutil
from contextlib import closing
from pathlib import Path

from tune.common.errors import WrongInput, did_you_mean
from tune.common.ids import sweep_meant
from tune.storage.open_sweep import check_idle, every
from tune.storage.outbox import Outbox
from tune.storage.sweep_dir import SweepDir

MARK = "deleted.json"  # what sweep.json becomes


def find_deletable(storage: Path, meant: str) -> SweepDir:
    """The sweep that is meant, as `tune.common.ids` says, also one whose deletion was interrupted.

    Raises WrongInput if there is none, if it could be several, if it is running, or if its folder is a link.
    """
    begun = sorted(file.parent.name for file in storage.glob(f"*/{MARK}"))
    known = [*begun, *(sweep.sweep_id for sweep in every(storage))]
    sweep_id = sweep_meant(meant, known[::-1])
    if sweep_id is None:
        latest = ", ".join(known[-3:]) or "none"
        raise WrongInput(
            f"delete {meant}: no such sweep in {storage}; the latest are: {latest}.{did_you_mean(meant, known)}"
        )
    sweep = SweepDir(storage / sweep_id)
    check_idle(sweep)
    if sweep.path.is_symlink():
        raise WrongInput(f"{sweep.path} is a link to {sweep.path.resolve()}: remove the link and that folder by hand")
    return sweep


def begin(sweep: SweepDir) -> Outbox:
    """Mark the sweep as being deleted and keep others out until the outbox is closed. WrongInput if it is running."""
    try:
        outbox = Outbox(sweep.outbox)
    except ValueError as error:
        raise WrongInput(f"{sweep.sweep_id} cannot be deleted: {error}") from None
    if not (sweep.path / MARK).exists():
        os.replace(sweep.path / "sweep.json", sweep.path / MARK)
    return outbox


def finish(sweep: SweepDir, outbox: Outbox) -> None:
    """Remove the folder, the mark last. Links are removed, not what they point to. WrongInput for what cannot be."""
    with closing(outbox):
        try:
            for entry in sweep.path.iterdir():
                if entry.name == MARK:
                    continue
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry)
                else:
                    entry.unlink()
        except OSError as error:
            problem = f"{error.filename} cannot be removed: {error.strerror}"
            raise WrongInput(f"{problem}; mend that, and the same command goes on from here") from None
    shutil.rmtree(sweep.path)
