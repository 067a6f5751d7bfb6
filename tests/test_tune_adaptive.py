"""From a search's records to its final: who goes on, what a restart has left, and a search without a result."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from tune.adaptive import drawn, final_plan, trials_left
from tune.finalists import FINALISTS
from tune.hardware import DeviceFacts
from tune.outbox import TrialLog
from tune.space import Labels, SearchPlan, plan_sweep
from tune.sweeps import get_sweep

CPU = DeviceFacts(device_type="cpu", name="some CPU")


class FakeTracker:
    """What the outbox holds of a search."""

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
    found = plan_sweep(
        replace(full, space=space), draws=6, overrides={"data.dataset": "demo"}, repeats=2, seed=1, device=CPU
    )
    assert isinstance(found, SearchPlan)
    return found


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
    assert sorted(trial.seed for trial in runnable) == [1] * 4 + [2] * 4
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
    assert "its one cell is the baseline itself" in capsys.readouterr().err


def test_a_search_in_which_every_trial_failed_has_no_final_and_says_why(
    plan: SearchPlan, capsys: pytest.CaptureFixture[str]
) -> None:
    final = final_plan(plan, _search(plan, ("oom", 0.3, 1.0), ("failed", 0.3, 1.0), ("oom", 0.3, 1.0)), quiet=True)
    assert final.runnable == ()
    said = capsys.readouterr().err
    assert said == "no trial of the search gave a result to compare, there is no final: oom because; failed because\n"


def test_what_is_left_counts_both_stages(plan: SearchPlan) -> None:
    whole = plan.draws + plan.repeats * (1 + FINALISTS)
    assert trials_left(plan, _search(plan)) == whole
    tracker = _search(plan, ("done", 0.3, 1.0), ("stopped", 0.3, 1.0), (None, 0.3, 1.0))
    assert trials_left(plan, tracker) == whole - 2
    tracker.trials["full-baseline-s1"] = TrialLog(tags={"stage": "final"}, status="done")
    assert trials_left(plan, tracker) == whole - 3
