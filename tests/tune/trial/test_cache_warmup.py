"""A process that hands over fills the caches for all epochs, and changes nothing that is trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from trial_kit import Recorder, run_small, small_config, small_job

from tune.engine.compiled import CompiledStepper, compiled_afresh
from tune.engine.step import Stepper
from tune.trial import compile_cache
from tune.trial.job import ALONE, GATE, TRAINING, HandOver, Host
from tune.trial.pruner import Pruner
from tune.trial.run import run_trial
from tune.trial.session import Session, heads_per_layer

ONE_SHOT: dict[str, Any] = {
    "train__epochs": 3, "train__batch_size": 1024, "pruning__score": "taylor", "pruning__heads_per_layer": 2,
}  # fmt: skip
GRADUAL = ONE_SHOT | {"train__epochs": 6, "pruning__heads_per_layer": 3, "pruning__schedule": "gradual"}


@pytest.fixture(autouse=True)
def _as_in_a_process_that_compiled_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in compile_cache.FOLDERS:
        monkeypatch.setenv(variable, "before")
    _forget()


def _forget() -> None:
    import torch._dynamo.utils

    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Heads of each model that a stepper was built and warmed up for."""
    heads: list[int] = []
    build = Session._build_stepper

    def noting(self: Session) -> Stepper:
        stepper = build(self)
        heads.append(len(heads_per_layer(self.state.model)[0]))
        return stepper

    monkeypatch.setattr(Session, "_build_stepper", noting)
    return heads


def _process(folder: Path, name: str, host: Host = ALONE, checkpoint: Path | None = None, **fields: Any) -> Recorder:
    """Run one process of a trial that may hand over. Raises HandOver if it does."""
    recorder = Recorder(folder / name)
    recorder.folder.mkdir()
    changes = {"gate_dir": str(folder / "gate"), "compile_dir": str(folder / "compile"), "may_hand_over": True}
    run_trial(replace(small_job(folder, **fields), **changes), recorder, checkpoint, host)
    return recorder


def _gated(folder: Path, fields: dict[str, Any]) -> Recorder:
    """The same trial without a hand-over. Afterwards the gate's verdict is cached."""
    return run_small(folder / "before", gate_dir=folder / "gate", **fields)


def test_later_shapes_are_warmed_up_once_by_a_process_that_trains_nothing(tmp_path: Path, built: list[int]) -> None:
    alone = _gated(tmp_path, GRADUAL)
    with pytest.raises(HandOver):
        _process(tmp_path, "first", **GRADUAL)
    assert built == [4, 2, 1] * 2 and not list((tmp_path / "first").iterdir())
    trained = _process(tmp_path, "second", Host(cache_warmup_s=1.0), **GRADUAL)
    again = _process(tmp_path, "third", **GRADUAL)  # raises nothing: the shapes are on record
    for run in (trained, again):
        assert run.final["metrics"]["final/test_mse"] == alone.final["metrics"]["final/test_mse"]
        ours, theirs = (each.weights(len(each.reports) - 1) for each in (run, alone))
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_another_batch_size_is_warmed_up_anew_and_another_score_is_not(tmp_path: Path) -> None:
    with pytest.raises(HandOver):
        _process(tmp_path, "first", **ONE_SHOT)
    another_score = _process(tmp_path, "second", **ONE_SHOT | {"pruning__score": "random"})
    assert another_score.final["status"] == "done"
    smaller = ONE_SHOT | {"train__batch_size": 512}
    run_small(tmp_path / "gated", gate_dir=tmp_path / "gate", **smaller)
    with pytest.raises(HandOver):
        _process(tmp_path, "third", **smaller)


def test_a_trial_that_continues_after_its_pruning_has_nothing_left_to_warm_up(tmp_path: Path, built: list[int]) -> None:
    alone = _gated(tmp_path, ONE_SHOT)
    built.clear()
    rest = _process(tmp_path, "rest", checkpoint=tmp_path / "before" / "report-2", **ONE_SHOT)
    assert rest.final["metrics"]["final/test_mse"] == alone.final["metrics"]["final/test_mse"]
    assert built == [2]


