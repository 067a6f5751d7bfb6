"""Fixtures and helpers of the tracking tests: trackers on a real SQLite store."""

import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tune.tracking.tracker import Tracker

EXPERIMENT = "patchtst"
MakeTracker = Callable[..., Tracker]


@pytest.fixture(scope="module", name="shared_store")
def shared_store_fixture(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    # One database for a module, one sweep id for each test.
    return f"sqlite:///{shutil.copy(empty_store, tmp_path_factory.mktemp('shared'))}"


@pytest.fixture(name="sweep_id")
def sweep_id_fixture() -> str:
    return f"sweep-{uuid.uuid4().hex[:8]}"


@pytest.fixture(name="opened")
def opened_fixture(shared_store: str, sweep_id: str, tmp_path: Path) -> Iterator[MakeTracker]:
    trackers = []

    def open_tracker(uri: str = shared_store, begin: bool = True) -> Tracker:
        tracker = Tracker(
            outbox_path=tmp_path / "outbox.jsonl",
            tracking_uri=uri,
            experiment=EXPERIMENT,
            artifact_root=str(tmp_path / "artifacts"),
        )
        trackers.append(tracker)
        if begin:
            tracker.begin_sweep(sweep_id=sweep_id, name="pruning", tags={"axis": "heads"}, params={"n": 2}, files={})
        return tracker

    yield open_tracker
    for tracker in trackers:
        tracker.close(0)


def plan(tracker: Tracker, *trial_ids: str) -> None:
    for trial_id in trial_ids:
        tracker.plan_trial(trial_id=trial_id, run_name=f"pruning-{trial_id}", params={"train.seed": 1}, tags={})


def log(tracker: Tracker, trial_id: str, *epochs: int) -> list[bool]:
    return [
        tracker.log_epoch(
            trial_id=trial_id,
            epoch=epoch,
            metrics={"loss/val_mse": 1 / epoch, "gpu/energy_j": None},
            timestamp_ms=1_700_000_000_000 + epoch,
        )
        for epoch in epochs
    ]


def end(tracker: Tracker, trial_id: str, status: str = "done", **fields: object) -> bool:
    given = {"reason": "", "metrics": {}, "tags": {}, "model_dir": None, **fields}
    return tracker.end_trial(trial_id=trial_id, status=status, **given)  # type: ignore[arg-type]


def settle(tracker: Tracker) -> None:
    assert tracker.flush(60) == 0, (tracker.outage, tracker.problems)


def mlflow_runs(uri: str, sweep_id: str) -> list:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    return list(client.search_runs([experiment.experiment_id], f"tags.sweep_id = '{sweep_id}'"))


def points(uri: str, run_id: str, key: str = "loss/val_mse") -> list[tuple[int, float, int]]:
    from mlflow import MlflowClient

    history = MlflowClient(tracking_uri=uri).get_metric_history(run_id, key)
    return sorted((point.step, point.value, point.timestamp) for point in history)


def expected_points(*epochs: int) -> list[tuple[int, float, int]]:
    return [(epoch, 1 / epoch, 1_700_000_000_000 + epoch) for epoch in epochs]
