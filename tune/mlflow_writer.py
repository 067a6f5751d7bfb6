"""Turns outbox records into MLflow calls. Every call may be repeated: a record replayed stores nothing twice."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from tune.mlflow_store import TrackingError, is_server, judge, one_line, open_client
from tune.outbox import Record

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

TRIAL_STATUSES = {  # our status tag -> MLflow's run status when the trial has ended
    "done": "FINISHED",
    "stopped": "FINISHED",
    "failed": "FAILED",
    "oom": "FAILED",
    "nan": "FAILED",
    "failed_gate": "FAILED",
    "unsupported": "KILLED",
}
SWEEP_STATUSES = {"done": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
OPEN_STATUSES = {"planned": "SCHEDULED", "running": "RUNNING"}

# Limits of one log_batch call (mlflow/utils/validation.py) and of one text value in it, with room to spare.
_METRICS_PER_CALL = 1000
_ITEMS_PER_CALL = 90
_TEXT_LIMIT = 5000

T = TypeVar("T")


class Point(NamedTuple):
    """One metric value: step is the epoch from 1, or 0 for a value known once; timestamp in ms."""

    key: str
    value: float
    timestamp_ms: int
    step: int


class Rejection(NamedTuple):
    """A record, or the metrics of one, that MLflow refuses for good."""

    record: Record
    error: str


class MlflowWriter:
    """Writes records to one experiment; `runs` (trial id or "" for the sweep -> run id) is shared with the position.

    Errors of MLflow calls are left to the caller, who judges them. Missing artifacts and refused metrics do not stop a
    record: they are collected in `rejections`.
    """

    def __init__(self, *, tracking_uri: str, experiment: str, artifact_root: str | None, runs: dict[str, str]) -> None:
        self.tracking_uri, self.experiment, self.artifact_root = tracking_uri, experiment, artifact_root
        self.runs = runs
        self.rejections: list[Rejection] = []
        self._client: MlflowClient | None = None
        self._experiment_id: str | None = None
        self._looked_up: str | None = None

    @property
    def client(self) -> MlflowClient:
        """The client, opened on first use: it imports mlflow and may create a database."""
        if self._client is None:
            self._client = open_client(self.tracking_uri)
        return self._client

    def forget(self) -> None:
        """Look up the experiment and every run again: the store no longer has what it had."""
        self._experiment_id = self._looked_up = None
        self.runs.clear()

    def apply(self, record: Record) -> None:
        """Write one record that is not an epoch."""
        handlers = {
            "begin_sweep": self._begin_sweep,
            "plan": self._plan,
            "end": self._end,
            "end_sweep": self._end_sweep,
        }
        handler = handlers.get(record["kind"])
        if handler is None:
            self.rejections.append(Rejection(record, "not a record of this version"))
        else:
            handler(record)

    def log_epochs(self, records: Iterable[Record]) -> None:
        """Write epoch records of any number of trials, at most 1000 metrics a call."""
        by_trial: dict[str, list[Record]] = {}
        for record in records:
            by_trial.setdefault(record["trial_id"], []).append(record)
        for trial_id, epochs in by_trial.items():
            run_id = self._run_of(epochs[0]["sweep_id"], trial_id)
            if any(record["starts"] for record in epochs):
                self._set_status(run_id, "running", "")
                self.client.update_run(run_id, status=OPEN_STATUSES["running"])
            self._log_metrics(run_id, epochs)

    def _begin_sweep(self, record: Record) -> None:
        tags = {**record["tags"], "role": "sweep", "status": "running"}
        run_id = self._ensure_run(record, "", tags=tags, run_name=record["name"])
        self._log_texts(run_id, params=record["params"], tags=tags)
        self.client.update_run(run_id, status="RUNNING")
        self._log_files(run_id, record)

    def _plan(self, record: Record) -> None:
        parent = self._run_of(record["sweep_id"], "")
        trial_id, status = record["trial_id"], record["tags"]["status"]
        tags = {**record["tags"], "role": "trial", "trial_id": trial_id, "mlflow.parentRunId": parent}
        run_id = self._ensure_run(record, trial_id, tags=tags, run_name=record["run_name"])
        self._log_texts(run_id, params=record["params"], tags=tags)
        self.client.update_run(run_id, status=OPEN_STATUSES[status])

    def _end(self, record: Record) -> None:
        run_id = self._run_of(record["sweep_id"], record["trial_id"])
        self._log_metrics(run_id, [record])
        tags = {**record["tags"], "status": record["status"], "reason": record["reason"]}
        self._log_texts(run_id, params={}, tags=tags)
        self.client.set_terminated(run_id, TRIAL_STATUSES[record["status"]], end_time=record["time_ms"])
        if record["model_dir"] is not None:
            self._upload_model(run_id, record)

    def _end_sweep(self, record: Record) -> None:
        run_id = self._run_of(record["sweep_id"], "")
        for trial_id in record["open_trials"]:
            trial_run = self._run_of(record["sweep_id"], trial_id)
            self._set_status(trial_run, "planned", f"the sweep ended ({record['status']}) before this trial did")
            self.client.set_terminated(trial_run, "KILLED", end_time=record["time_ms"])
        self._log_metrics(run_id, [record])
        self._log_texts(run_id, params={}, tags={"status": record["status"]})
        self.client.set_terminated(run_id, SWEEP_STATUSES[record["status"]], end_time=record["time_ms"])
        self._looked_up = None
        self._look_up(record["sweep_id"])
        self._log_files(run_id, record)

    def _set_status(self, run_id: str, status: str, reason: str) -> None:
        self._log_texts(run_id, params={}, tags={"status": status, "reason": reason})

    def _log_texts(self, run_id: str, *, params: dict[str, str], tags: dict[str, str]) -> None:
        from mlflow.entities import Param, RunTag

        for some in _chunks(tags.items(), _ITEMS_PER_CALL):
            entities = [RunTag(key, clean(value)) for key, value in some]
            self.client.log_batch(run_id, tags=entities, synchronous=True)
        for some in _chunks(params.items(), _ITEMS_PER_CALL):
            self.client.log_batch(run_id, params=[Param(key, clean(value)) for key, value in some], synchronous=True)

    def _log_metrics(self, run_id: str, records: list[Record]) -> None:
        points = [(record, point) for record in records for point in points_of(record)]
        for some in _chunks(points, _METRICS_PER_CALL):
            self._log_points(run_id, some)

    def _log_points(self, run_id: str, points: list[tuple[Record, Point]]) -> None:
        # One refused metric must not take the others of its call with it: halve until it stands alone.
        from mlflow.entities import Metric

        metrics = [Metric(*point) for _, point in points]
        try:
            self.client.log_batch(run_id, metrics=metrics, synchronous=True)
        except Exception as error:
            if judge(error) != "reject":
                raise
            if len(points) == 1:
                record, point = points[0]
                self.rejections.append(Rejection({**record, "metrics": {point.key: point.value}}, one_line(error)))
                return
            half = len(points) // 2
            self._log_points(run_id, points[:half])
            self._log_points(run_id, points[half:])

    def _log_files(self, run_id: str, record: Record) -> None:
        for name, text in record["files"].items():
            self.client.log_text(run_id, text, name)

    def _upload_model(self, run_id: str, record: Record) -> None:
        if Path(record["model_dir"]).is_dir():
            self.client.log_artifacts(run_id, record["model_dir"], "model")
        else:
            self.rejections.append(Rejection(record, f"model folder {record['model_dir']} is not there"))

    def _run_of(self, sweep_id: str, trial_id: str) -> str:
        run_id = self.runs.get(trial_id)
        if run_id is None:
            self._look_up(sweep_id)
            run_id = self.runs.get(trial_id)
        if run_id is None:
            raise LookupError(f"no MLflow run for trial {trial_id!r} of sweep {sweep_id!r}")
        return run_id

    def _ensure_run(self, record: Record, trial_id: str, *, tags: dict[str, str], run_name: str) -> str:
        sweep_id = record["sweep_id"]
        if trial_id not in self.runs:
            self._look_up(sweep_id)
        if trial_id not in self.runs:
            self._looked_up = None  # should the answer to create_run get lost, the next attempt looks again
            run = self.client.create_run(
                self._experiment(),
                start_time=record["time_ms"],
                tags={"sweep_id": sweep_id, **{key: clean(value) for key, value in tags.items()}},
                run_name=run_name,
            )
            self.runs[trial_id] = run.info.run_id
            self._looked_up = sweep_id
        return self.runs[trial_id]

    def _look_up(self, sweep_id: str) -> None:
        # One search finds the runs of all trials; nobody else creates any while the outbox is held.
        if self._looked_up == sweep_id:
            return
        # A create_run repeated because its answer was lost leaves a second, empty run: the oldest is kept.
        found = find_runs(self.client, self._experiment(), f"tags.sweep_id = '{sweep_id}'")
        for run in reversed(found):
            run_id = run.info.run_id
            if self.runs.setdefault(run.data.tags.get("trial_id", ""), run_id) != run_id:
                self.client.delete_run(run_id)
        self._looked_up = sweep_id

    def _experiment(self) -> str:
        if self._experiment_id is None:
            found = self.client.get_experiment_by_name(self.experiment)
            if found is None:
                self._experiment_id = self.client.create_experiment(self.experiment, self._artifact_location())
            elif found.lifecycle_stage != "active":
                raise TrackingError(f"experiment {self.experiment!r} was deleted in MLflow: restore it or name another")
            else:
                self._experiment_id = found.experiment_id
        return str(self._experiment_id)

    def _artifact_location(self) -> str | None:
        if self.artifact_root is None or is_server(self.tracking_uri):
            return None
        return self.artifact_root if "://" in self.artifact_root else Path(self.artifact_root).absolute().as_uri()


def find_runs(client: MlflowClient, experiment_id: str, query: str) -> list[Run]:
    """Every active run that a search finds, latest first, over all pages."""
    runs: list[Run] = []
    token: str | None = None
    while True:
        page = client.search_runs([experiment_id], query, max_results=1000, page_token=token)
        runs.extend(page)
        token = page.token
        if not token:
            return runs


def points_of(record: Record) -> list[Point]:
    """The metrics of a record as MLflow points."""
    when = int(record.get("timestamp_ms", record["time_ms"]))
    return [Point(key, value, when, record.get("epoch", 0)) for key, value in record["metrics"].items()]


def clean(value: Any) -> str:
    """Text that every MLflow database stores: no NUL, no lone surrogate, at most 5000 characters."""
    text = str(value).replace("\x00", "").encode("utf-8", "replace").decode()
    return text if len(text) <= _TEXT_LIMIT else text[: _TEXT_LIMIT - 12] + " [shortened]"


def _chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk
