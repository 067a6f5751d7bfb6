"""What a process does before it leaves a trial's epochs to another: it fills the caches, and trains nothing.

A process that measured the gate or compiled something new runs the rest of its life slower: on a GPU 3.5 % of a step
(docs/measurements.md). Whatever the whole trial will compile is therefore compiled by one that never trains.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tune.engine.compiled import compiled_afresh
from tune.gate.proof import MEASURED
from tune.trial.compile_cache import ShapeNotes, folder_for

if TYPE_CHECKING:
    from tune.trial.session import Session


def rehearse(session: Session, epoch: int) -> bool:
    """True where `session`, about to train `epoch`, is of no use for that: its process measured, compiled or pruned."""
    pruned = _rehearse_pruning(session, epoch)
    return pruned or session.proof.tags["gate_verdict"] == MEASURED or compiled_afresh()


def _rehearse_pruning(session: Session, epoch: int) -> bool:
    """Where nobody yet was at the shapes that come after `epoch`, go through the trial's prunings as it will itself.

    That takes the session's own model, so that it needs no more memory than the trial. False where it is untouched.
    """
    warmed, later = _warmed(session), session.pruner.heads_after(epoch, session.config.model.num_heads)
    if all(warmed.knows(_shapes(session, heads)) for heads in later.values()):
        return False
    for at, heads in later.items():
        session.prune_before(at)
        warmed.note(_shapes(session, heads))
    return True


def _warmed(session: Session) -> ShapeNotes:
    job = session.job
    if job.compile_dir is None:
        return ShapeNotes(None)
    return ShapeNotes(folder_for(Path(job.compile_dir), session.config, session.device, isolated=job.isolate))


def _shapes(session: Session, heads: int) -> dict[str, Any]:
    """All that compiled code depends on with so many heads in a layer, beside what its folder stands for."""
    config, feed = session.config, session.feed
    return {
        "model": config.builder_fields(feed.channels),
        "heads": heads,
        "batch_size": config.train.batch_size,
        "windows": {split: feed.num_windows(split) for split in ("train", "validation")},
        # Heads are scored without an engine, where this backend compiles on its own
        "score": config.pruning.score if config.model.attention == "flex" else None,
    }
