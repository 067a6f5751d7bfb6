"""A sweep's description and saved view in a real store, also after a person has changed them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tracking_kit import (  # noqa: F401 (fixtures)
    EXPERIMENT,
    MakeTracker,
    mlflow_runs,
    opened_fixture,
    plan,
    settle,
    shared_store_fixture,
    sweep_id_fixture,
)

from tune.tracking.tracker import Tracker
from tune.tracking.ui_notes import EXPERIMENT_NOTE, NOTE, sweep_note, sweep_view, with_result

# SQLAlchemy 2.1 warns about MLflow 3.17's imports.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")

TAGS = {"question": "How fast?", "baseline": "none", "swept": "model.attention,train.engine"}
TRAINING = "workflowType=machine_learning"  # the view that a link opens
SUMMARY = "# id\n\nHow fast?\n\n**Answer: fast.**\n\nDevice: a GPU\n\n| arm |\n|---|\n| none |\n"


def begin(tracker: Tracker, sweep_id: str) -> None:
    tracker.begin_sweep(sweep_id=sweep_id, name=sweep_id, tags=TAGS, params={}, files={})


def parent(store: str, sweep_id: str) -> Any:
    (run,) = [run for run in mlflow_runs(store, sweep_id) if run.data.tags["role"] == "sweep"]
    return run


def experiment(store: str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=store).get_experiment_by_name(EXPERIMENT)


def test_a_sweeps_note_is_there_from_the_start_and_links_to_its_own_runs(
    opened: MakeTracker, shared_store: str, sweep_id: str
) -> None:
    tracker = opened(begin=False)
    begin(tracker, sweep_id)
    settle(tracker)
    run = parent(shared_store, sweep_id)
    note = run.data.tags[NOTE]
    assert f"(#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}/artifacts/report.html?{TRAINING})" in note
    assert f"(#/experiments/{run.info.experiment_id}/runs?{TRAINING}&viewStateShareKey={sweep_id}&" in note
    for said in ("**How fast?**", "`model.attention`, `train.engine`", "the baseline `none`"):
        assert said in note


def test_the_answer_leads_the_note_and_the_table_ends_it_once_however_often_the_sweep_ends(
    opened: MakeTracker, shared_store: str, sweep_id: str
) -> None:
    tracker = opened(begin=False)
    begin(tracker, sweep_id)
    settle(tracker)
    before = parent(shared_store, sweep_id).data.tags[NOTE]
    for _ in range(2):
        tracker.end_sweep(status="done", metrics={}, files={"report.md": f"{SUMMARY}\n\n## Cost\n"})
    settle(tracker)
    after = parent(shared_store, sweep_id).data.tags[NOTE]
    assert after == f"**Answer: fast.**\n\n{before}\n\n## Result\n\nDevice: a GPU\n\n| arm |\n|---|\n| none |\n"


def test_a_table_too_long_for_a_tag_leaves_the_note_unchanged(
    opened: MakeTracker, shared_store: str, sweep_id: str
) -> None:
    tracker = opened(begin=False)
    begin(tracker, sweep_id)
    settle(tracker)
    before = parent(shared_store, sweep_id).data.tags[NOTE]
    tracker.end_sweep(status="done", metrics={}, files={"report.md": SUMMARY + "| more |\n" * 1000})
    settle(tracker)
    run = parent(shared_store, sweep_id)
    assert (run.data.tags[NOTE], run.data.tags["status"], tracker.problems) == (before, "done", [])


def test_what_a_person_changed_of_the_experiment_stays(opened: MakeTracker, shared_store: str, sweep_id: str) -> None:
    from mlflow import MlflowClient

    tracker = opened(begin=False)
    begin(tracker, sweep_id)
    settle(tracker)
    view = f"mlflow.sharedViewState.{sweep_id}"
    assert experiment(shared_store).tags[NOTE] == EXPERIMENT_NOTE and view in experiment(shared_store).tags
    client = MlflowClient(tracking_uri=shared_store)
    assert experiment(shared_store).tags["mlflow.experimentKind"] == "custom_model_development"
    for key in (NOTE, view):
        client.set_experiment_tag(experiment(shared_store).experiment_id, key, "mine")
    begin(tracker, sweep_id)  # as on resume
    settle(tracker)
    assert {experiment(shared_store).tags[key] for key in (NOTE, view)} == {"mine"}
    client.set_experiment_tag(experiment(shared_store).experiment_id, NOTE, EXPERIMENT_NOTE)


def test_a_view_shows_one_sweeps_trials_by_arm_with_what_they_differ_in_first() -> None:
    key, text = sweep_view({"sweep_id": "s-1", "name": "s-1", "time_ms": 5, "tags": TAGS})
    view = json.loads(text)
    state = json.loads(view["state"])
    assert (key, view["name"], view["createdAt"]) == ("mlflow.sharedViewState.s-1", "s-1", 5)
    assert state["searchFilter"] == "tags.sweep_id = 's-1' and tags.role = 'trial'"
    assert state["selectedColumns"][:2] == ["params.`model.attention`", "params.`train.engine`"]
    assert state["groupBy"]["groupByKeys"] == [{"mode": "tag", "groupByData": "arm"}]


def test_a_note_that_a_person_rewrote_stays_and_the_result_stands_below_it() -> None:
    told = with_result("mine", SUMMARY)
    assert told.startswith("mine\n\n## Result\n\n**Answer: fast.**\n\nDevice: a GPU")
    assert with_result(told, SUMMARY) == told


def test_a_note_leaves_out_what_the_sweep_does_not_tell() -> None:
    note = sweep_note({"sweep_id": "s", "tags": {}}, "1", "r")
    assert "baseline `" not in note and "Arms differ" not in note and "**Compare**" in note


def test_the_validation_error_is_the_first_metric_of_a_trial(
    opened: MakeTracker, shared_store: str, sweep_id: str
) -> None:
    tracker = opened()
    plan(tracker, "a")
    metrics = {"gpu/energy_j": 1.0, "loss/train_mse": 2.0, "loss/val_mse": 3.0}
    tracker.log_epoch(trial_id="a", epoch=1, metrics=metrics, timestamp_ms=1)
    settle(tracker)
    (run,) = [run for run in mlflow_runs(shared_store, sweep_id) if run.data.tags["role"] == "trial"]
    assert list(run.data.metrics.items()) == [("loss/val_mse", 3.0), ("gpu/energy_j", 1.0), ("loss/train_mse", 2.0)]
