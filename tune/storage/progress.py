"""How far a sweep is, by its folder alone: also while another process runs it."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime

from tune.storage.outbox import in_use_by
from tune.storage.sweep_dir import ENDED, FINISHED, SweepDir
from tune.storage.trial_log import OutboxIndex


@dataclass(frozen=True, kw_only=True)
class LocalSweep:
    """A sweep on this machine. `state`: running, unfinished, waits for MLflow, or finished."""

    sweep_id: str
    state: str
    ended: int  # trials, those that cannot run included
    left: int  # trials that were announced and have not ended; a search and --repeats auto announce more as they go
    started: str  # UTC
    process: str | None  # that runs it, in words


def look(sweep: SweepDir) -> LocalSweep:
    """Reads the sweep's record and its outbox, without its lock."""
    content, owner = sweep.read(), in_use_by(sweep.outbox)
    stages = _index(sweep).trials.values()
    ended = sum(stage == "ended" for stage in stages)
    done = {FINISHED: "finished", ENDED: "waits for MLflow"}.get(content["state"], "unfinished")
    return LocalSweep(
        sweep_id=sweep.sweep_id,
        state="running" if owner else done,
        ended=ended,
        left=len(stages) - ended,
        started=f"{datetime.fromtimestamp(content['created_s'], UTC):%Y-%m-%d %H:%M UTC}",
        process=owner,
    )


def _index(sweep: SweepDir) -> OutboxIndex:
    index = OutboxIndex()
    with contextlib.suppress(FileNotFoundError), sweep.outbox.open("rb") as lines:
        for line in lines:
            with contextlib.suppress(ValueError, KeyError, TypeError):  # the last line may be half written
                index.absorb(json.loads(line))
    return index
