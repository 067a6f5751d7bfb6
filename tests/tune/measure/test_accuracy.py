"""Errors are exact over every element, whatever the batches."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from data_pipeline.feed.batches import Batch
from tune.measure.accuracy import evaluate, naive_forecasts


def _batches(past: torch.Tensor, future: torch.Tensor, size: int) -> list[Any]:
    batches = []
    for start in range(0, len(past), size):
        rows = [min(start + offset, len(past) - 1) for offset in range(size)]
        batches.append(Batch(past=past[rows], future=future[rows], valid=min(size, len(past) - start)))
    return batches


@pytest.mark.parametrize("size", [1, 3, 4, 10, 16])
def test_mse_and_mae_count_every_element_once_whatever_the_batch_size(size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    past, future = torch.randn(10, 6, 2, generator=generator), torch.randn(10, 3, 2, generator=generator)
    errors = evaluate({"zero": lambda x: torch.zeros(len(x), 3, 2)}, _batches(past, future, size))["zero"]
    assert errors.mse == pytest.approx(future.double().square().mean().item(), rel=1e-12)
    assert errors.mae == pytest.approx(future.double().abs().mean().item(), rel=1e-12)


def test_no_window_is_an_error_and_not_a_zero() -> None:
    with pytest.raises(ValueError, match="no window"):
        evaluate({"zero": lambda x: x}, [])


@pytest.mark.parametrize("size", [1, 3, 16])
def test_filled_targets_count_in_no_error_and_are_counted(size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    past, future = torch.randn(10, 6, 2, generator=generator), torch.randn(10, 3, 2, generator=generator)
    observed = torch.rand(10, 3, 2, generator=generator) > 0.3
    observed[4] = False
    batches = _batches(past, future, size)
    for start, batch in zip(range(0, 10, size), batches, strict=True):
        rows = [min(start + offset, 9) for offset in range(size)]
        object.__setattr__(batch, "observed", observed[rows])
    errors = evaluate({"zero": lambda x: torch.zeros(len(x), 3, 2)}, batches)["zero"]
    known = future.double()[observed].numpy()
    assert errors.mse == pytest.approx((known**2).mean(), rel=1e-12)
    assert errors.mae == pytest.approx(abs(known).mean(), rel=1e-12)
    assert errors.filled_left_out == (~observed).sum().item() and errors.by_series == ()


def test_a_split_of_filled_targets_only_is_an_error_and_not_a_zero() -> None:
    (batch,) = _batches(torch.ones(2, 6, 1), torch.ones(2, 3, 1), 2)
    object.__setattr__(batch, "observed", torch.zeros(2, 3, 1, dtype=torch.bool))
    with pytest.raises(ValueError, match="no target but filled ones"):
        evaluate({"zero": lambda x: torch.zeros(len(x), 3, 1)}, [batch])


def test_naive_forecasts_repeat_the_last_value_and_the_last_day() -> None:
    past = torch.arange(48.0).reshape(1, 48, 1)
    naive = naive_forecasts(context_length=48, prediction_length=30, per_day=24)
    assert naive["last_value"](past).flatten().tolist() == [47.0] * 30
    assert naive["last_day"](past).flatten().tolist() == [*range(24, 48), *range(24, 30)]


@pytest.mark.parametrize("per_day", [None, 96])
def test_there_is_no_last_day_if_the_context_is_shorter(per_day: int | None) -> None:
    assert set(naive_forecasts(context_length=48, prediction_length=8, per_day=per_day)) == {"last_value"}
