"""Whether a process must leave a trial's epochs to a fresh one, and filling the compile cache before it does.

A process that ran the gate or compiled something new is slower for the rest of its life: on a GPU by 3.5 % of a step
(docs/measurements.md). So all that a trial compiles is compiled by a process that trains nothing.
"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tune.engine import kernel_threads, timed_choices
from tune.engine.compiled import compiled_afresh
from tune.gate.proof import MEASURED
from tune.trial.compile_cache import ShapeNotes, folder_for
from tune.trial.job import GATE
from tune.trial.turns import Turns

if TYPE_CHECKING:
    from tune.trial.session import Session


def warm_up_beside_others(session: Session) -> None:
    """Fill the caches for a part of the trial (`TrialJob.warm_up`) while other processes do so for theirs.

    Then, alone on the GPU, choose tilings of the training's kernels by timing them. The gate's keep their first tiling,
    as no trial runs them.
    """
    with _turns(session) or nullcontext() as turns:
        with timed_choices.postponed() as open_choices, kernel_threads.compiling_ahead():
            if session.job.warm_up == GATE:
                session.pass_gate()
                return
            if session.job.probe_steps:
                session.prune_before(session.pruner.final_from_epoch)
            else:
                session.prepare_epoch()
                _warm_up_later_shapes(session)
        if turns is not None and open_choices:  # else the first trial makes them
            turns.alone()
            timed_choices.make_now(open_choices)


def _turns(session: Session) -> Turns | None:
    """None where nothing is timed, or where nobody can say which GPU this is."""
    gpu, folder = session.meter.uuid, session.job.compile_dir
    return None if gpu is None or folder is None else Turns(Path(folder), gpu)


def must_hand_over(session: Session) -> bool:
    """Whether a fresh process must train, because this one ran the gate, compiled, timed or pruned.

    Call it before the process's first epoch, once that is prepared. It compiles for the later shapes of the trial.
    """
    pruned = _warm_up_later_shapes(session)
    return pruned or measured_or_compiled(session)


def measured_or_compiled(session: Session) -> bool:
    """Whether this process ran the gate, compiled, or timed a kernel's tilings."""
    return session.proof.tags["gate_verdict"] == MEASURED or compiled_afresh() or timed_choices.made_here()


def _warm_up_later_shapes(session: Session) -> bool:
    """Prune as the trial will later, and compile for each shape, unless the cache holds all these shapes.

    This uses up the session's own model, so that it needs no more memory than the trial. Returns whether it did.
    """
    coming = session.progress.epoch + 1
    notes, later = _shape_notes(session), session.pruner.heads_after(coming, session.config.model.num_heads)
    if all(notes.knows(_shapes(session, heads)) for heads in later.values()):
        return False
    for epoch, heads in later.items():
        session.prune_before(epoch)
        notes.note(_shapes(session, heads))
    return True


def _shape_notes(session: Session) -> ShapeNotes:
    job = session.job
    if job.compile_dir is None:
        return ShapeNotes(None)
    return ShapeNotes(folder_for(Path(job.compile_dir), session.config, session.device, isolated=job.isolate))


def _shapes(session: Session, heads: int) -> dict[str, Any]:
    """All that compiled code depends on with this many heads in a layer, beside what its folder stands for."""
    config, feed = session.config, session.feed
    return {
        "model": config.builder_fields(feed.channels),
        "heads": heads,
        "batch_size": config.train.batch_size,
        "windows": {split: feed.num_windows(split) for split in ("train", "validation")},
        # Heads are scored without an engine, and this backend then compiles on its own
        "score": config.pruning.score if config.model.attention == "flex" else None,
    }
