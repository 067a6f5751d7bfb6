"""A Ray actor that owns the processes of one GPU's probes, as Tune's actors own those of trials."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from tune.trial.job import TrialJob
from tune.trial.report import Report, TrialEnd, as_result
from tune.worker.supervisor import OutOfMemory, TrialSupervisor


def session_folder() -> str:
    """Of Ray on this node: what lies there goes with it, whoever is killed."""
    from ray._private.worker import _global_node  # Ray has no public way to ask for it

    folder: str = _global_node.get_session_dir_path()
    return folder


class Prober:
    """Runs probes, each in a process of its own. Its working directory is a folder of Ray's session."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(dir=session_folder())
        os.chdir(self._folder.name)
        self._supervisor = TrialSupervisor()

    def probe(self, values: dict[str, Any]) -> dict[str, Any]:
        """Run the probe of a job. Returns its end in plain values. Raises ProcessLost."""
        import ray

        job = TrialJob.from_dict(values)
        reports: list[dict[str, Any]] = []

        def note(report: Report, _: Path | None) -> None:
            reports.append(as_result(report))

        node_socket = job.fork_servers.get(ray.get_runtime_context().get_node_id())
        try:
            self._supervisor.run(job, note, None, node_socket=node_socket)
        except OutOfMemory as error:
            return as_result(TrialEnd(status="oom", reason=str(error)))
        (end,) = reports
        return end

    def close(self) -> None:
        """End its processes and remove its folder."""
        self._supervisor.close()
        os.chdir("/")
        self._folder.cleanup()
