"""What Ray runs on a worker for each trial."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from tune.driver.gpu_leases import GpuLocation, enter
from tune.storage.checksums import first_intact
from tune.trial.job import TrialJob

Entry = Callable[[dict[str, Any]], None]  # what Ray runs on a worker; its argument holds the `job`


def trial_entry(config: dict[str, Any]) -> None:
    """What Ray runs on a worker: one trial, in a process of its own, reported through Tune."""
    import ray
    from ray import tune as ray_tune

    from tune.worker import supervisor

    # A trial that a scheduler stops is over once its process has given its memory back; Tune waits 2 s by itself
    os.environ.setdefault("TUNE_FUNCTION_THREAD_TIMEOUT_S", "60")
    if "place" in config:
        enter(GpuLocation(**config["place"]))
    job = TrialJob(**config["job"])

    def report(result: dict[str, Any], folder: Path | None) -> None:
        checkpoint = ray_tune.Checkpoint.from_directory(str(folder)) if folder else None
        ray_tune.report(result, checkpoint=checkpoint)

    retried = ray_tune.get_checkpoint()
    folder, wrong = first_intact([*_of_this_run(retried), *job.resume_from])
    if wrong is not None:
        goes_on = f"goes on from {folder}" if folder else "starts from the beginning"
        job = replace(job, checkpoint_damaged=f"{goes_on}, as a checkpoint is damaged: {wrong}")
    supervisor.here().run(job, report, folder, template=job.templates.get(ray.get_runtime_context().get_node_id()))


def _of_this_run(newest: Any) -> list[str]:
    """Tune's checkpoints of a trial that it tries again, the newest first: the one it goes by, and those before it."""
    if newest is None:
        return []
    path = Path(newest.path)
    before = (folder for folder in path.parent.glob("checkpoint_*") if folder.name < path.name)
    return [str(path), *(str(folder) for folder in sorted(before, reverse=True))]
