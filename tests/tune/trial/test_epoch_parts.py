"""The parts of an epoch add up with every engine and feed that a CPU runs. The clock moves only where the test says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from capture_kit import RECORDED
from trial_kit import run_small

from benchmarks import parts
from data_pipeline.feed import FEEDS
from tune.engine import ENGINES
from tune.engine.step import Stepper
from tune.measure import timer
from tune.trial import checkpoint, session

STEP_S, FETCH_S = 1.0, 0.5
CASES = [
    ("eager", "device", 0), ("eager", "arrow", 0), ("eager", "arrow", 2), ("eager", "tsfm", 0),
    ("compile", "device", 0), ("graph", "device", 0), ("graph", "arrow", 0),
    ("eager", "pinned", 0), ("eager", "mapped", 0),
]  # fmt: skip


class Clock:
    """Stands in for the module time in tune.measure.timer."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def perf_counter(self) -> float:
        return self.now_s


def _fused(model: Any, *, learning_rate: float) -> torch.optim.Optimizer:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.Adam(trained, lr=learning_rate, fused=True)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Fetching a training batch takes FETCH_S and training on it STEP_S, with whichever engine and feed."""
    fake = Clock()
    monkeypatch.setattr(timer, "time", fake)
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    for stepper in (Stepper, *_subclasses(Stepper)):
        if "step" in vars(stepper):
            monkeypatch.setattr(stepper, "step", _slow_step(fake, vars(stepper)["step"]))
        if "batches" in vars(stepper):
            monkeypatch.setattr(stepper, "batches", _slow_batches(fake, vars(stepper)["batches"]))
    return fake


def _subclasses(kind: type) -> Iterator[type]:
    import tune.engine.graph  # noqa: F401 (its steppers)

    for child in kind.__subclasses__():
        yield child
        yield from _subclasses(child)


def _slow_step(clock: Clock, step: Any) -> Any:
    def slow(self: Any, batch: Any) -> None:
        step(self, batch)
        clock.now_s += STEP_S

    return slow


def _slow_batches(clock: Clock, batches: Any) -> Any:
    def slow(self: Any, feed: Any, epoch: int) -> Iterator[Any]:
        for batch in batches(self, feed, epoch):
            clock.now_s += FETCH_S
            yield batch

    return slow


@pytest.mark.parametrize(("engine", "feed", "workers"), CASES, ids=lambda value: str(value))
def test_every_second_of_an_epoch_is_in_the_part_that_it_was_spent_in(
    engine: str, feed: str, workers: int, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    if engine == "graph":
        monkeypatch.setitem(ENGINES, "graph", RECORDED)
        for module in (session, checkpoint):
            monkeypatch.setattr(module, "make_optimizer", _fused)
    done = run_small(
        tmp_path / "t", train__epochs=1, train__batch_size=1024, train__engine=engine, data__feed=feed,
        data__num_workers=workers,
    )  # fmt: skip
    assert done.final["status"] == "done", done.final
    metrics = done.epochs[0]["metrics"]
    steps = round(metrics["time/train_s"] / (STEP_S + FETCH_S))
    assert steps >= 2
    in_step = feed == "device"  # its gather is a part of the step
    assert metrics["time/step_s"] == pytest.approx(steps * (STEP_S + in_step * FETCH_S))
    assert metrics["time/data_wait_s"] == pytest.approx(0 if in_step else steps * FETCH_S)
    assert [metrics[f"time/{part}_s"] for part in ("h2d", "launch", "other")] == pytest.approx([0, 0, 0])
    assert metrics["time/unexplained_pct"] == pytest.approx(0)


def test_the_cases_have_every_engine_and_every_feed() -> None:
    assert {engine for engine, _, _ in CASES} == set(ENGINES)
    assert {feed for _, feed, _ in CASES} == set(FEEDS)
    assert {name for name, _ in parts.FEEDS.values()} == set(FEEDS)


def _reports(*epochs: dict[str, float], status: str = "done", reason: str | None = None) -> list[dict[str, Any]]:
    last = {"status": status, "reason": reason, "metrics": {}, "tags": {"diagnosis": "a line"}}
    return [*({"metrics": metrics} for metrics in epochs), last]


def _epoch(unexplained_pct: float) -> dict[str, float]:
    shares = dict.fromkeys(("step", "h2d", "data_wait", "launch", "other"), 0.4)
    return {f"time/{part}_s": share for part, share in shares.items()} | {
        "time/train_s": 2.0, "time/unexplained_pct": unexplained_pct
    }  # fmt: skip


@pytest.mark.parametrize(
    ("reports", "holds"),
    [
        (_reports(_epoch(0.1), _epoch(1.9)), True),
        (_reports(_epoch(2.5), _epoch(0.1)), False),  # one epoch is enough
        (_reports(status="unsupported", reason="no GPU"), True),
        (_reports(_epoch(0.1), status="oom", reason="no memory"), False),
    ],
)
def test_the_benchmark_fails_on_any_epoch_that_does_not_add_up(reports: list[dict[str, Any]], holds: bool) -> None:
    assert parts.as_row("eager", "device", reports).holds is holds


def test_the_benchmark_runs_dry_on_a_cpu_and_its_exit_code_says_what_it_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["data.context_length=48", "data.prediction_length=24", "model.d_model=16", "model.num_heads=4"]
    arguments = ["--engines", "eager", "graph", "--feeds", "device", "--epochs", "1", "--batch", "1024"]
    target = tmp_path / "parts.json"
    code = parts.main([*arguments, *(word for item in small for word in ("--set", item)), "--json", str(target)])
    lines = capsys.readouterr().out.splitlines()
    assert "unsupported" in lines[-1] and "graph" in lines[-1]
    assert lines[-2].split()[:2] == ["eager", "device"]
    assert code == int("THE PARTS DO NOT ADD UP" in lines[-2])
    assert "on a CPU" in target.read_text() or code == 1
