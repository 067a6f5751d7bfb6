"""The collector and the watchdogs, on hand-made Tune events."""

from __future__ import annotations

import errno
import io
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune import Checkpoint

from tune.cluster.share import Share
from tune.console.progress import Progress
from tune.driver.collector import Collector
from tune.driver.watchdogs import DriverNodeWatchdog, TrialNodesWatchdog
from tune.storage.sweep_dir import SweepDir
from tune.storage.trial_log import OutboxIndex
from tune.tracking.tracker import Tracker
from tune.trial.report import TrialEnd

FULL = os.strerror(errno.ENOSPC)
METRICS = {"loss/val_mse": 0.5, "time/train_s": 1.0, "speed/windows_per_s": 10.0}


@pytest.fixture
def collector(tmp_path: Path, new_store: str) -> Any:
    with Tracker(
        outbox_path=tmp_path / "outbox.jsonl", tracking_uri=new_store, experiment="e", artifact_root=None
    ) as tracker:
        tracker.begin_sweep(sweep_id="s", name="s", tags={}, params={}, files={})
        tracker.plan_trial(trial_id="t", run_name="t", params={}, tags={})
        yield Collector(SweepDir(tmp_path), tracker, Progress(total=1, epochs=2, stream=io.StringIO()))


def _trial(tmp_path: Path) -> Any:
    return SimpleNamespace(
        config={"job": {"trial_id": "t"}},
        storage=SimpleNamespace(trial_fs_path=str(tmp_path / "t")),
        checkpoint=SimpleNamespace(path=str(tmp_path / "t" / "checkpoint_000002")),
        run_metadata=SimpleNamespace(num_failures=2),
    )


