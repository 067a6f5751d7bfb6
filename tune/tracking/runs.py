"""Which MLflow run belongs to which trial. Runs are looked up by tags before any is created, so a trial has one run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tune.common.address import is_server
from tune.tracking.store import TrackingError, open_client

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


class RunIndex:
    """Finds or creates the runs of one sweep in one experiment; `runs` maps trial id ("" is the sweep) to run id.

    The caller owns the dict and may keep it on disk. Errors of MLflow's calls are not caught.
    """

    def __init__(self, *, tracking_uri: str, experiment: str, artifact_root: str | None, runs: dict[str, str]) -> None:
        self.tracking_uri, self.experiment, self.artifact_root = tracking_uri, experiment, artifact_root
        self.runs = runs
        self._client: MlflowClient | None = None
        self._experiment_id: str | None = None
        self._searched = False

    @property
    def client(self) -> MlflowClient:
        """The client, opened on first use: that imports mlflow and may create a database."""
        if self._client is None:
            self._client = open_client(self.tracking_uri)
        return self._client

    def forget(self) -> None:
        """Look everything up again, because the store has lost it."""
        self.runs.clear()
        self._experiment_id = None
        self._searched = False

    def find(self, sweep_id: str, trial_id: str) -> str:
        """The run id of a trial ("" for the sweep).

        Raises:
            LookupError: there is no such run, because the record that should have created it was refused.
        """
        if trial_id not in self.runs:
            self.search(sweep_id)
        if trial_id not in self.runs:
            raise LookupError(f"no MLflow run for trial {trial_id!r} of sweep {sweep_id!r}")
        return self.runs[trial_id]

    def find_or_create(
        self, sweep_id: str, trial_id: str, *, run_name: str, start_time_ms: int, tags: dict[str, str]
    ) -> str:
        """The run id of a trial; a trial without a run gets one, tagged with `tags` and the two ids."""
        if trial_id not in self.runs:
            self.search(sweep_id)
        if trial_id not in self.runs:
            self._searched = False  # if the answer to create_run gets lost, the next attempt searches again
            identity = {"sweep_id": sweep_id, **({"trial_id": trial_id} if trial_id else {})}
            run = self.client.create_run(
                self.experiment_id, start_time=start_time_ms, tags={**tags, **identity}, run_name=run_name
            )
            self.runs[trial_id] = run.info.run_id
            self._searched = True
        return self.runs[trial_id]

    def search(self, sweep_id: str, *, again: bool = False) -> None:
        """Find the runs of all trials with one search. One is enough: only the outbox's owner creates runs.

        If an answer got lost, MLflow's client repeats create_run and leaves a second, empty run. Then the known run,
        or else the oldest, is kept and the other is deleted.
        """
        if self._searched and not again:
            return
        for run in reversed(find_runs(self.client, self.experiment_id, f"tags.sweep_id = '{sweep_id}'")):
            run_id = run.info.run_id
            if self.runs.setdefault(run.data.tags.get("trial_id", ""), run_id) != run_id:
                self.client.delete_run(run_id)
        self._searched = True

    def set_status(self, run_id: str, status: str, end_time_ms: int | None = None) -> None:
        """Set MLflow's status of a run (RUNNING, FINISHED, ...) and the end time of an ended one."""
        from mlflow.entities import RunStatus

        # client.set_terminated prints a server's address with its password on stdout, which is for results only.
        # client.update_run takes no end time and reads the run first.
        store = self.client._tracking_client.store
        store.update_run_info(run_id, RunStatus.from_string(status), end_time_ms, None)

    def tag_experiment(self, tags: dict[str, str]) -> None:
        """Give the experiment the tags that it lacks; a tag that somebody changed in the UI stays."""
        known = self.client.get_experiment(self.experiment_id).tags
        for key in tags.keys() - known.keys():
            self.client.set_experiment_tag(self.experiment_id, key, tags[key])

    @property
    def experiment_id(self) -> str:
        """MLflow's id of the experiment, which is created if it is missing."""
        if self._experiment_id is None:
            experiment = self.client.get_experiment_by_name(self.experiment)
            if experiment is None:
                self._experiment_id = str(self.client.create_experiment(self.experiment, self._artifact_location()))
            elif experiment.lifecycle_stage != "active":
                raise TrackingError(f"experiment {self.experiment!r} was deleted in MLflow: restore it or name another")
            else:
                self._experiment_id = str(experiment.experiment_id)
        return self._experiment_id

    @property
    def artifact_place(self) -> str:
        """Folder or URI of the experiment's artifacts."""
        return str(self.client.get_experiment(self.experiment_id).artifact_location)

    def _artifact_location(self) -> str | None:
        if self.artifact_root is None or is_server(self.tracking_uri):
            return None
        return self.artifact_root if "://" in self.artifact_root else Path(self.artifact_root).absolute().as_uri()


def find_runs(client: MlflowClient, experiment_id: str, query: str, *, deleted_too: bool = False) -> list[Run]:
    """Every run that a search finds, latest first, over all pages: active ones, and on request deleted ones."""
    from mlflow.entities import ViewType

    runs: list[Run] = []
    token: str | None = None
    view = ViewType.ALL if deleted_too else ViewType.ACTIVE_ONLY
    while True:
        page = client.search_runs([experiment_id], query, view, max_results=1000, page_token=token)
        runs.extend(page)
        token = page.token
        if not token:
            return runs
