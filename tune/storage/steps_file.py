"""How far a trial is inside its epoch: a small file that the trial writes now and then, and the driver reads.

STORAGE/SWEEP_ID/steps/T      "EPOCH DONE STEPS" of the trial T, while an epoch takes long

It is for people's eyes only: nothing is decided by it, and what cannot be written or read is not shown.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tune.common.files import write_atomically

FOLDER = "steps"  # in a sweep's folder


@dataclass(frozen=True, kw_only=True)
class Steps:
    """Steps of one epoch."""

    epoch: int  # from 1
    done: int  # that the device has finished
    steps: int  # of the epoch


def write(file: Path, steps: Steps) -> None:
    """Write what `read` reads, if there is room."""
    with suppress(OSError):
        file.parent.mkdir(exist_ok=True)
        write_atomically(file, f"{steps.epoch} {steps.done} {steps.steps}\n")


def read(file: Path) -> Steps | None:
    """None if there is nothing, or nothing that can be read."""
    try:
        epoch, done, steps = map(int, file.read_text().split())
    except (OSError, ValueError):
        return None
    return Steps(epoch=epoch, done=done, steps=steps)


def remove(file: Path) -> None:
    """Remove the file, and its folder if it was the last one."""
    with suppress(OSError):
        file.unlink()
        file.parent.rmdir()
