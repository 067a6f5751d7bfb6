"""An interrupted trial continues: with the same weights to the last bit, and with its past on record."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from trial_kit import GRADUAL, ONE_CYCLE
from trial_kit import run_small as _run

from tune.measure.gpu_meter import GpuMeter
from tune.trial import session
from tune.trial.host_copy import HostCopy


@pytest.mark.parametrize("pruning", [{}, GRADUAL, ONE_CYCLE], ids=["unpruned", "gradual", "one_cycle"])
@pytest.mark.parametrize("stop_after", [1, 2, 3])
def test_an_interrupted_trial_continues_to_bit_identical_weights(
    tmp_path: Path, stop_after: int, pruning: dict[str, Any]
) -> None:
    full = _run(tmp_path / "full", train__epochs=4, **pruning)
    with pytest.raises(KeyboardInterrupt):
        _run(tmp_path / "part", stop_after=stop_after, train__epochs=4, **pruning)
    rest = _run(tmp_path / "rest", checkpoint=tmp_path / "part" / f"report-{stop_after}", train__epochs=4, **pruning)
    assert [report["epoch"] for report in rest.epochs] == list(range(stop_after + 1, 5))
    for mine, theirs in ((rest.weights(4 - stop_after), full.weights(4)),):
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    for name in ("final/test_mse", "final/val_mse", "final/best_epoch", "final/heads"):
        assert rest.final["metrics"][name] == full.final["metrics"][name]


def test_a_checkpoint_that_came_from_the_device_in_one_copy_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def apart(self: Any, device: Any) -> None:
        real(self, torch.device("cuda"))

    def load(folder: Path, number: int) -> list[dict[str, torch.Tensor]]:
        files = ("model/model.safetensors", "moments.safetensors")
        return [load_file(folder / f"report-{number}" / file) for file in files]

    _run(tmp_path / "direct", train__epochs=2, **GRADUAL)
    real = HostCopy.__init__
    monkeypatch.setattr(HostCopy, "__init__", apart)
    monkeypatch.setattr("tune.trial.host_copy._pinned", lambda elements, dtype: torch.empty(elements, dtype=dtype))
    _run(tmp_path / "copied", train__epochs=2, **GRADUAL)
    for number in (1, 2):
        for direct, copied in zip(load(tmp_path / "direct", number), load(tmp_path / "copied", number), strict=True):
            assert direct.keys() == copied.keys() and len(direct) > 10
            assert all(torch.equal(direct[name], copied[name]) for name in direct)


def test_the_best_weights_survive_interruptions_after_it_and_after_a_worse_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = {1: 3.0, 2: 1.0, 3: 2.0, 4: 2.0, 5: 2.0}  # by epoch
    real = session.Session._evaluate

    def scripted(self: Any, split: str, **how: Any) -> Any:
        measured = real(self, split, **how)
        mse = errors[self.progress.epoch + 1] if split == "validation" else measured["model"].mse
        return measured | {"model": replace(measured["model"], mse=mse, mae=1.0)}

    monkeypatch.setattr(session.Session, "_evaluate", scripted)
    full = _run(tmp_path / "full", train__epochs=5)
    assert full.final["status"] == "done", full.final
    best = full.weights(2)
    checkpoint = None
    for part in range(4):  # each continues where the last was interrupted: after epochs 2, 3, 4
        ran = tmp_path / f"part-{part}"
        with pytest.raises(KeyboardInterrupt) if part < 3 else nullcontext():
            last = _run(ran, checkpoint=checkpoint, stop_after=(2, 1, 1, None)[part], train__epochs=5)
        checkpoint = ran / f"report-{2 if part == 0 else 1}"
    for weights in (full.weights(6), last.weights(2)):
        assert all(torch.equal(weights[name], best[name]) for name in best)
    assert last.final["metrics"]["final/best_epoch"] == 2


def test_the_time_between_two_epochs_is_reported_from_a_processs_second_epoch_on(tmp_path: Path) -> None:
    done = _run(tmp_path / "a", train__epochs=3)
    first, *later = (report["metrics"] for report in done.epochs)
    assert first["time/between_s"] is None
    assert all(metrics["time/between_s"] > 0 for metrics in later)


def test_a_trial_killed_between_its_last_epoch_and_its_end_only_ends(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        _run(tmp_path / "part", stop_after=2, train__epochs=2)
    rest = _run(tmp_path / "rest", checkpoint=tmp_path / "part" / "report-2", train__epochs=2)
    assert rest.epochs == []
    assert rest.final["status"] == "done"


def test_a_trial_that_shared_its_device_says_so_even_if_it_continues_alone(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        _run(tmp_path / "a", stop_after=1, exclusive=False, train__epochs=2)
    rest = _run(tmp_path / "b", checkpoint=tmp_path / "a" / "report-1", train__epochs=2)
    assert rest.final["tags"]["timing_valid"] == "false"


@pytest.mark.parametrize("recorded", [True, False])
def test_a_trial_that_continues_knows_what_its_earlier_process_took_if_that_was_recorded(
    tmp_path: Path, recorded: bool
) -> None:
    with pytest.raises(KeyboardInterrupt):
        _run(tmp_path / "a", stop_after=1, train__epochs=2)
    file = tmp_path / "a" / "report-1" / "state.pt"
    state = torch.load(file, weights_only=True)
    spent_ms = state.pop("spent_ms")
    if not recorded:  # as an earlier version wrote it
        torch.save(state, file)
    rest = _run(tmp_path / "b", checkpoint=file.parent, train__epochs=2)
    assert spent_ms > 0
    assert json.loads(rest.final["tags"]["spans"])["earlier_ms"] == (spent_ms if recorded else None)


def test_a_trial_that_continued_on_another_gpu_pairs_with_neither_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def on(uuid: str) -> None:
        def begin(self: Any, device: Any) -> None:
            real(self, device)
            self.uuid = uuid

        monkeypatch.setattr(GpuMeter, "__init__", begin)

    real = GpuMeter.__init__
    on("GPU-a")
    with pytest.raises(KeyboardInterrupt):
        _run(tmp_path / "first", stop_after=1, train__epochs=2)
    checkpoint = tmp_path / "first" / "report-1"
    uuids = []
    for uuid in ("GPU-a", "GPU-b"):
        on(uuid)
        rest = _run(tmp_path / uuid, checkpoint=checkpoint, train__epochs=2)
        uuids.append(rest.final["tags"]["gpu_uuid"])
    assert uuids == ["GPU-a", "GPU-a then GPU-b"]