def test_after_a_warm_up_nothing_is_compiled_afresh_though_heads_leave_in_the_middle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def known(self: Session) -> None:  # as it is for an arm's second trial; measuring would compile for a minute
        self.proof.tags["gate_verdict"] = "cached"

    def in_part(self: CompiledStepper, function: Any) -> Any:  # a quarter of what there is to compile
        pruned = len(heads_per_layer(self.model)[0]) == 2
        return compiled(self, function) if pruned and function.__name__ == "loss" else function

    compiled = CompiledStepper._compiled
    monkeypatch.setattr(CompiledStepper, "_compiled", in_part)
    monkeypatch.setattr(Session, "pass_gate", known)
    fields = ONE_SHOT | {"train__engine": "compile", "model__head_dropout": 0.2}
    with pytest.raises(HandOver):
        _process(tmp_path, "first", **fields)
    assert compiled_afresh()  # so the check below can fail
    _forget()
    trained = _process(tmp_path, "second", Host(cache_warmup_s=1.0), **fields)
    assert [report["metrics"]["model/heads"] for report in trained.epochs] == [4, 2, 2]
    assert (trained.final["status"], trained.final["tags"]["compiled_afresh"]) == ("done", "false"), trained.final


@pytest.mark.parametrize("epochs", [1, 2, 7, 20])
@pytest.mark.parametrize("schedule", ["one_shot", "gradual"])
def test_the_heads_that_are_left_are_known_before_the_scores(schedule: str, epochs: int) -> None:
    pruner = _pruner(epochs, score="random", schedule=schedule, heads_per_layer=3)
    every = pruner.heads_after(1, 4)
    assert all(1 < epoch <= epochs for epoch in every)
    assert [*pruner.heads_at_ends(4)[:1], *every.values()][-1] == 1  # all are gone in the end, and by and by
    assert list(every.values()) == sorted(set(every.values()), reverse=True)
    for epoch in range(1, epochs + 1):
        assert pruner.heads_after(epoch, 4) == {at: heads for at, heads in every.items() if at > epoch}


@pytest.mark.parametrize("fields", [{}, {"score": "static", "heads": [1]}, {"as_published": "zeroed", "heads": [1]}])
def test_if_no_head_leaves_after_the_first_epoch_there_are_no_later_shapes(fields: dict[str, Any]) -> None:
    assert _pruner(9, **fields).heads_after(1, 4) == {}


def _pruner(epochs: int, **fields: Any) -> Pruner:
    config = small_config(**{f"pruning.{name}": value for name, value in fields.items()})
    return Pruner(config.pruning, epochs=epochs, seed=1)


@pytest.mark.parametrize("part", [GATE, TRAINING])
def test_a_part_of_a_warm_up_fills_the_caches_for_that_part_and_trains_nothing(
    tmp_path: Path, part: str, built: list[int]
) -> None:
    job = replace(
        small_job(tmp_path, **ONE_SHOT), warm_up=part, gate_dir=str(tmp_path / "gate"),
        compile_dir=str(tmp_path / "compile"), exclusive=False,
    )  # fmt: skip
    recorder = Recorder(tmp_path)
    with pytest.raises(HandOver):
        run_trial(job, recorder)
    assert recorder.reports == []
    assert len(list((tmp_path / "gate").glob("*.json"))) == (2 if part == GATE else 0)  # all heads, and those left
    assert built == ([] if part == GATE else [4, 2])


def test_a_trial_after_both_parts_needs_no_second_process(tmp_path: Path) -> None:
    for part in (TRAINING, GATE):
        job = small_job(tmp_path, **ONE_SHOT)
        job = replace(job, warm_up=part, gate_dir=str(tmp_path / "gate"), compile_dir=str(tmp_path / "compile"))
        with pytest.raises(HandOver):
            run_trial(job, Recorder(tmp_path))
    trained = _process(tmp_path, "trained", **ONE_SHOT)
    assert trained.final["status"] == "done" and trained.final["tags"]["gate_verdict"] == "cached"
