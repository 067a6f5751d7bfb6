"""From a search's records to its final: which cells reach it, what a restart runs, and a search without a result."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tune.config.sweeps import get_sweep
from tune.console.progress import Progress
from tune.driver.finalists import FINALISTS
from tune.driver.search import Search, drawn, final_plan, trials_left
from tune.machine.device import DeviceFacts
from tune.plan.space import Labels, SearchPlan, plan_sweep
from tune.storage.sweep_dir import SweepDir
from tune.storage.trial_log import TrialLog
from tune.tracking.tracker import Tracker

CPU = DeviceFacts(device_type="cpu", name="some CPU")


class FakeTracker:
    """The trials of a search as an outbox holds them."""

    def __init__(self) -> None:
        self.trials: dict[str, TrialLog] = {}

    def ended(self, trial_id: str, labels: Labels, status: str | None, val_mse: float, epoch_s: float) -> None:
        tags = {"stage": "search", "cell": json.dumps(labels), "timing_valid": "true"}
        metrics = {"final/val_mse": val_mse, "final/median_epoch_s": epoch_s}
        self.trials[trial_id] = TrialLog(tags=tags, status=status, reason=f"{status} because", metrics=metrics)


@pytest.fixture
def plan() -> SearchPlan:
    full = get_sweep("full")
    space = {name: choices[:3] if name == "batch_size" else choices[:2] for name, choices in full.space.items()}
    search_plan = plan_sweep(
        replace(full, space=space), draws=6, overrides={"data.dataset": "demo"}, repeats=2, seed=1, device=CPU
    )
    assert isinstance(search_plan, SearchPlan)
    return search_plan


def _search(plan: SearchPlan, *ends: tuple[str | None, float, float]) -> Any:
    tracker = FakeTracker()
    for number, (labels, end) in enumerate(zip(plan.space.every(), ends, strict=False), 1):
        tracker.ended(f"full-search-{number:03d}-s1", labels, *end)
    return tracker


def test_the_final_is_the_baseline_and_the_chosen_cells_in_blocks_of_one_seed(plan: SearchPlan) -> None:
    tracker = _search(plan, ("done", 0.300, 3.0), ("done", 0.301, 1.0), ("done", 0.302, 2.0), ("done", 0.303, 9.0))
    final = final_plan(plan, tracker, quiet=True)
    runnable = final.runnable
    cells = [labels for labels, _ in drawn(tracker).values()]
    chosen = {"-".join(cells[index]) for index in (0, 1, 2)}
    assert {trial.arm for trial in runnable} == chosen | {"baseline"}
    assert sorted(trial.seed for trial in runnable) == [2] * 4 + [3] * 4  # 1 is the search's
    assert [arm.label for arm in final.sweep.arms] == ["baseline", *("-".join(cells[index]) for index in (1, 2, 0))]
    assert {trial.trial_id for trial in plan.runnable} < {trial.trial_id for trial in runnable}
    for trial in runnable:
        assert trial.unsupported is None and trial.same_as is None


def test_what_is_unsupported_stays_in_the_plan_of_the_final(plan: SearchPlan) -> None:
    refused = {trial.trial_id for trial in plan.trials if trial.unsupported}
    final = final_plan(plan, _search(plan, ("done", 0.3, 1.0)), quiet=True)
    assert refused and refused == {trial.trial_id for trial in final.trials if trial.unsupported}


def test_a_search_of_the_baseline_alone_has_no_final(plan: SearchPlan, capsys: pytest.CaptureFixture[str]) -> None:
    baseline = dict(plan.sweep.arms[0].changes)
    space = {name: tuple(c for c in choices if c.changes.items() <= baseline.items()) or choices[:1]
             for name, choices in get_sweep("full").space.items()}  # fmt: skip
    same = plan_sweep(
        replace(plan.sweep, space=space), draws=1, overrides=plan.overrides, repeats=1, seed=1, device=CPU
    )
    assert isinstance(same, SearchPlan) and same.space.cells == 1
    tracker = _search(same, ("done", 0.3, 1.0))
    tracker.trials["full-search-001-s1"].reason = ""
    assert final_plan(same, tracker, quiet=True).runnable == ()
    assert "all that ran was the baseline itself" in capsys.readouterr().err


def test_a_search_in_which_every_trial_failed_has_no_final_and_says_why(
    plan: SearchPlan, capsys: pytest.CaptureFixture[str]
) -> None:
    final = final_plan(plan, _search(plan, ("oom", 0.3, 1.0), ("failed", 0.3, 1.0), ("oom", 0.3, 1.0)), quiet=True)
    assert final.runnable == ()
    said = capsys.readouterr().err
    assert said == "no trial of the search gave a result to compare, there is no final: oom because; failed because\n"


def test_a_search_of_two_trials_has_a_final_of_the_one_beside_the_baseline(plan: SearchPlan) -> None:
    tracker, cells = FakeTracker(), [cell for cell in plan.space.every() if cell != plan.baseline_cell]
    assert plan.baseline_cell is not None
    tracker.ended("full-search-001-s1", plan.baseline_cell, "done", 0.5, 1.0)
    tracker.ended("full-search-002-s1", cells[0], "done", 0.6, 2.0)
    final = final_plan(plan, tracker, quiet=True)  # type: ignore[arg-type]
    assert {trial.arm for trial in final.runnable} == {"baseline", "-".join(cells[0])}


@dataclass
class FakeLauncher:
    """Records what it is asked to run."""

    folder: SweepDir
    asked: list[tuple[list[str], int]] = field(default_factory=list)

    def search(self, searcher: Any, scheduler: Any, trials: int, collector: Any) -> None:
        self.asked.append(([trial.trial_id for trial, _ in searcher._waiting], trials))


def test_a_trial_that_was_stopped_when_the_driver_was_killed_is_ended_as_stopped(
    plan: SearchPlan, tmp_path: Path, new_store: str
) -> None:
    overrides = plan.overrides | {"train.epochs": 5}
    search_plan = plan_sweep(plan.sweep, draws=6, overrides=overrides, repeats=2, seed=1, device=CPU)
    assert isinstance(search_plan, SearchPlan) and search_plan.baseline_cell is not None
    cells = [cell for cell in search_plan.space.every() if cell[-1] == "none" and cell != search_plan.baseline_cell]
    store = {"outbox_path": tmp_path / "outbox.jsonl", "tracking_uri": new_store}
    errors = (0.28, 0.29, 0.30, 0.41, 0.42)  # of the first epoch, which is the first rung
    with Tracker(**store, experiment="e", artifact_root=None) as tracker:
        tracker.begin_sweep(sweep_id="s", name="s", tags={}, params={}, files={})
        for number, (labels, error) in enumerate(zip([search_plan.baseline_cell, *cells], errors, strict=False), 1):
            trial_id = f"full-search-{number:03d}-s1"
            tracker.plan_trial(trial_id=trial_id, run_name="r", params={}, tags={"stage": "search",
                               "cell": json.dumps(labels)})  # fmt: skip
            epochs = {4: 1, 5: 0}.get(number, 5)  # the last two have not ended
            for epoch in range(1, epochs + 1):
                metrics = {"loss/val_mse": error, "time/train_s": 2.0}
                tags = {"timing_valid": "true", "gpu_uuid": "GPU-a", "diagnosis": f"{epoch} of {epochs}"}
                tracker.log_epoch(trial_id=trial_id, epoch=epoch, metrics=metrics, timestamp_ms=1, tags=tags)
            if number < 4:
                tracker.end_trial(trial_id=trial_id, status="done", reason="", metrics={"final/val_mse": error},
                                  tags={}, model_dir=None)  # fmt: skip
    folder = SweepDir(tmp_path)
    folder.save_checkpoint("full-search-004-s1", "/kept/checkpoint_000000")
    launcher, said = FakeLauncher(folder), io.StringIO()
    with Tracker(**store, experiment="e", artifact_root=None) as tracker:
        progress = Progress(total=9, epochs=5, stream=said)
        Search(search_plan, tracker, launcher, progress, {}).run(SimpleNamespace())  # type: ignore[arg-type]
        log = tracker.trials["full-search-004-s1"]
    assert (log.status, log.reason) == (
        "stopped",
        "stopped after epoch 1 by ASHA: validation MSE 0.41 is not in the best third of the 4 trials seen there, and "
        "more than 1% above the best of them, 0.28",
    )
    assert log.metrics == {"final/val_mse": 0.41, "final/best_epoch": 1.0, "final/median_epoch_s": 2.0,
                           "final/epoch_all_windows_s": 2.0 * 1633 / 1600, "final/windows_per_epoch": 1600,
                           "final/steps_per_epoch": 25, "final/train_total_s": 2.0}  # fmt: skip
    reported = {"timing_valid": "true", "gpu_uuid": "GPU-a", "diagnosis": "1 of 1"}
    assert log.tags.items() >= reported.items()
    (end,) = (record for record in map(json.loads, folder.outbox.read_text().splitlines())
              if record["kind"] == "end" and record["trial_id"] == "full-search-004-s1")  # fmt: skip
    assert (end["tags"], end["samples_dir"]) == (reported, "/kept/checkpoint_000000/samples")
    assert launcher.asked == [(["full-search-005-s1"], 2)]  # the trial that had not begun, and one not drawn yet
    assert "full-search-004-s1 stopped: stopped after epoch 1" in said.getvalue()


def test_what_is_left_counts_both_stages(plan: SearchPlan) -> None:
    whole = plan.draws + plan.repeats * (1 + FINALISTS)
    assert trials_left(plan, _search(plan)) == whole
    tracker = _search(plan, ("done", 0.3, 1.0), ("stopped", 0.3, 1.0), (None, 0.3, 1.0))
    assert trials_left(plan, tracker) == whole - 2
    tracker.trials["full-baseline-s1"] = TrialLog(tags={"stage": "final"}, status="done")
    assert trials_left(plan, tracker) == whole - 3
