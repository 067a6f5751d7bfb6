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
from tune.trial.report import Report, as_result

Entry = Callable[[dict[str, Any]], None]  # what Ray runs on a worker; its argument holds the `job` in plain values


def trial_entry(config: dict[str, Any]) -> None:
    """Run one trial in a process of its own, and report it through Tune."""
    import ray
    from ray import tune as ray_tune

    from tune.worker import supervisor

    # A trial that a scheduler stops is over once its process has given its memory back; Tune itself waits only 2 s
    os.environ.setdefault("TUNE_FUNCTION_THREAD_TIMEOUT_S", "60")
    if "location" in config:
        enter(GpuLocation(**config["location"]))
    job = TrialJob.from_dict(config["job"])

    def report(content: Report, folder: Path | None) -> None:
        checkpoint = ray_tune.Checkpoint.from_directory(str(folder)) if folder else None
        ray_tune.report(as_result(content), checkpoint=checkpoint)

    retried = ray_tune.get_checkpoint()
    folder, damage = first_intact([*_of_this_run(retried), *job.resume_from])
    if damage is not None:
        continues = f"goes on from {folder}" if folder else "starts from the beginning"
        job = replace(job, checkpoint_damaged=f"{continues}, as a checkpoint is damaged: {damage}")
    node_socket = job.fork_servers.get(ray.get_runtime_context().get_node_id())
    supervisor.of_this_process().run(job, report, folder, node_socket=node_socket)


def _of_this_run(newest: Any) -> list[str]:
    """Tune's checkpoints of a trial that it tries again, newest first. `newest` is the one that Tune offers."""
    if newest is None:
        return []
    path = Path(newest.path)
    earlier = (folder for folder in path.parent.glob("checkpoint_*") if folder.name < path.name)
    return [str(path), *(str(folder) for folder in sorted(earlier, reverse=True))]
