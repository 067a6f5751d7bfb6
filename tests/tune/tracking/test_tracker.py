"""What a tracker writes to a real SQLite store, read back."""

import math
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

from tune.config.trial_config import parse_params
from tune.tracking.reader import read_sweep
from tune.tracking.writer import TRIAL_STATUSES

ROOT = Path(__file__).resolve().parents[3]

# SQLAlchemy 2.1 warns about MLflow 3.17's imports.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")


def test_a_sweep_is_one_parent_and_one_child_for_each_planned_trial(
    opened: MakeTracker, shared_store: str, sweep_id: str
) -> None:
    tracker = opened()
    plan(tracker, "a", "b", "a")
    settle(tracker)
    runs = mlflow_runs(shared_store, sweep_id)
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    assert [run.info.run_name for run in parents] == ["pruning"]
    assert sorted(run.data.tags["trial_id"] for run in children) == ["a", "b"]
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parents[0].info.run_id}
    assert {run.info.run_name for run in children} == {"pruning-a", "pruning-b"}
    assert {run.info.status for run in children} == {"SCHEDULED"}


def test_every_epoch_is_stored_once_with_its_own_time(opened: MakeTracker, shared_store: str, sweep_id: str) -> None:
    tracker = opened()
    plan(tracker, "a", "b")
    assert log(tracker, "a", 1, 2) == [True, True]
    assert log(tracker, "b", 1) == [True]
    assert log(tracker, "a", 2, 3) == [False, True]
    settle(tracker)
    trials = {trial.trial_id: trial for trial in read_sweep(shared_store, EXPERIMENT, sweep_id).trials}
    assert points(shared_store, trials["a"].run_id) == expected_points(1, 2, 3)
    assert points(shared_store, trials["b"].run_id) == expected_points(1)
    assert {trial.status for trial in trials.values()} == {"running"}


def test_reading_gives_back_what_was_logged(opened: MakeTracker, shared_store: str, sweep_id: str) -> None:
    tracker = opened()
    for number in range(11):
        params = {"model.patch_length": number, "pruning.heads": "[" + "1, " * 1500 + "]"}
        tracker.plan_trial(trial_id=f"t{number}", run_name=f"run-{number}", params=params, tags={"arm": "eager"})
    metrics = {"loss/val_mse": math.inf, "time/epoch_s": math.nan, "gpu/energy_j": None}
    tracker.log_epoch(trial_id="t0", epoch=1, metrics=metrics, timestamp_ms=1)
    tracker.log_epoch(trial_id="t0", epoch=2, metrics={"loss/val_mse": 0.5, "time/epoch_s": 2}, timestamp_ms=2)
    end(tracker, "t0", metrics={"final/test_mse": 0.25, "final/speedup": None}, tags={"kernels": "fmha"})
    end(tracker, "t1", "unsupported", reason="flash needs a GPU")
    tracker.end_sweep(status="done", metrics={"final/speedup": 1.5}, files={"report/index.html": "<p>é</p>"})
    settle(tracker)

    sweep = read_sweep(shared_store, EXPERIMENT, sweep_id)
    assert (sweep.sweep_id, sweep.name, sweep.status) == (sweep_id, "pruning", "done")
    assert (sweep.params, sweep.tags["axis"], sweep.metrics) == ({"n": "2"}, "heads", {"final/speedup": 1.5})
    assert [trial.trial_id for trial in sweep.trials] == [f"t{number}" for number in range(11)]
    first, second, third = sweep.trials[:3]
    assert (first.name, first.status, first.reason) == ("run-0", "done", "")
    assert first.params == {"model.patch_length": "0", "pruning.heads": "[" + "1, " * 1500 + "]"}
    assert (first.tags["arm"], first.tags["kernels"]) == ("eager", "fmha")
    assert first.metrics == {"loss/val_mse": 0.5, "time/epoch_s": 2.0, "final/test_mse": 0.25}
    assert first.history["loss/val_mse"] == [(1, math.inf), (2, 0.5)]
    assert first.history["final/test_mse"] == [(0, 0.25)]
    assert math.isnan(first.history["time/epoch_s"][0][1])
    assert first.history["time/epoch_s"][1] == (2, 2.0)
    assert (second.status, second.reason, second.metrics) == ("unsupported", "flash needs a GPU", {})
    assert third.status == "planned"  # the sweep ended before it did


def test_params_of_a_new_sweep_are_stored_as_json_under_a_format_that_its_run_names(
    opened: MakeTracker, shared_store: str, sweep_id: str
) -> None:
    tracker = opened()
    params = {"model.pre_norm": True, "train.patience": None, "train.precision": "bf16", "data.dataset": "2024"}
    tracker.plan_trial(trial_id="a", run_name="a", params=params, tags={})
    settle(tracker)
    sweep = read_sweep(shared_store, EXPERIMENT, sweep_id)
    assert (sweep.format, sweep.tags["format"]) == (2, "2")
    (trial,) = sweep.trials
    assert trial.params == {"model.pre_norm": "true", "train.precision": "bf16", "data.dataset": '"2024"'}
    values = parse_params(trial.params, sweep.format)
    assert {name: values[name] for name in params} == params


def test_a_sweep_that_is_closed_again_stores_its_summary_once(
    opened: MakeTracker, shared_store: str, sweep_id: str
) -> None:
    with opened() as tracker:
        tracker.end_sweep(status="done", metrics={"arm_test_mse/a": 0.1, "arm_test_mse/b": 1 / 3}, files={})
    with opened() as tracker:
        tracker.end_sweep(status="done", metrics={"arm_test_mse/a": 0.1, "arm_test_mse/b": 1 / 3}, files={})
        settle(tracker)
    sweep = read_sweep(shared_store, EXPERIMENT, sweep_id)
    assert sweep.status == "done"
    for key, value in {"arm_test_mse/a": 0.1, "arm_test_mse/b": 1 / 3}.items():
        assert [point[:2] for point in points(shared_store, sweep.run_id, key)] == [(0, value)]


