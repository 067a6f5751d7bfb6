"""Schedules are those of torch and of the official PatchTST code, step by step."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch.optim.lr_scheduler import OneCycleLR

from tune.engine.lr import LR_SCHEDULES, Rate, Rates, ScheduleSpan


def _span(epochs: int = 6, steps: int = 7, pct_start: float = 0.4) -> ScheduleSpan:
    return ScheduleSpan(learning_rate=1e-4, steps_per_epoch=steps, epochs=epochs, pct_start=pct_start)


def _ours(schedule: str, span: ScheduleSpan) -> list[Rate]:
    return [Rates(schedule=schedule, span=span)(step) for step in range(span.epochs * span.steps_per_epoch)]


def _official(lradj: str, span: ScheduleSpan) -> Iterator[Rate]:
    """The rates of exp_main.py's loop: OneCycleLR is always built, and stepped only for `TST`."""
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=span.learning_rate)
    scheduler = OneCycleLR(
        optimizer, steps_per_epoch=span.steps_per_epoch, pct_start=span.pct_start, epochs=span.epochs,
        max_lr=span.learning_rate,
    )  # fmt: skip
    group = optimizer.param_groups[0]
    for epoch in range(1, span.epochs + 1):
        for _ in range(span.steps_per_epoch):
            yield Rate(group["lr"], group["betas"][0])
            optimizer.step()
            if lradj == "TST":
                scheduler.step()
        if lradj == "type3":
            group["lr"] = span.learning_rate * (1 if epoch < 3 else 0.9 ** (epoch - 3))


@pytest.mark.parametrize("pct_start", [0.0, 0.2, 0.4, 0.9])
@pytest.mark.parametrize(("epochs", "steps"), [(1, 1), (1, 2), (3, 5), (10, 13)])
def test_one_cycle_is_torchs_in_every_step_with_its_momentum(pct_start: float, epochs: int, steps: int) -> None:
    span = _span(epochs, steps, pct_start)
    assert _ours("one_cycle", span) == list(_official("TST", span))


def test_a_rise_of_one_step_starts_at_the_highest_rate() -> None:
    rates = _ours("one_cycle", _span(1, 5, 0.2))
    assert rates[0] == Rate(1e-4, 0.85)
    assert rates[-1] == Rate(pytest.approx(1e-4 / 25 / 1e4), 0.95)  # type: ignore[arg-type]


def test_type3_is_what_the_official_loop_trains_with() -> None:
    span = _span(epochs=12)
    assert _ours("type3", span) == list(_official("type3", span))
    by_epoch = [rate.learning_rate / 1e-4 for rate in _ours("type3", span)[:: span.steps_per_epoch]]
    assert by_epoch[:6] == pytest.approx([1 / 25, 1, 1, 1, 0.9, 0.81])


def test_constant_is_adam_with_its_defaults() -> None:
    assert set(_ours("constant", _span())) == {Rate(1e-4, 0.9)}


def test_only_one_cycle_moves_beta1() -> None:
    moving = [name for name in LR_SCHEDULES if Rates(schedule=name, span=_span()).beta1_moves]
    assert moving == ["one_cycle"]


@pytest.mark.parametrize("name", LR_SCHEDULES)
def test_no_schedule_leaves_what_adam_allows(name: str) -> None:
    assert all(0 < rate.learning_rate <= 1e-4 and 0 <= rate.beta1 < 1 for rate in _ours(name, _span()))


@pytest.mark.parametrize("name", LR_SCHEDULES)
@pytest.mark.parametrize("pct_start", [0.01, 0.4, 1.0])
def test_a_step_after_the_last_has_the_last_steps_rate(name: str, pct_start: float) -> None:
    """The kernels are proven after training, in a step that the schedule does not have."""
    rates = Rates(schedule=name, span=ScheduleSpan(learning_rate=0.1, steps_per_epoch=3, epochs=2, pct_start=pct_start))
    assert rates(6) == rates(7) == rates(5)
