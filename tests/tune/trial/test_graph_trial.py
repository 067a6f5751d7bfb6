"""A complete trial with the graph engine: pruning, interruption, evaluation. A tape stands for the CUDA graph."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from capture_kit import RECORDED, RecordingCapture
from trial_kit import Recorder
from trial_kit import run_small as _run

from tune.engine import ENGINES, Engine
from tune.trial import checkpoint, session

GRADUAL = {"pruning__score": "taylor", "pruning__schedule": "gradual", "pruning__heads_per_layer": 2}
ONE_CYCLE = {"train__schedule": "one_cycle", "train__pct_start": 0.4}
SHORT = {"train__epochs": 3, "train__batch_size": 1024, "model__head_dropout": 0.2}


@dataclass(frozen=True, kw_only=True)
class TapeEngine(Engine):
    """The graph engine without a GPU."""

    captures: list[RecordingCapture] = field(default_factory=list)

    def build(self, model: Any, optimizer: Any, **options: Any) -> Any:
        stepper: Any = super().build(model, optimizer, **options)
        if isinstance(optimizer, torch.optim.Adam):  # not the gate's, which only records
            self.captures.append(stepper.capture)
        return stepper


@pytest.fixture
def tape(monkeypatch: pytest.MonkeyPatch) -> TapeEngine:
    def fused(model: Any, *, learning_rate: float) -> torch.optim.Optimizer:
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        return torch.optim.Adam(trained, lr=learning_rate, fused=True)

    engine = TapeEngine(**vars(RECORDED))
    monkeypatch.setitem(ENGINES, "graph", engine)
    monkeypatch.setattr(session, "make_optimizer", fused)
    monkeypatch.setattr(checkpoint, "make_optimizer", fused)
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    return engine


def _assert_close(ours: Recorder, theirs: Recorder, first: int, second: int) -> None:
    """Equal but for the learning rate's last bits: a graph reads it as float32."""
    mine, other = ours.weights(first), theirs.weights(second)
    for name in mine:
        if not name.endswith("k_proj.bias"):  # its true gradient is zero: Adam makes a step of its rounding
            torch.testing.assert_close(mine[name], other[name], rtol=1e-5, atol=1e-6)
    for name in ("final/test_mse", "final/val_mse", "final/best_epoch", "final/heads"):
        assert ours.final["metrics"][name] == pytest.approx(theirs.final["metrics"][name], rel=1e-6)


def _assert_equal(ours: Recorder, theirs: Recorder, first: int, second: int) -> None:
    mine, other = ours.weights(first), theirs.weights(second)
    assert mine.keys() == other.keys()
    assert all(torch.equal(mine[name], other[name]) for name in mine)
    for name in ("final/test_mse", "final/val_mse", "final/best_epoch", "final/heads"):
        assert ours.final["metrics"][name] == theirs.final["metrics"][name]


@pytest.mark.parametrize("feed", ["device", "arrow"])
@pytest.mark.parametrize("fields", [{}, GRADUAL, ONE_CYCLE], ids=["unpruned", "gradual", "one_cycle"])
def test_a_trial_trains_as_with_the_eager_engine(
    tmp_path: Path, tape: TapeEngine, fields: dict[str, Any], feed: str
) -> None:
    eager = _run(tmp_path / "e", **SHORT, **fields)
    graph = _run(tmp_path / "g", **SHORT, **fields, train__engine="graph", data__feed=feed)
    assert graph.final["status"] == "done", graph.final
    _assert_close(graph, eager, 3, 3)
    assert len(tape.captures) == (2 if fields is GRADUAL else 1)
    assert [capture.released for capture in tape.captures[:-1]] == [1] * (len(tape.captures) - 1)


@pytest.mark.parametrize("fields", [GRADUAL, ONE_CYCLE], ids=["gradual", "one_cycle"])
def test_an_interrupted_trial_captures_again_and_continues_to_bit_identical_weights(
    tmp_path: Path, tape: TapeEngine, fields: dict[str, Any]
) -> None:
    options = SHORT | fields | {"train__engine": "graph"}
    full = _run(tmp_path / "full", **options)
    with pytest.raises(KeyboardInterrupt):
        _run(tmp_path / "part", stop_after=1, **options)
    rest = _run(tmp_path / "rest", checkpoint=tmp_path / "part" / "report-1", **options)
    _assert_equal(rest, full, 2, 3)


def test_a_trial_begun_with_one_engine_continues_with_another(tmp_path: Path, tape: TapeEngine) -> None:
    full = _run(tmp_path / "full", **SHORT)
    with pytest.raises(KeyboardInterrupt):
        _run(tmp_path / "part", stop_after=1, **SHORT, train__engine="graph")
    rest = _run(tmp_path / "rest", checkpoint=tmp_path / "part" / "report-1", **SHORT)
    _assert_close(rest, full, 2, 3)


def test_without_a_gpu_the_graph_engine_is_unsupported_and_nothing_else_runs_instead(tmp_path: Path) -> None:
    done = _run(tmp_path / "a", train__engine="graph")
    assert (done.final["status"], len(done.reports)) == ("unsupported", 1)
    assert "which a CPU has none of; use compile or eager" in done.final["reason"]
    assert ENGINES["eager"].unsupported_reason(device_type="cpu") is None