def test_a_sweep_that_is_closed_again_keeps_the_accounts_of_its_first_closing(
    opened: MakeTracker, shared_store: str, sweep_id: str
) -> None:
    with opened() as tracker:
        tracker.end_sweep(status="done", metrics={"sweep/wall_s": 10.0, "sweep/rest_pct": 40.0}, files={})
    with opened() as tracker:
        tracker.end_sweep(status="done", metrics={"sweep/wall_s": 12.0, "sweep/rest_pct": 40.0}, files={})
        settle(tracker)
    run_id = read_sweep(shared_store, EXPERIMENT, sweep_id).run_id
    assert [point[:2] for point in points(shared_store, run_id, "sweep/wall_s")] == [(0, 10.0)]


def test_files_are_artifacts_of_the_sweep_in_the_given_folder(opened: MakeTracker, tmp_path: Path) -> None:
    tracker = opened(uri=f"sqlite:///{tmp_path}/own.db")
    tracker.end_sweep(status="done", metrics={}, files={"report/index.html": "<p>é</p>"})
    settle(tracker)
    (report,) = (tmp_path / "artifacts").rglob("report/index.html")
    assert report.read_text(encoding="utf-8") == "<p>é</p>"


@pytest.mark.parametrize(("status", "expected"), sorted(TRIAL_STATUSES.items()))
def test_the_mlflow_status_follows_ours(
    opened: MakeTracker, shared_store: str, sweep_id: str, status: str, expected: str
) -> None:
    tracker = opened()
    plan(tracker, "a")
    end(tracker, "a", status, reason="why")
    settle(tracker)
    assert [run.info.status for run in mlflow_runs(shared_store, sweep_id) if "trial_id" in run.data.tags] == [expected]
    (trial,) = read_sweep(shared_store, EXPERIMENT, sweep_id).trials
    assert (trial.status, trial.reason) == (status, "why")


def test_the_first_end_counts_until_the_trial_is_opened_again(
    opened: MakeTracker, shared_store: str, sweep_id: str
) -> None:
    tracker = opened()
    plan(tracker, "a")
    assert end(tracker, "a", "failed", reason="the node was lost")
    assert not end(tracker, "a", "done")
    assert tracker.ended == {"a": "failed"}
    settle(tracker)
    assert read_sweep(shared_store, EXPERIMENT, sweep_id).trials[0].status == "failed"
    assert tracker.plan_trial(trial_id="a", run_name="a", params={}, tags={"status": "running"})
    assert tracker.ended == {}
    assert end(tracker, "a", "done")
    settle(tracker)
    (trial,) = read_sweep(shared_store, EXPERIMENT, sweep_id).trials
    assert (trial.status, trial.reason) == ("done", "")


def test_an_interrupted_sweep_leaves_no_run_running_and_goes_on_later(
    opened: MakeTracker, shared_store: str, sweep_id: str
) -> None:
    tracker = opened()
    plan(tracker, "a", "b")
    log(tracker, "a", 1)
    tracker.end_sweep(status="interrupted", metrics={}, files={})
    settle(tracker)
    assert {run.info.status for run in mlflow_runs(shared_store, sweep_id)} == {"KILLED"}
    sweep = read_sweep(shared_store, EXPERIMENT, sweep_id)
    assert (sweep.status, {trial.status for trial in sweep.trials}) == ("interrupted", {"planned"})
    tracker.close()
    with opened() as tracker:
        log(tracker, "a", 2)
        settle(tracker)
    sweep = read_sweep(shared_store, EXPERIMENT, sweep_id)
    assert (sweep.status, [trial.status for trial in sweep.trials]) == ("running", ["running", "planned"])
    assert sweep.trials[0].reason == ""


def test_wrong_calls_say_what_is_allowed(opened: MakeTracker) -> None:
    tracker = opened(begin=False)
    with pytest.raises(ValueError, match="call begin_sweep first"):
        plan(tracker, "a")
    tracker.begin_sweep(sweep_id="one", name="one", tags={}, params={}, files={})
    with pytest.raises(ValueError, match="holds sweep 'one', not 'two'"):
        tracker.begin_sweep(sweep_id="two", name="two", tags={}, params={}, files={})
    with pytest.raises(ValueError, match="'a' is not in the plan"):
        log(tracker, "a", 1)
    with pytest.raises(ValueError, match='trial_id "it\'s": allowed are'):
        plan(tracker, "it's")
    plan(tracker, "a")
    with pytest.raises(ValueError, match="'finished' is not one of done, stopped, failed, oom"):
        end(tracker, "a", "finished")
    with pytest.raises(ValueError, match="'paused' is not one of done, failed, interrupted"):
        tracker.end_sweep(status="paused", metrics={}, files={})


STARTED = """
import sys, threading
from pathlib import Path
from tune.tracking.tracker import Tracker
start = threading.Thread.start
def reported_start(thread):
    if thread.name == "mlflow-sender":
        print("mlflow.tracking" in sys.modules)
    start(thread)
threading.Thread.start = reported_start
assert "mlflow" not in sys.modules
Tracker(outbox_path=Path(sys.argv[1]), tracking_uri="http://127.0.0.1:9", experiment="x", artifact_root=None)
"""


def test_mlflow_is_imported_before_the_thread_that_writes_to_it_begins(tmp_path: Path) -> None:
    """Seen in a soak: that thread and Tune imported MLflow at once, and each waited for the other."""
    command = [sys.executable, "-c", STARTED, str(tmp_path / "outbox.jsonl")]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.stdout == "True\n", ended.stderr
