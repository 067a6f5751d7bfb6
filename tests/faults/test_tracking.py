"""Nothing is lost and nothing is stored twice, whatever fails on the way to MLflow."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tracking_kit import (  # noqa: F401 (fixtures)
    EXPERIMENT,
    MakeTracker,
    end,
    expected_points,
    log,
    mlflow_runs,
    opened_fixture,
    plan,
    points,
    settle,
    shared_store_fixture,
    sweep_id_fixture,
)

from tune.storage.outbox import beside
from tune.tracking.reader import read_sweep

# SQLAlchemy 2.1 warns of what MLflow 3.17 does on import.
pytestmark = [
    pytest.mark.soak,
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning"),
]
REPO_ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("forget_position", [False, True])
def test_a_tracker_opened_again_stores_nothing_twice(
    opened: MakeTracker, shared_store: str, sweep_id: str, tmp_path: Path, forget_position: bool
) -> None:
    for epochs in ((1, 2), (1, 2, 3)):
        tracker = opened()
        plan(tracker, "a", "b")
        log(tracker, "a", *epochs)
        end(tracker, "b", metrics={"final/test_mse": 0.5})
        settle(tracker)
        tracker.close()
        if forget_position:
            beside(tmp_path / "outbox.jsonl", "position").unlink()
    with opened(begin=False) as tracker:
        settle(tracker)
        assert tracker.problems == []
    sweep = read_sweep(shared_store, EXPERIMENT, sweep_id)
    assert len(mlflow_runs(shared_store, sweep_id)) == 3
    assert points(shared_store, sweep.trials[0].run_id) == expected_points(1, 2, 3)
    assert len(points(shared_store, sweep.trials[1].run_id, "final/test_mse")) == 1
    assert [trial.status for trial in sweep.trials] == ["running", "done"]


def test_an_outbox_pointed_at_a_new_store_is_written_there_whole(
    opened: MakeTracker, sweep_id: str, tmp_path: Path
) -> None:
    tracker = opened()
    plan(tracker, "a")
    log(tracker, "a", 1, 2)
    settle(tracker)
    tracker.close()
    new_store = f"sqlite:///{tmp_path}/new.db"
    with opened(uri=new_store, begin=False) as tracker:
        settle(tracker)
    assert read_sweep(new_store, EXPERIMENT, sweep_id).trials[0].history["loss/val_mse"] == [(1, 1.0), (2, 0.5)]


def test_runs_that_the_store_lost_are_written_again(
    opened: MakeTracker, shared_store: str, sweep_id: str, tmp_path: Path
) -> None:
    tracker = opened()
    plan(tracker, "a")
    log(tracker, "a", 1, 2)
    settle(tracker)
    tracker.close()
    position = beside(tmp_path / "outbox.jsonl", "position")
    saved = json.loads(position.read_text())
    position.write_text(json.dumps({**saved, "runs": dict.fromkeys(saved["runs"], "0" * 32)}))
    with opened(begin=False) as tracker:
        log(tracker, "a", 3)
        settle(tracker)
        assert tracker.problems[0].endswith("it no longer had the runs of this sweep: they are written again")
    (trial,) = read_sweep(shared_store, EXPERIMENT, sweep_id).trials
    assert points(shared_store, trial.run_id) == expected_points(1, 2, 3)


def test_a_refused_metric_is_set_aside_and_the_rest_goes_on(
    opened: MakeTracker, shared_store: str, sweep_id: str, tmp_path: Path
) -> None:
    tracker = opened()
    plan(tracker, "a")
    log(tracker, "a", 1)
    tracker.log_epoch(trial_id="a", epoch=2, metrics={"time (s)": 1.0, "loss/val_mse": 0.5}, timestamp_ms=2)
    log(tracker, "a", 3)
    end(tracker, "a")
    settle(tracker)
    (trial,) = read_sweep(shared_store, EXPERIMENT, sweep_id).trials
    assert (trial.status, sorted(trial.metrics)) == ("done", ["loss/val_mse"])
    assert [step for step, _ in trial.history["loss/val_mse"]] == [1, 2, 3]
    (problem,) = tracker.problems
    assert "refused a record of a" in problem and "time (s)" in problem
    (rejected,) = map(json.loads, beside(tmp_path / "outbox.jsonl", "rejected").read_text().splitlines())
    assert rejected["record"]["metrics"] == {"time (s)": 1.0}
    assert (rejected["record"]["epoch"], rejected["record"]["trial_id"]) == (2, "a")


def test_a_param_that_changed_between_attempts_keeps_its_first_value(
    opened: MakeTracker, shared_store: str, sweep_id: str
) -> None:
    tracker = opened()
    tracker.plan_trial(trial_id="a", run_name="a", params={"x": 1, "y": 1}, tags={})
    settle(tracker)
    tracker.plan_trial(trial_id="a", run_name="a", params={"x": 2, "y": 1, "z": 3}, tags={"status": "running"})
    settle(tracker)
    (trial,) = read_sweep(shared_store, EXPERIMENT, sweep_id).trials
    assert (trial.params, trial.status) == ({"x": "1", "y": "1", "z": "3"}, "running")
    assert len(tracker.problems) == 1


def test_a_line_that_is_no_record_is_reported_and_passed_over(opened: MakeTracker, tmp_path: Path) -> None:
    tracker = opened()
    tracker.close()
    with (tmp_path / "outbox.jsonl").open("a") as stream:
        stream.write("\x00\x00\n")
    with opened(begin=False) as tracker:
        plan(tracker, "a")
        settle(tracker)
        assert "unreadable" in tracker.problems[0]


def test_a_run_created_twice_is_one_again_at_the_end(opened: MakeTracker, shared_store: str, sweep_id: str) -> None:
    from mlflow import MlflowClient

    tracker = opened()
    plan(tracker, "a")
    log(tracker, "a", 1)
    settle(tracker)
    (original,) = (run for run in mlflow_runs(shared_store, sweep_id) if "trial_id" in run.data.tags)
    MlflowClient(tracking_uri=shared_store).create_run(original.info.experiment_id, tags=original.data.tags)
    end(tracker, "a")
    tracker.end_sweep(status="done", metrics={}, files={})
    settle(tracker)
    runs = mlflow_runs(shared_store, sweep_id)
    assert [run.info.run_id for run in runs if "trial_id" in run.data.tags] == [original.info.run_id]


def test_a_killed_driver_loses_no_epoch_it_had_logged(
    opened: MakeTracker, shared_store: str, sweep_id: str, tmp_path: Path
) -> None:
    tracker = opened()
    plan(tracker, "a")
    settle(tracker)
    tracker.close()
    driver = f"""
