"""The tracker against a real MLflow server that dies and comes back."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from model_kit import save_small
from server_kit import Server

from tune.storage.outbox import beside
from tune.tracking.artifact_probe import check_artifacts
from tune.tracking.model_package import download_model
from tune.tracking.reader import list_sweeps, read_sweep
from tune.tracking.store import TrackingError, check_store, open_client
from tune.tracking.tracker import Tracker

EXPERIMENT = "patchtst"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def tracker(server: Server, tmp_path: Path) -> Iterator[Tracker]:
    tracker = Tracker(
        outbox_path=tmp_path / "outbox.jsonl", tracking_uri=server.uri, experiment=EXPERIMENT, artifact_root=None
    )
    yield tracker
    tracker.close(0)


def log(tracker: Tracker, trial_id: str, epoch: int) -> bool:
    metrics = {"loss/val_mse": 1 / epoch, "time/epoch_s": 2.0 * epoch}
    return tracker.log_epoch(trial_id=trial_id, epoch=epoch, metrics=metrics, timestamp_ms=1_700_000_000_000 + epoch)


def stored_epochs(path: Path, trial_id: str) -> list[int]:
    records = map(json.loads, path.read_text().splitlines())
    return [record["epoch"] for record in records if record["kind"] == "epoch" and record["trial_id"] == trial_id]


@pytest.mark.soak
def test_a_server_killed_and_started_again_loses_nothing_and_stops_nobody(
    server: Server, tracker: Tracker, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from mlflow import MlflowClient

    save_small(tmp_path / "best")
    tracker.begin_sweep(sweep_id="outage", name="outage", tags={}, params={}, files={"plan.json": "{}"})
    for trial_id in ("a", "b"):
        tracker.plan_trial(trial_id=trial_id, run_name=trial_id, params={"seed": 1}, tags={})
        assert log(tracker, trial_id, 1)
    assert tracker.flush(60) == 0

    server.kill()
    for epoch in range(2, 8):
        for trial_id in ("a", "b"):
            assert log(tracker, trial_id, epoch)
            assert stored_epochs(tmp_path / "outbox.jsonl", trial_id) == list(range(1, epoch + 1))
    tracker.end_trial(
        trial_id="a", status="done", reason="", metrics={"final/test_mse": 0.5}, tags={}, model_dir=tmp_path / "best"
    )
    while tracker.outage is None:
        time.sleep(0.05)
    assert tracker.flush(0.1) == 13
    assert server.uri in tracker.problems[0]

    server.start()
    assert tracker.flush(60) == 0, (tracker.outage, tracker.problems)
    assert (tracker.outage, len(tracker.problems)) == (None, 1)
    sweep = read_sweep(server.uri, EXPERIMENT, "outage")
    client = MlflowClient(tracking_uri=server.uri)
    for trial in sweep.trials:
        assert trial.history["loss/val_mse"] == [(epoch, 1 / epoch) for epoch in range(1, 8)]
        points = client.get_metric_history(trial.run_id, "time/epoch_s")
        assert sorted(point.timestamp for point in points) == [1_700_000_000_000 + epoch for epoch in range(1, 8)]
    assert [trial.status for trial in sweep.trials] == ["done", "running"]
    (model,) = client.search_logged_models([client.get_run(sweep.run_id).info.experiment_id])
    assert (model.source_run_id, model.status) == (sweep.trials[0].run_id, "READY")
    download_model(client, sweep.trials[0].run_id, tmp_path / "stored")
    stored, saved = (tmp_path / folder / "model.safetensors" for folder in ("stored", "best"))
    assert stored.read_bytes() == saved.read_bytes()
    assert [file.path for file in client.list_artifacts(sweep.run_id)] == ["plan.json"]
    assert capfd.readouterr().out == ""  # stdout is for results


def test_a_server_refuses_one_metric_and_takes_the_rest(server: Server, tracker: Tracker, tmp_path: Path) -> None:
    tracker.begin_sweep(sweep_id="refused", name="refused", tags={}, params={}, files={})
    tracker.plan_trial(trial_id="a", run_name="a", params={}, tags={})
    tracker.log_epoch(trial_id="a", epoch=1, metrics={"gpu (%)": 1.0, "loss/val_mse": 0.5}, timestamp_ms=1)
    assert tracker.flush(60) == 0
    (trial,) = read_sweep(server.uri, EXPERIMENT, "refused").trials
    assert trial.history == {"loss/val_mse": [(1, 0.5)]}
    (rejected,) = beside(tmp_path / "outbox.jsonl", "rejected").read_text().splitlines()
    assert json.loads(rejected)["record"]["metrics"] == {"gpu (%)": 1.0}
    assert len(tracker.problems) == 1


def test_more_metrics_than_one_call_may_hold_all_arrive(server: Server, tracker: Tracker) -> None:
    tracker.begin_sweep(sweep_id="many", name="many", tags={}, params={f"p{n}": n for n in range(250)}, files={})
    tracker.plan_trial(trial_id="a", run_name="a", params={}, tags={})
    for epoch in range(1, 121):
        metrics = {f"loss/m{number}": float(number) for number in range(10)}
        tracker.log_epoch(trial_id="a", epoch=epoch, metrics=metrics, timestamp_ms=epoch)
    assert tracker.flush(60) == 0
    sweep = read_sweep(server.uri, EXPERIMENT, "many")
    assert len(sweep.params) == 250
    assert {len(history) for history in sweep.trials[0].history.values()} == {120}
    assert len(sweep.trials[0].history) == 10


def test_the_latest_sweep_of_a_server_comes_first(server: Server, tracker: Tracker) -> None:
    tracker.begin_sweep(sweep_id="latest", name="latest", tags={"key": "k"}, params={}, files={})
    assert tracker.flush(60) == 0
    summary = list_sweeps(server.uri, EXPERIMENT)[0]
    assert (summary.sweep_id, summary.status, summary.tags["key"]) == ("latest", "running", "k")


def test_a_server_answers_every_client(server: Server) -> None:
    check_store(server.uri.replace("//", "//user:secret@") + "/")


def test_a_probe_of_a_servers_artifacts_leaves_no_experiment_and_no_file(server: Server) -> None:
    client, artifacts = open_client(server.uri), server.folder / "artifacts"

    def there() -> tuple[set[str], list[Path]]:
        files = sorted(path for path in artifacts.rglob("*") if path.is_file())
        return {experiment.name for experiment in client.search_experiments()}, files

    before = there()
    for experiment in ("never-made", EXPERIMENT):
        check_artifacts(server.uri, experiment, None, pytest.fail)
        assert there() == before


def test_an_address_that_is_no_mlflow_server_is_reported(server: Server) -> None:
    with pytest.raises(TrackingError, match="answers 404 with .* give the address up to where /api begins"):
        check_store(f"{server.uri}/nowhere")