def _records(tmp_path: Path, kind: str) -> list[dict[str, Any]]:
    lines = (tmp_path / "outbox.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == kind]


def _result(collector: Collector, trial: Any, **result: Any) -> None:
    collector.on_trial_result(1, [trial], trial, {"metrics": METRICS, "timestamp_ms": 1, "tags": {}, **result})


def test_the_model_is_taken_from_the_final_reports_own_folder_and_not_from_the_last_epochs(
    collector: Collector, tmp_path: Path
) -> None:
    _result(collector, _trial(tmp_path), status="done", reason=None, checkpoint_dir_name="checkpoint_000003")
    assert _records(tmp_path, "end")[0]["model_dir"] == "t/checkpoint_000003/model"


@pytest.mark.parametrize("status", ["nan", "oom", "failed", "unsupported"])
def test_a_trial_without_a_result_leaves_no_model(collector: Collector, tmp_path: Path, status: str) -> None:
    _result(collector, _trial(tmp_path), status=status, reason="r", checkpoint_dir_name="checkpoint_000003")
    assert _records(tmp_path, "end")[0]["model_dir"] is None


def test_raw_samples_come_with_the_final_report_or_else_from_the_newest_checkpoint(
    collector: Collector, tmp_path: Path
) -> None:
    trial = _trial(tmp_path)
    _result(collector, trial, status="unsupported", reason="r")  # before its first epoch
    collector.on_checkpoint(1, [trial], trial, trial.checkpoint)
    for result in ({"status": "nan", "checkpoint_dir_name": "checkpoint_000003"}, {"status": "oom"}):
        collector._tracker.plan_trial(trial_id="t", run_name="t", params={}, tags={"status": "running"})
        _result(collector, trial, reason="r", **result)
    kept = [record["samples_dir"] for record in _records(tmp_path, "end")]
    folders = [f"t/{name}/samples" for name in ("checkpoint_000003", "checkpoint_000002")]  # in the sweep's folder
    assert kept == [None, *folders]


@pytest.mark.parametrize(("now", "changed"), [("torch 2", {"environment": "torch 2"}), ("torch 1", {}), (None, {})])
def test_a_trial_that_was_announced_before_the_environment_changed_ends_with_its_own_environment(
    collector: Collector, tmp_path: Path, now: str | None, changed: dict[str, str]
) -> None:
    collector._tracker.plan_trial(trial_id="old", run_name="old", params={}, tags={"environment": "torch 1"})
    resumed = Collector(collector._folder, collector._tracker, collector._progress, environment=now)
    trial = _trial(tmp_path)
    trial.config["job"]["trial_id"] = "old"
    _result(resumed, trial, status="done", reason=None, tags={"device": "d"})
    assert _records(tmp_path, "end")[0]["tags"] == {"device": "d"} | changed


def test_the_tags_of_a_trials_newest_epoch_outlive_the_driver_and_are_written_where_they_change(
    collector: Collector, tmp_path: Path
) -> None:
    for epoch, tags in enumerate([{"device": "d", "spans": "1", "rehearsed": "x"}, {"device": "d", "spans": "2"}], 1):
        _result(collector, _trial(tmp_path), epoch=epoch, tags=tags)
    written = [record["tags"] for record in _records(tmp_path, "epoch")]
    assert written == [{"device": "d", "spans": "1", "rehearsed": "x"}, {"spans": "2", "rehearsed": None}]
    index = OutboxIndex()
    for line in (tmp_path / "outbox.jsonl").read_text().splitlines():
        index.absorb(json.loads(line))
    assert index.logs["t"].reported == {"device": "d", "spans": "2"}


def test_an_epoch_that_comes_twice_is_kept_and_shown_once(collector: Collector, tmp_path: Path) -> None:
    for _ in range(2):
        _result(collector, _trial(tmp_path), epoch=1)
    assert len(_records(tmp_path, "epoch")) == 1
    assert collector._progress.stream.getvalue().count("epoch 1/2") == 1


def test_the_newest_two_checkpoints_of_a_trial_are_remembered_on_disk(collector: Collector, tmp_path: Path) -> None:
    for number in (1, 2):
        collector.on_checkpoint(number, [], _trial(tmp_path), SimpleNamespace(path=f"/c/{number}"))
    assert SweepDir(tmp_path).checkpoints("t") == ["/c/2", "/c/1"]
    assert SweepDir(tmp_path).checkpoints("another") == []


def test_the_newest_two_checkpoints_of_each_trial_stay_and_a_missing_one_does_no_harm(
    collector: Collector, tmp_path: Path
) -> None:
    other = _trial(tmp_path)
    other.config = {"job": {"trial_id": "u"}}
    for number in (1, 2, 3, 4):
        for trial, name in ((_trial(tmp_path), "t"), (other, "u")):
            (folder := tmp_path / f"{name}-{number}").mkdir()
            collector.on_checkpoint(number, [], trial, Checkpoint.from_directory(str(folder)))
        shutil.rmtree(tmp_path / "u-2", ignore_errors=True)
    assert sorted(path.name for path in tmp_path.glob("[tu]-*")) == ["t-3", "t-4", "u-3", "u-4"]


@pytest.mark.parametrize(
    ("error", "reason"),
    [(None, "the trial's process was lost"), (ValueError(""), "the trial's process was lost"),
     (RuntimeError("node died\nmore"), "RuntimeError: node died")],
)  # fmt: skip
def test_a_trial_that_tune_gave_up_on_has_failed_with_the_errors_first_line(
    collector: Collector, tmp_path: Path, error: Exception | None, reason: str
) -> None:
    trial = _trial(tmp_path)
    trial.pickled_error_file = trial.error_file = None
    if error is not None:
        trial.pickled_error_file = str(tmp_path / "error.pkl")
        Path(trial.pickled_error_file).write_bytes(pickle.dumps(error))
    _result(collector, trial, epoch=1, tags={"spans": "when it worked"})
    collector.on_trial_error(1, [trial], trial)
    end = _records(tmp_path, "end")[0]
    assert (end["status"], end["reason"], end["tags"]) == ("failed", reason, {"spans": "when it worked"})


def test_a_trial_whose_actor_rays_memory_monitor_killed_is_oom_in_rays_words(
    collector: Collector, tmp_path: Path
) -> None:
    trial = _trial(tmp_path)
    trial.pickled_error_file, trial.error_file = str(tmp_path / "error.pkl"), str(tmp_path / "error.txt")
    Path(trial.pickled_error_file).write_bytes(pickle.dumps(RuntimeError("of the attempt before")))
    killed = "Task was killed due to the node running low on memory."
    Path(trial.error_file).write_text(
        f"Failure # 1 (occurred at a)\nboom\nFailure # 2 (occurred at b)\n{killed}\nMore\n"
    )
    collector.on_trial_error(1, [trial], trial)
    (end,) = _records(tmp_path, "end")
    assert (end["status"], end["reason"]) == ("oom", f"OutOfMemoryError: {killed}")


def _reported_by_the_trial(collector: Collector, trial: Any) -> None:
    _result(collector, trial, status="failed", reason=FULL, tags={"disk_full": "true"})


def _met_by_ray(collector: Collector, trial: Any) -> None:
    trial.pickled_error_file, trial.error_file = str(collector._folder.path / "error.pkl"), None
    Path(trial.pickled_error_file).write_bytes(pickle.dumps(RuntimeError(f"in another process:\n{FULL}")))
    collector.on_trial_recover(1, [trial], trial)


def _met_by_ray_for_the_last_time(collector: Collector, trial: Any) -> None:
    _met_by_ray(collector, trial)
    collector.disk_full = None
    collector.on_trial_error(1, [trial], trial)


def _met_by_the_outbox(collector: Collector, trial: Any) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.write", _no_room)
        _result(collector, trial, epoch=1)


def _no_room(*arguments: Any) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    "meet", [_reported_by_the_trial, _met_by_ray, _met_by_ray_for_the_last_time, _met_by_the_outbox]
)  # fmt: skip
def test_once_a_disk_is_full_the_run_stops_and_nothing_more_is_recorded(
    collector: Collector, tmp_path: Path, meet: Callable[[Collector, Any], None]
) -> None:
    trial, stopper = _trial(tmp_path), collector.stop
    assert not stopper.stop_all()
    meet(collector, trial)
    assert stopper.stop_all()
    assert collector.disk_full is not None and FULL in collector.disk_full
    _result(collector, trial, epoch=2)
    collector.on_checkpoint(2, [trial], trial, trial.checkpoint)
    collector.on_trial_complete(2, [trial], trial)
    assert _records(tmp_path, "end") == _records(tmp_path, "epoch") == []
    assert collector._folder.checkpoints("t") == []


