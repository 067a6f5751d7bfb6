"""A search carried out on real records: what it asks to run, what a restart runs, and the final that it ends in."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from search_kit import CPU, SMALL, World, search_plan

from tune.console.progress import Progress
from tune.driver import error_trials, probes
from tune.driver.budget import Budget
from tune.driver.search import CHOSEN, Found, Search, account, final_plan, final_s
from tune.driver.search_history import History
from tune.plan.plan import PlannedTrial
from tune.plan.search_plan import SearchPlan
from tune.storage.sweep_dir import SweepDir
from tune.tracking.tracker import Tracker

FEW = {"attention": 3, "patch_length": 2, "batch_size": 3, "loader": 1, "pruning": 2}


def _plan(epochs: int = 2, **given: Any) -> SearchPlan:
    overrides = SMALL | {"train.epochs": epochs, "train.engine": "eager"}
    return search_plan(**{"draws": 3, "device": CPU, "overrides": overrides, **FEW, **given})


@dataclass
class Asked:
    """What a search asked to run. Each trial ends at once, as long as `may_end` says so."""

    may_end: Callable[[PlannedTrial], bool] = lambda trial: True
    trained: list[list[str]] = field(default_factory=list)
    probed: list[list[str]] = field(default_factory=list)
    val_mse: float = 0.4


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    asked = Asked()

    def end(tracker: Tracker, trials: Any, metrics: dict[str, float]) -> list[str]:
        for trial in filter(asked.may_end, trials):
            if tracker.status_of(trial.trial_id) is None:
                tracker.end_trial(trial_id=trial.trial_id, status="done", reason="", metrics=metrics, tags={},
                                  model_dir=None)  # fmt: skip
        return [trial.trial_id for trial in trials]

    def train(launcher: Any, collector: Any, plan: Any, trials: Any, scheduler: Any) -> None:
        asked.trained.append(end(launcher.tracker, trials, {"final/val_mse": asked.val_mse}))

    def probe(launcher: Any, tracker: Tracker, plan: Any, trials: Any, tags: Any, say: Any) -> None:
        asked.probed.append(end(tracker, trials, {"final/epoch_all_windows_s": 1.0}))

    monkeypatch.setattr(error_trials, "train", train)
    monkeypatch.setattr(error_trials, "at_a_time", lambda launcher, plan: 2)
    monkeypatch.setattr(probes, "probe", probe)
    return asked


@dataclass
class Sweep:
    """The folder and the tracker of one sweep."""

    plan: SearchPlan
    folder: SweepDir
    tracker: Tracker
    said: io.StringIO = field(default_factory=io.StringIO)

    def run(self, *, minutes: float | None = None) -> Found | None:
        progress = Progress(total=9, epochs=5, stream=self.said)
        launcher: Any = SimpleNamespace(folder=self.folder, budget=Budget(minutes), tracker=self.tracker)
        tags = {"sweep": "full"}
        return Search(self.plan, self.tracker, launcher, progress, tags).run(SimpleNamespace(), quiet=True)  # type: ignore[arg-type]


@pytest.fixture
def sweep_of(tmp_path: Path, new_store: str) -> Any:
    """A function from a plan to its sweep. Called again, it goes on in the same folder."""
    open_trackers: list[Tracker] = []

    def begin(plan: SearchPlan) -> Sweep:
        for tracker in open_trackers:
            tracker.close(0.0)
        tracker = Tracker(outbox_path=tmp_path / "outbox.jsonl", tracking_uri=new_store, experiment="e",
                          artifact_root=None)  # fmt: skip
        open_trackers[:] = [tracker]
        tracker.begin_sweep(sweep_id="s", name="s", tags={}, params={}, files={})
        if not (tmp_path / "sweep.json").exists():
            (tmp_path / "sweep.json").write_text("{}")
        return Sweep(plan, SweepDir(tmp_path), tracker)

    yield begin
    for tracker in open_trackers:
        tracker.close(0.0)


def test_a_search_trains_probes_and_ends_in_a_plan_of_the_final(asked: Asked, sweep_of: Any) -> None:
    sweep = sweep_of(_plan())
    found = sweep.run()
    assert found is not None
    assert sum(len(batch) for batch in asked.trained) >= sweep.plan.draws and asked.probed
    arms = {trial.arm for trial in found.plan.runnable}
    assert "baseline" in arms and 2 <= len(arms) <= 4
    assert {trial.seed for trial in found.plan.runnable} == {2, 3}  # 1 is the search's
    assert json.loads(found.account)["complete"] is True


def test_every_trial_says_its_stage_its_cell_and_what_it_shares_with_others(asked: Asked, sweep_of: Any) -> None:
    sweep = sweep_of(_plan())
    sweep.run()
    for trial_id, log in sweep.tracker.trials.items():
        stage = "probe" if "-probe-" in trial_id else "search"
        cell = tuple(json.loads(log.tags["cell"]))
        assert log.tags["stage"] == stage and sweep.plan.can_run(cell)
        assert log.tags["shape"] == "-".join(sweep.plan.shape_of(cell))
        assert log.tags["way"] == "-".join(sweep.plan.way_of(cell))
        assert log.tags["work"] == sweep.plan.work(sweep.plan.shape_of(cell))
        assert "--set " in log.tags["settings"]


def test_the_finals_cells_are_on_disk_and_a_restart_does_not_choose_again(asked: Asked, sweep_of: Any) -> None:
    plan = _plan()
    first = sweep_of(plan).run()
    ran = (list(asked.trained), list(asked.probed))
    sweep = sweep_of(plan)
    chosen = sweep.folder.read()[CHOSEN]
    sweep.folder.update(**{CHOSEN: chosen[:1]})
    again = sweep.run()
    assert first is not None and again is not None
    assert (asked.trained, asked.probed) == ran
    assert [arm.label for arm in again.plan.sweep.arms] == [arm.label for arm in first.plan.sweep.arms[:2]]


def test_a_search_that_is_cut_goes_on_with_the_same_trials(asked: Asked, sweep_of: Any) -> None:
    plan = _plan()
    asked.may_end = lambda trial: not trial.trial_id.endswith("search-002-s1")
    assert sweep_of(plan).run() is None
    cut = asked.trained[-1]
    assert "full-search-002-s1" in cut
    asked.may_end = lambda trial: True
    assert sweep_of(plan).run() is not None
    assert asked.trained[1] == ["full-search-002-s1"]
    flat = [trial_id for batch in asked.trained for trial_id in batch]
    assert sorted(flat) == sorted({*flat}) + ["full-search-002-s1"] or flat.count("full-search-002-s1") == 2


def test_a_cut_probe_keeps_its_number(asked: Asked, sweep_of: Any) -> None:
    plan = _plan()
    asked.may_end = lambda trial: not trial.trial_id.endswith("probe-002-s1")
    assert sweep_of(plan).run() is None
    before = set(asked.probed[-1])
    asked.may_end = lambda trial: True
    assert sweep_of(plan).run() is not None
    assert asked.probed[1] == ["full-probe-002-s1"] and "full-probe-002-s1" in before


def test_without_time_the_final_is_of_what_is_there(asked: Asked, sweep_of: Any) -> None:
    plan = _plan()
    asked.may_end = lambda trial: "-probe-" not in trial.trial_id
    assert sweep_of(plan).run() is None  # the search is done, the probes are cut
    before = (list(asked.trained), list(asked.probed))
    sweep = sweep_of(plan)
    found = sweep.run(minutes=0.01)
    assert found is not None and (asked.trained, asked.probed) == before
    assert "search: the time left is for the final" in sweep.said.getvalue()
    assert len({trial.arm for trial in found.plan.runnable}) >= 2
    assert json.loads(found.account)["complete"] is False


def test_without_time_and_without_any_result_the_search_stays_open(asked: Asked, sweep_of: Any) -> None:
    sweep = sweep_of(_plan())
    assert sweep.run(minutes=0.01) is None
    assert not asked.trained and not asked.probed and CHOSEN not in sweep.folder.read()
    assert sweep_of(sweep.plan).run() is not None  # with more time it goes on


def test_the_final_needs_time_for_its_first_verdict() -> None:
    plan = _plan(epochs=3)
    world = World(plan, error=lambda labels: 0.4, epoch_s=lambda labels: 10.0)
    before = final_s(plan, world.history)
    world.run()
    assert final_s(plan, world.history) == before + 4 * 2 * 3 * 10.0  # 4 arms, 2 blocks, 3 epochs


def test_a_search_without_any_result_has_no_final_and_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    plan = _plan()
    world = World(plan, error=lambda labels: None, epoch_s=lambda labels: 1.0)
    world.run()
    for log in world.logs.values():
        log.reason = "failed because"
    final = final_plan(plan, world.history, [], quiet=True)
    assert final.runnable == () and {trial.unsupported is None for trial in final.trials} <= {False}
    said = capsys.readouterr().err
    assert said == "no trial of the search gave a result to compare, there is no final: failed because\n"


def test_the_account_says_how_far_the_search_came() -> None:
    plan = _plan(target=0.3)
    world = World(plan, error=lambda labels: 0.4, epoch_s=lambda labels: 1.0)
    assert account(plan, History(plan, {})) == {
        "trained": 0, "of_polish": 0, "probed": 0, "able": 0, "limit_val_mse": None, "limit": None,
        "target_val_mse": 0.3, "target_reached": False, "complete": False,
    }  # fmt: skip
    world.run()
    content = account(plan, world.history)
    assert content["complete"] and content["trained"] == len(world.history.trained)
    assert content["limit_val_mse"] == pytest.approx(0.404) and content["limit"] == "1% above the best one's"


def test_a_trial_that_was_stopped_when_the_driver_was_killed_is_ended_as_stopped(asked: Asked, sweep_of: Any) -> None:
    plan = _plan(epochs=5, draws=5, batch_size=5)
    sweep = sweep_of(plan)
    errors = (0.28, 0.29, 0.30, 0.41, 0.42)  # of the first epoch, which is the first rung
    tracker, unpruned = sweep.tracker, [shape for shape in plan.shapes.every() if shape[-1] == "none"]
    for number, (shape, error) in enumerate(zip(unpruned, errors, strict=False), 1):
        cell = plan.error_cell(shape)
        trial = plan.search_trial(cell, number)
        tracker.plan_trial(trial_id=trial.trial_id, run_name="r", params={}, tags={"stage": "search", "batch": "1",
                           "arm": trial.arm, "cell": json.dumps(cell)})  # fmt: skip
        epochs = {4: 1, 5: 0}.get(number, 5)  # the last two have not ended
        for epoch in range(1, epochs + 1):
            metrics = {"loss/val_mse": error, "time/train_s": 2.0}
            tags = {"timing_valid": "false", "gpu_uuid": "GPU-a", "diagnosis": f"{epoch} of {epochs}"}
            tracker.log_epoch(trial_id=trial.trial_id, epoch=epoch, metrics=metrics, timestamp_ms=1, tags=tags)
        if number < 4:
            tracker.end_trial(trial_id=trial.trial_id, status="done", reason="", metrics={"final/val_mse": error},
                              tags={}, model_dir=None)  # fmt: skip
    sweep.folder.save_checkpoint("full-search-004-s1", "/kept/checkpoint_000000")
    asked.may_end = lambda trial: False
    assert sweep.run() is None
    log = tracker.trials["full-search-004-s1"]
    assert (log.status, log.reason) == (
        "stopped",
        "stopped after epoch 1 by ASHA: validation MSE 0.41 is not in the best third of the 4 trials seen there, and "
        "more than 1% above the best of them, 0.28",
    )
    assert log.metrics["final/val_mse"] == 0.41 and log.metrics["final/median_epoch_s"] == 2.0
    assert log.tags.items() >= {"timing_valid": "false", "gpu_uuid": "GPU-a", "diagnosis": "1 of 1"}.items()
    (end,) = (record for record in map(json.loads, sweep.folder.outbox.read_text().splitlines())
              if record["kind"] == "end" and record["trial_id"] == "full-search-004-s1")  # fmt: skip
    assert end["samples_dir"] == "/kept/checkpoint_000000/samples"
    assert asked.trained == [["full-search-005-s1"]]  # the trial that had not begun
    assert "full-search-004-s1 stopped: stopped after epoch 1" in sweep.said.getvalue()
