"""Deletes the MLflow runs of a sweep, and their files where these lie beside the sweep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tune.tracking.artifact_place import ARTIFACTS, local_path
from tune.tracking.reader import ask_store
from tune.tracking.runs import find_runs

if TYPE_CHECKING:
    from mlflow import MlflowClient


@dataclass(frozen=True, kw_only=True)
class SweepRun:
    """An MLflow run of a sweep, of the sweep itself or of a trial."""

    run_id: str
    active: bool  # False: MLflow has it as deleted
    files: Path | None  # its folder in `mlartifacts` beside the sweep; None: its files lie elsewhere


def runs_of(tracking_uri: str, experiment: str, sweep_id: str, storage: Path) -> list[SweepRun]:
    """All runs of a sweep, also deleted ones: their files may be there still.

    Raises:
        TrackingError: the store cannot be reached.
    """
    root = (storage / ARTIFACTS).absolute()

    def ask(client: MlflowClient) -> list[SweepRun]:
        known = client.get_experiment_by_name(experiment)
        if known is None:
            return []
        found = find_runs(client, str(known.experiment_id), f"tags.sweep_id = '{sweep_id}'", deleted_too=True)
        return [
            SweepRun(
                run_id=run.info.run_id,
                active=run.info.lifecycle_stage == "active",
                files=_own_folder(run.info.artifact_uri, run.info.run_id, root),
            )
            for run in found
        ]

    return ask_store(tracking_uri, 10.0, ask)


def _own_folder(artifact_uri: str | None, run_id: str, root: Path) -> Path | None:
    path = local_path(artifact_uri)
    return root / run_id if path == root / run_id / "artifacts" else None


def delete_runs(tracking_uri: str, runs: Sequence[SweepRun]) -> None:
    """Delete the active ones in MLflow, which keeps them as deleted until `mlflow gc`. TrackingError if it cannot."""

    def ask(client: MlflowClient) -> None:
        for run in runs:
            if run.active:
                client.delete_run(run.run_id)

    ask_store(tracking_uri, 10.0, ask)
