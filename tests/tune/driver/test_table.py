"""Trials that run for their errors only: which run, and how many at a time."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

from tune.config.sweeps import get_sweep
from tune.driver import table
from tune.machine.gpu_models import gpu_facts
from tune.plan.plan import make_plan


@pytest.mark.parametrize("at_a_time", [8, 1])
def test_trials_that_have_not_ended_are_warmed_up_and_trained_beside_each_other_where_there_is_room(
    at_a_time: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(
        get_sweep("recipe"), overrides={"data.dataset": "demo"}, repeats=2, seed=1, device=gpu_facts("H200")
    )
    first, *others = plan.runnable
    calls: dict[str, Any] = {}
    monkeypatch.setattr(table, "span", lambda *_: nullcontext())
    monkeypatch.setattr(table, "warm_up_together", lambda launcher, plan, left, say: calls.update(warmed=left))
    monkeypatch.setattr(table.error_trials, "at_a_time", lambda launcher, plan: at_a_time)
    monkeypatch.setattr(
        table.error_trials, "train", lambda launcher, collector, plan, left, scheduler: calls.update(beside=left)
    )
    launcher = SimpleNamespace(
        budget=SimpleNamespace(allows=lambda: True), run=lambda left, collector: calls.update(alone=left)
    )
    progress = SimpleNamespace(expect=lambda *_, **given: calls.update(given), say=lambda line: None)
    tracker = SimpleNamespace(ended={first.trial_id: "done"})
    table.run_for_errors(plan, launcher, tracker, progress, None)  # type: ignore[arg-type]
    expected = {"warmed": others, "beside": others} if at_a_time > 1 else {"alone": others}
    assert calls == {"at_a_time": at_a_time} | expected