def test_a_trial_that_a_scheduler_stopped_ends_with_its_reason_and_what_it_said_of_itself(
    collector: Collector, tmp_path: Path
) -> None:
    trial = _trial(tmp_path)
    _result(collector, trial, epoch=1, tags={"device": "G"})
    collector.on_trial_complete(1, [trial], trial)
    assert _records(tmp_path, "end") == []  # nothing says that it was stopped: the driver is going down
    collector.ending = lambda trial_id: TrialEnd(status="stopped", reason=f"{trial_id} is behind", metrics={"m": 1.0})
    collector.on_trial_complete(1, [trial], trial)
    (end,) = _records(tmp_path, "end")
    assert (end["status"], end["reason"], end["tags"]) == ("stopped", "t is behind", {"device": "G"})
    assert (end["metrics"], end["model_dir"]) == ({"m": 1.0}, None)


def test_a_trial_that_said_how_it_ended_is_not_stopped_afterwards(collector: Collector, tmp_path: Path) -> None:
    trial = _trial(tmp_path)
    _result(collector, trial, status="done", reason=None)
    collector.ending = lambda trial_id: TrialEnd(status="stopped", reason="late")
    collector.on_trial_complete(1, [trial], trial)
    assert [end["status"] for end in _records(tmp_path, "end")] == ["done"]


def test_tune_pickles_nothing_of_it(collector: Collector) -> None:
    assert pickle.loads(pickle.dumps(collector)).__dict__ == {}


def test_the_time_left_is_unknown_at_first_and_then_follows_the_work_done_here() -> None:
    progress = Progress(total=2, epochs=2, stream=io.StringIO())
    assert progress.eta() == "unknown"
    progress.epoch("t", 1, {**METRICS, "time/epoch_s": 10.0})
    assert progress.eta() == "0:30"  # a quarter of the work took 10 s


def test_the_number_of_trials_follows_what_is_left() -> None:
    progress = Progress(total=9, epochs=2, stream=io.StringIO())
    progress.ended("t", "done", None)
    progress.expect(3)
    assert progress.total == 4


def test_a_driver_whose_own_node_is_gone_is_interrupted_and_one_that_lost_another_is_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import ray

    alive = {"mine": True, "another": False}
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "mine"))
    monkeypatch.setattr(ray, "nodes", lambda: [{"NodeID": name, "Alive": lives} for name, lives in alive.items()])
    DriverNodeWatchdog().on_step_begin(1, [])
    alive["mine"] = False
    with pytest.raises(KeyboardInterrupt):
        DriverNodeWatchdog().on_step_begin(1, [])
    assert "Ray on this machine was lost" in capsys.readouterr().err


def test_a_cluster_without_a_node_for_trials_is_reported_every_30_s_and_left_after_the_wait(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import ray

    head = {"Alive": True, "Resources": {"CPU": 8.0}}
    worker = {"Alive": True, "Resources": {"CPU": 8.0, "GPU": 1.0, "accelerator_type:H100": 1.0}}
    clock, said = SimpleNamespace(now_s=1000.0), []
    monkeypatch.setattr(ray, "nodes", lambda: [head, worker])
    monkeypatch.setattr("tune.driver.watchdogs.time.monotonic", lambda: clock.now_s)
    share = Share(cpus=8, gpus=1, at_a_time=1, accelerator="H100")
    watch = TrialNodesWatchdog(share.fits, 70.0, said.append)

    def passes(seconds: int) -> None:
        for _ in range(seconds):
            clock.now_s += 1
            watch.on_step_begin(1, [])

    passes(100)
    worker["Alive"] = False
    passes(30)
    assert said == []
    worker["Alive"] = True  # another one came in time, and was lost too
    passes(10)
    worker["Alive"] = False
    passes(69)
    assert [line.split(": ")[1].split(" (")[0] for line in said] == ["30 of at most 70 s", "60 of at most 70 s"]
    with pytest.raises(KeyboardInterrupt):
        passes(10)
    assert capsys.readouterr().err == "no node that could run a trial has joined the cluster for 70 s\n"


def test_a_node_is_of_the_trials_kind_if_it_has_their_share() -> None:
    model = "accelerator_type:H100"
    pinned, half, cpu = (
        Share(cpus=4, gpus=1, at_a_time=1, accelerator="H100"), Share(cpus=4, gpus=0.5, at_a_time=2),
        Share(cpus=4, gpus=0, at_a_time=1),
    )  # fmt: skip
    of_it, other, small = {"CPU": 4, "GPU": 1, model: 1}, {"CPU": 4, "GPU": 1}, {"CPU": 2, "GPU": 1, model: 1}
    assert [pinned.fits(node) for node in (of_it, other, small, {"CPU": 4})] == [True, False, False, False]
    assert [half.fits(node) for node in (of_it, other, small, {"CPU": 4})] == [True, True, False, False]
    assert [cpu.fits(node) for node in (of_it, small, {"CPU": 4}, {})] == [True, False, True, False]