import warnings
warnings.simplefilter("ignore")
from pathlib import Path
from tune.tracking.tracker import Tracker
tracker = Tracker(outbox_path=Path({str(tmp_path / "outbox.jsonl")!r}), tracking_uri={shared_store!r},
                  experiment={EXPERIMENT!r}, artifact_root=None)
for epoch in range(1, 1_000_000):
    logged = tracker.log_epoch(trial_id="a", epoch=epoch, metrics={{"loss/val_mse": 1 / epoch}},
                               timestamp_ms=1_700_000_000_000 + epoch)
    if epoch % 20 == 0:
        tracker.flush(30)
    print(epoch, tracker.pending, flush=True)
"""
    process = subprocess.Popen([sys.executable, "-c", driver], cwd=REPO_ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for _ in range(110):
        process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    logged = 110 + len(process.communicate()[0].splitlines())
    with opened(begin=False) as tracker:
        settle(tracker)
        assert log(tracker, "a", *range(1, logged + 1)) == [False] * logged
    (trial,) = read_sweep(shared_store, EXPERIMENT, sweep_id).trials
    stored = points(shared_store, trial.run_id)
    assert stored == expected_points(*range(1, len(stored) + 1))
    assert len(stored) >= logged


def test_nothing_is_lost_or_waits_while_the_store_cannot_be_opened(
    opened: MakeTracker, sweep_id: str, tmp_path: Path
) -> None:
    folder = tmp_path / "later"
    tracker = opened(uri=f"sqlite:///{folder}/mlflow.db")
    plan(tracker, "a")
    assert log(tracker, "a", 1) == [True]
    assert tracker.flush(0.5) == 3
    assert "does not exist" in str(tracker.outage)
    folder.mkdir()
    settle(tracker)
    assert tracker.outage is None
    assert len(tracker.problems) == 1
    (trial,) = read_sweep(f"sqlite:///{folder}/mlflow.db", EXPERIMENT, sweep_id).trials
    assert trial.history["loss/val_mse"] == [(1, 1.0)]
