"""Probes and trials for errors through Ray: what becomes a record, what runs again, what begins without time left."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from trial_kit import CPU, SMALL

from tune.cluster.share import Share
from tune.config.sweeps import Arm, SweepConfig
from tune.console.progress import Progress
from tune.driver import error_trials, probes
from tune.driver.budget import Budget
from tune.driver.collector import Collector
from tune.driver.launcher import Launcher
from tune.plan.plan import Plan, PlannedTrial, make_plan
from tune.storage import open_sweep
from tune.tracking.tracker import Tracker

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]
TAGS = {"sweep": "s", "environment": "{}"}


def _plan(repeats: int = 1) -> Plan:
    arms = (
        Arm(label="a", changes={}),
        Arm(label="b", changes={"model.patch_length": 24}),
        Arm(label="c", changes={"model.attention": "sdpa_efficient"}),
    )
    sweep = SweepConfig(name="s", question="?", baseline="a", arms=arms)
    return make_plan(sweep, overrides={**SMALL, "train.epochs": 2}, repeats=repeats, seed=1, device=CPU)


def _done(tracker: Tracker, trials: Sequence[PlannedTrial]) -> list[str]:
    return [trial.trial_id for trial in trials if tracker.status_of(trial.trial_id) == "done"]


@dataclass
class Ran:
    """What two calls of `probe` and one of `train` left, each in the same sweep."""

    tracker: Tracker
    probed: list[PlannedTrial]
    trained: list[PlannedTrial]
    said: list[str]
    said_again: list[str]
    left: list[str]  # folders of actors


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ran]:
    import ray

    folder = tmp_path_factory.mktemp("probes")
    plan = replace(_plan(repeats=3), device=replace(CPU, host_free_gib=64.0))
    content = {"key": "k", "created_s": 1.0, "code": {}, "environment": {}}
    sweep = open_sweep.create(folder / "runs", "s", content)
    launcher = Launcher(
        folder=sweep, share=Share(cpus=2, gpus=0, at_a_time=1), device_type="cpu", gpu_name=None, data_dir=folder,
        cache_dir=folder / "arrow", data_sha256=None,  # type: ignore[arg-type]
    )  # fmt: skip
    probed = [replace(trial, trial_id=f"probe-{trial.arm}") for trial in plan.trials if trial.seed == 1]
    trained = [trial for trial in plan.runnable if trial.seed > 1]
    said: list[str] = []
    again: list[str] = []
    nowhere = "http://127.0.0.1:9"  # its records stay in the outbox
    tracker = Tracker(outbox_path=sweep.outbox, tracking_uri=nowhere, experiment="e", artifact_root=None)
    try:
        tracker.begin_sweep(sweep_id="s", name="s", tags={}, params={}, files={})
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="CRITICAL")
        try:
            tracker.plan_trial(trial_id="probe-a", run_name="a", params={}, tags={"stage": "probe", "cell": "1"})
            probes.probe(launcher, tracker, plan, probed, TAGS, said.append)
            probes.probe(launcher, tracker, plan, probed, TAGS, again.append)
            for trial in trained:
                tags = {"stage": "search", "arm": trial.arm}
                tracker.plan_trial(trial_id=trial.trial_id, run_name=trial.arm, params={}, tags=tags)
            collector = Collector(sweep, tracker, Progress(total=2, epochs=2, quiet=True))
            budget = Budget(1.0, clock=lambda: 61.0 if len(_done(tracker, trained)) == 2 else 0.0)
            error_trials.train(replace(launcher, budget=budget), collector, plan, trained, None)
            session = Path(ray._private.worker._global_node.get_session_dir_path())
            left = [path.name for path in session.glob("tmp*")]
        finally:
            ray.shutdown()
        yield Ran(tracker, probed, trained, said, again, left)
    finally:
        tracker.close(0.0)


def test_every_probe_is_a_record_with_its_times_or_its_reason(ran: Ran) -> None:
    logs = {trial.arm: ran.tracker.trials[trial.trial_id] for trial in ran.probed}
    assert {arm: log.status for arm, log in logs.items()} == {"a": "done", "b": "done", "c": "unsupported"}
    assert {log.tags["stage"] for log in logs.values()} == {"probe"}
    for arm in "ab":
        assert logs[arm].metrics["final/probe_step_s"] > 0 and logs[arm].metrics["final/epoch_all_windows_s"] > 0
        assert logs[arm].epochs == {} and logs[arm].tags["timing_valid"] == "true"
        assert "final/test_mse" not in logs[arm].metrics
    assert "no CPU kernel" in logs["c"].reason
    assert logs["a"].tags["cell"] == "1"  # a caller's own plan of it stays


def test_each_says_its_time(ran: Ran) -> None:
    lines = [line for line in ran.said if "ms a step" in line]
    assert len(lines) == 2 and lines[-1].startswith("[2/2 probed] probe-")


def test_probes_of_a_wave_load_together_and_are_timed_one_after_another(ran: Ran) -> None:
    spans = (json.loads(ran.tracker.trials[f"probe-{arm}"].tags["spans"]) for arm in "ab")
    first, second = sorted(spans, key=lambda span: span["first_epoch_ms"])
    assert second["started_ms"] < first["first_epoch_ms"]
    assert first["work_ended_ms"] <= second["first_epoch_ms"]


def test_a_probe_that_has_ended_is_not_run_again(ran: Ran) -> None:
    assert ran.said_again == []


def test_no_folder_of_an_actor_is_left(ran: Ran) -> None:
    assert ran.left == []


def test_a_trial_for_errors_has_errors_and_no_valid_times(ran: Ran) -> None:
    logs = [ran.tracker.trials[trial.trial_id] for trial in ran.trained[:2]]
    assert [log.status for log in logs] == ["done", "done"], [log.reason for log in logs]
    assert all(len(log.epochs) == 2 and log.metrics["final/val_mse"] > 0 for log in logs)
    assert {log.tags["timing_valid"] for log in logs} == {"false"}


def test_once_the_time_is_over_no_trial_begins_and_those_left_have_no_end(ran: Ran) -> None:
    assert len(ran.trained) == 4
    assert _done(ran.tracker, ran.trained) == [trial.trial_id for trial in ran.trained[:2]]


@pytest.mark.parametrize(
    ("cpus", "gpus", "gib", "resources"),
    [
        (16, 1.0, 140.0, {"CPU": 2, "GPU": 1 / 8}),
        (4, 1.0, 140.0, {"CPU": 2, "GPU": 1 / 2}),
        (1, 1.0, 140.0, {"CPU": 1, "GPU": 1.0}),
        (8, 0.5, 140.0, {"CPU": 2, "GPU": 1 / 8}),
        (16, 1.0, None, {"CPU": 2, "GPU": 1.0}),  # a memory that is not known
        (16, 1.0, 4.0, {"CPU": 2, "GPU": 3 / 8}),
    ],
)
def test_a_trial_for_errors_gets_a_part_of_a_gpu_by_cores_and_memory(
    cpus: int, gpus: float, gib: float | None, resources: dict[str, Any]
) -> None:
    plan = replace(_plan(), device=replace(CPU, device_type="cuda", memory_gib=gib))
    share = Share(cpus=cpus, gpus=gpus, at_a_time=1)
    assert error_trials.resources_of(share, plan, plan.trials[0]) == resources


def test_on_a_cpu_a_trial_for_errors_has_all_cores() -> None:
    plan = _plan()
    assert error_trials.resources_of(Share(cpus=4, gpus=0, at_a_time=1), plan, plan.trials[0]) == {"CPU": 4}
