"""Optuna's proposals: only cells that can run, each once, in a study that a restart rebuilds."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.tune.search import Searcher

from tune.config.sweeps import get_sweep
from tune.driver.optuna_searcher import OptunaSearcher
from tune.machine.device import DeviceFacts
from tune.plan.plan import PlannedTrial
from tune.plan.space import Labels, SearchPlan, plan_sweep
from tune.storage.trial_log import TrialLog

CPU = DeviceFacts(device_type="cpu", name="some CPU")
FULL = get_sweep("full")


def _plan(seed: int = 1, draws: int = 12, **dimensions: int) -> SearchPlan:
    """The full sweep with the given number of choices of each named dimension, and one of each other."""
    space = {name: choices[: dimensions.get(name, 1)] for name, choices in FULL.space.items()}
    overrides = {"data.dataset": "demo", "data.context_length": 96, "data.prediction_length": 24}
    sweep = replace(FULL, space=space)
    plan = plan_sweep(sweep, draws=draws, overrides=overrides, repeats=1, seed=seed, device=CPU)
    assert isinstance(plan, SearchPlan)
    return plan


class Study:
    """A search without Tune: every proposal ends at once, with a made-up error."""

    def __init__(self, plan: SearchPlan, logs: dict[str, TrialLog] | None = None) -> None:
        self.plan, self.logs = plan, logs or {}
        self.drawn: dict[str, Labels] = {}
        self.trials: dict[str, PlannedTrial] = {}
        self.searcher = self.start()

    def start(self) -> OptunaSearcher:
        past = {trial_id: (labels, self.logs[trial_id]) for trial_id, labels in self.drawn.items()}
        return OptunaSearcher(self.plan, past=past, logs=lambda: self.logs, start=self._start)

    def _start(self, trial: PlannedTrial, labels: Labels) -> dict[str, Any]:
        self.drawn[trial.trial_id], self.trials[trial.trial_id] = labels, trial
        self.logs.setdefault(trial.trial_id, TrialLog())
        return {"trial_id": trial.trial_id}

    def suggest(self, number: int) -> str | None:
        suggestion = self.searcher.suggest(f"tune{number}")
        return None if suggestion == Searcher.FINISHED else suggestion["job"]["trial_id"]

    def run(self, count: int, *, first: int = 0) -> list[str]:
        """The ids of the proposed trials, each ended."""
        proposed = []
        for number in range(first, first + count):
            trial_id = self.suggest(number)
            if trial_id is None:
                break
            proposed.append(trial_id)
            val_mse = 1 + len("".join(self.drawn[trial_id])) / 100
            self.logs[trial_id].epochs[1] = {"loss/val_mse": val_mse}
            self.logs[trial_id].status = "done"
            self.searcher.on_trial_complete(f"tune{number}")
        return proposed


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31 - 2), st.integers(1, 4), st.integers(1, 5), st.integers(1, 3))
def test_no_cell_that_cannot_run_is_proposed_and_none_twice(seed: int, backends: int, patches: int, arms: int) -> None:
    study = Study(_plan(seed, attention=backends, patch_length=patches, pruning=arms, loader=2))
    proposed = study.run(12)
    assert {study.trials[trial_id].unsupported for trial_id in proposed} == {None}
    drawn = [study.drawn[trial_id] for trial_id in proposed]
    assert len(set(drawn)) == len(drawn)
    assert len(drawn) == min(12, study.plan.space.cells)
    assert set(drawn) <= set(study.plan.space.every())


def test_trials_are_numbered_as_they_are_proposed() -> None:
    study = Study(_plan(batch_size=5, patch_length=3))
    assert study.run(3) == ["full-search-001-s1", "full-search-002-s1", "full-search-003-s1"]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_baseline_runs_first_once_and_not_again_after_a_restart(seed: int) -> None:
    study = Study(_plan(seed, batch_size=5, patch_length=3, loader=6))
    study.run(3)
    baseline = study.plan.baseline_cell
    assert baseline is not None and next(iter(study.drawn.values())) == baseline
    assert next(iter(study.drawn)) == study.plan.baseline_trial
    study.searcher = study.start()
    study.run(3, first=10)
    assert list(study.drawn.values()).count(baseline) == 1 and len(study.drawn) == 6


def test_a_search_whose_space_lacks_the_baseline_draws_from_the_beginning() -> None:
    study = Study(_plan(batch_size=1))
    assert study.plan.baseline_cell is None
    assert study.run(3) == ["full-search-001-s1"]


def test_a_search_ends_when_no_cell_is_left() -> None:
    study = Study(_plan(batch_size=5))
    assert len(study.run(12)) == 5
    assert study.suggest(99) is None
    assert not study.searcher.has_more


def test_cells_that_compute_the_same_run_once() -> None:
    plan = _plan(pruning=9)
    once = replace(
        plan, overrides={**plan.overrides, "train.epochs": 1}
    )  # with one epoch, one_shot and gradual are the same
    labels = ["-".join(labels) for labels in Study(once).plan.space.every()]
    assert len(labels) == 9 and sum("random" in label for label in labels) == 8
    assert len(Study(once).run(12)) == 5


def test_the_same_seed_proposes_the_same_cells_and_another_one_others() -> None:
    def drawn(seed: int) -> list[Labels]:
        study = Study(_plan(seed, batch_size=5, patch_length=3, loader=6))
        study.run(8)
        return list(study.drawn.values())

    assert drawn(1) == drawn(1) != drawn(2)


def test_a_restart_knows_every_ended_trial_and_goes_on_with_the_unfinished_ones_first() -> None:
    study = Study(_plan(batch_size=5, patch_length=3))
    study.run(4)
    interrupted = [study.suggest(10), study.suggest(11)]
    before = dict(study.drawn)
    study.searcher = study.start()
    recalled = study.searcher._study.get_trials(deepcopy=False)
    assert [trial.state for trial in recalled] == [optuna.trial.TrialState.COMPLETE] * 4
    assert [trial.value for trial in recalled] == [
        study.logs[trial_id].epochs[1]["loss/val_mse"] for trial_id in list(before)[:4]
    ]
    assert [
        set(trial.params.values()) <= set(before[trial_id]) for trial, trial_id in zip(recalled, before, strict=False)
    ]
    assert study.run(2, first=20) == interrupted
    assert list(study.drawn.items())[:6] == list(before.items())
    assert study.run(1, first=30) == ["full-search-007-s1"]
    assert len(set(study.drawn.values())) == 7


def test_an_unfinished_trial_goes_on_with_its_own_cell() -> None:
    study = Study(_plan(batch_size=5, patch_length=3))
    trial_id = study.suggest(1)
    assert trial_id is not None
    cell = study.drawn[trial_id]
    study.searcher = study.start()
    assert study.suggest(2) == trial_id
    assert study.drawn[trial_id] == cell
    running = study.searcher._study.get_trials(deepcopy=False)[-1]
    assert running.state == optuna.trial.TrialState.RUNNING
    assert set(running.params.values()) <= set(cell) and len(running.params) == 2


@pytest.mark.parametrize("status", ["failed", "oom", "nan", "failed_gate", "unsupported"])
def test_a_failed_trial_is_reported_as_failed_and_does_not_end_the_search(status: str) -> None:
    study = Study(_plan(batch_size=5))
    trial_id = study.suggest(1)
    assert trial_id is not None
    study.logs[trial_id].epochs[1] = {"loss/val_mse": 0.1}
    study.logs[trial_id].status = status
    study.searcher.on_trial_complete("tune1")
    assert [trial.state for trial in study.searcher._study.get_trials()] == [optuna.trial.TrialState.FAIL]
    study.searcher = study.start()
    assert [trial.state for trial in study.searcher._study.get_trials()] == [optuna.trial.TrialState.FAIL]
    assert len(study.run(9, first=2)) == 4


def test_a_trial_whose_process_was_lost_for_good_is_reported_as_failed() -> None:
    study = Study(_plan(batch_size=5))
    study.suggest(1)
    study.searcher.on_trial_complete("tune1", error=True)
    assert [trial.state for trial in study.searcher._study.get_trials()] == [optuna.trial.TrialState.FAIL]


def test_several_trials_may_run_at_a_time() -> None:
    study = Study(_plan(batch_size=5))
    assert len({study.suggest(number) for number in range(5)}) == 5
    assert study.suggest(6) is None


def test_tune_pickles_and_saves_nothing_of_it(tmp_path: Path) -> None:
    searcher = Study(_plan(batch_size=5)).searcher
    assert pickle.loads(pickle.dumps(searcher)).__dict__ == {}
    searcher.save(str(tmp_path / "state"))
    assert list(tmp_path.iterdir()) == []
