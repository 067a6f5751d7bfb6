"""Checks of the folders for sweeps and data. A network file system may hang here."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from data_pipeline.datasets import DATASETS
from data_pipeline.errors import DataError
from tune.common.errors import WrongInput
from tune.doctor.finding import Finding, Place
from tune.doctor.machine import room
from tune.storage.check_folder import cache_note, check_storage

LITTLE_DISK_GIB = 2.0  # a sweep's checkpoints and models are some MiB each, the converted traffic series 60 MiB
CLOCKS_DIFFER_S = 2.0  # FAT keeps even seconds


def folder(place: Place) -> Iterator[Finding]:
    """As a sweep checks it before it starts."""
    name = str(place.storage)
    try:
        check_storage(place.storage)
    except WrongInput as error:
        yield Finding(kind="storage", name=name, works=False, found=str(error), needed=True)
        return
    found = "can be written, by its owner only"
    if note := cache_note(place.storage):
        found = f"can be written; {note.partition(': ')[2]}"
    yield Finding(kind="storage", name=name, works=True, found=found, needed=True)


def disk(place: Place) -> Iterator[Finding]:
    """Room for sweeps."""
    yield room("disk", _existing(place.storage), LITTLE_DISK_GIB, "free some, or give another --storage-path")


def clock(place: Place) -> Iterator[Finding]:
    """Whether the file system's clock is this machine's: ages of files and times of records are compared."""
    try:
        with tempfile.NamedTemporaryFile(prefix=".clock-", dir=_existing(place.storage)) as file:
            ahead_s = os.stat(file.name).st_mtime - time.time()
    except OSError:
        return  # the check of that folder has said so
    yield clocks("storage", ahead_s)


def clocks(whose: str, ahead_s: float) -> Finding:
    """The finding for a clock that is `ahead_s` seconds ahead of this machine's."""
    if abs(ahead_s) <= CLOCKS_DIFFER_S:
        return Finding(kind="clock", name=whose, works=True, found="agrees with this machine's")
    how = "ahead of" if ahead_s > 0 else "behind"
    found = f"{abs(ahead_s):,.0f} s {how} this machine's: set both by one time server (NTP)"
    return Finding(kind="clock", name=whose, works=False, found=found)


def data_sets(place: Place) -> Iterator[Finding]:
    """Which data sets are there."""
    from data_pipeline.series.store import locate

    for name, spec in DATASETS.items():
        try:
            path = locate(spec, place.data_dir)
        except DataError as error:
            later = f"not in {place.data_dir} yet; downloaded at its first use" if spec.urls else str(error)
            yield Finding(kind="data set", name=name, works=None if spec.urls else False, found=later)
        else:
            found = "generated" if path is None else str(path)
            yield Finding(kind="data set", name=name, works=True, found=found)


def _existing(folder: Path) -> Path:
    """The folder, or the nearest above it that exists."""
    return next(path for path in (folder, *folder.parents) if path.exists())
