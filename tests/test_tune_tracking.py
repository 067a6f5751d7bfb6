"""The tracker against a real SQLite store."""

import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tune.mlflow_store import judge, redacted
from tune.mlflow_writer import TRIAL_STATUSES
from tune.outbox import beside
from tune.tracking import Tracker, TrackingError, check_store, list_sweeps, read_sweep

# SQLAlchemy 2.1 warns of what MLflow 3.17 does on import.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")

REPO_ROOT = Path(__file__).parent.parent
EXPERIMENT = "patchtst"
MakeTracker = Callable[..., Tracker]


@pytest.fixture(scope="module")
def shared_store(tmp_path_factory: pytest.TempPathFactory) -> str:
    # Creating the tables takes a second: one database for the module, one sweep id a test.
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"


@pytest.fixture
def sweep_id() -> str:
    return f"sweep-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def opened(shared_store: str, sweep_id: str, tmp_path: Path) -> Iterator[MakeTracker]:
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
        assert "written again" in tracker.problems[0]
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


def test_a_model_folder_becomes_artifacts_and_a_missing_one_a_problem(opened: MakeTracker, tmp_path: Path) -> None:
    tracker = opened(uri=f"sqlite:///{tmp_path}/own.db")
    plan(tracker, "a", "b")
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "config.json").write_text("{}")
    end(tracker, "a", model_dir=tmp_path / "best")
    end(tracker, "b", model_dir=tmp_path / "gone")
    settle(tracker)
    assert len(list((tmp_path / "artifacts").rglob("model/config.json"))) == 1
    (problem,) = tracker.problems
    assert "gone is not there" in problem


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
from tune.tracking import Tracker
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


def test_an_unknown_sweep_is_answered_with_the_latest_ones(
    opened: MakeTracker, shared_store: str, sweep_id: str
) -> None:
    settle(opened())
    with pytest.raises(TrackingError, match=rf"no sweep 'nope' in experiment 'patchtst'; the latest are {sweep_id}"):
        read_sweep(shared_store, EXPERIMENT, "nope")
    with pytest.raises(TrackingError, match="there is no experiment 'other'.*'patchtst'"):
        read_sweep(shared_store, "other", sweep_id)
    assert list_sweeps(shared_store, EXPERIMENT, limit=1)[0].sweep_id == sweep_id


@pytest.mark.parametrize(
    "ask", [lambda uri: read_sweep(uri, EXPERIMENT, "s"), lambda uri: list_sweeps(uri, EXPERIMENT)]
)
def test_reading_a_store_that_is_not_there_creates_nothing(tmp_path: Path, ask: Callable[[str], object]) -> None:
    with pytest.raises(TrackingError, match="there is no MLflow store at .*mlflow.db yet"):
        ask(f"sqlite:///{tmp_path}/mlflow.db")
    assert list(tmp_path.iterdir()) == []


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("http://127.0.0.1:{port}", "does not answer .*refused"),
        ("postgresql+psycopg2://u:secret@127.0.0.1:{port}/mlflow", "does not answer .*refused"),
        ("sqlite:///{tmp}/none/mlflow.db", "folder .*none does not exist"),
        ("./mlruns", "names a folder, which MLflow no longer writes to"),
        ("http://[not-a-host", "is not an address"),
        ("http://localhost:99999", "is not an address"),
        ("htp://localhost:5000", "allowed are http, https, sqlite, postgresql"),
    ],
)
def test_a_store_that_does_not_answer_is_told_in_one_line(tmp_path: Path, uri: str, expected: str) -> None:
    with pytest.raises(TrackingError, match=expected) as caught:
        check_store(uri.format(port=free_port(), tmp=tmp_path), timeout_s=2)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_server_that_accepts_and_says_nothing_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute, pytest.raises(TrackingError, match="does not answer"):
        check_store(f"http://127.0.0.1:{mute.getsockname()[1]}", timeout_s=0.2)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(TrackingError, match="not writable"):
        check_store(f"sqlite:///{tmp_path}/mlflow.db")


def test_no_password_reaches_a_message_or_a_file(opened: MakeTracker, tmp_path: Path) -> None:
    tracker = opened(uri=f"http://user:secret@127.0.0.1:{free_port()}")
    while tracker.outage is None:
        time.sleep(0.01)
    assert "secret" not in tracker.outage + "".join(tracker.problems)
    tracker.close(0)
    assert not [file for file in tmp_path.iterdir() if file.is_file() and "secret" in file.read_text()]
    assert redacted("see http://a:b@host:1/x?token=c now") == "see http://host:1/x now"


def test_an_error_is_retried_unless_mlflow_refuses_the_record() -> None:
    from mlflow.exceptions import MlflowException, RestException

    assert judge(MlflowException("API request failed with exception")) == "retry"
    assert judge(RestException({"error_code": "INVALID_PARAMETER_VALUE", "message": "no"})) == "reject"
    assert judge(RestException({"error_code": "PERMISSION_DENIED", "message": "no"})) == "retry"
    assert judge(RestException({"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no"})) == "missing"
    assert judge(PermissionError("artifacts")) == "unknown"


def test_the_tracking_modules_import_no_mlflow() -> None:
    code = "import sys, tune.tracking; sys.exit(bool({'mlflow', 'sqlalchemy', 'torch', 'ray'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPO_ROOT, check=False).returncode == 0
