"""Exact errors over a split, and the naive forecasts that a model has to beat.

Shapes: B batch, C channels, L context, H horizon.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


DAY_MINUTES = 24 * 60


@dataclass(frozen=True, kw_only=True)
class ForecastErrors:
    """Mean squared and mean absolute error over all windows, steps and channels of a split, in standardised units."""

    mse: float
    mae: float


def evaluate(forecasts: dict[str, Callable[[Tensor], Tensor]], batches: Iterable[Any]) -> dict[str, ForecastErrors]:
    """Errors of several forecasts (past [B, L, C] -> future [B, H, C]) in one pass over a split.

    Sums are kept in float64 on the device and read once. Padding rows of the last batch are left out, so that every
    element counts exactly once. Raises ValueError if the split holds no window.
    """
    import torch

    sums: dict[str, Tensor] = {}
    elements = 0
    for coming in batches:
        batch = coming.arrived()
        future = batch.future[: batch.valid]
        elements += future.numel()
        for name, forecast in forecasts.items():
            error = (forecast(batch.past)[: batch.valid].float() - future).double()
            both = torch.stack((error.square().sum(), error.abs().sum()))
            sums[name] = sums[name] + both if name in sums else both
    if not elements:
        raise ValueError("the split holds no window")
    means = {name: (both / elements).tolist() for name, both in sums.items()}
    return {name: ForecastErrors(mse=mse, mae=mae) for name, (mse, mae) in means.items()}


def naive_forecasts(
    *, context_length: int, prediction_length: int, step_minutes: float | None
) -> dict[str, Callable[[Tensor], Tensor]]:
    """`last_value` repeats the last value; `last_day` repeats the last 24 hours, if the context holds them."""
    naive: dict[str, Callable[[Tensor], Tensor]] = {
        "last_value": lambda past_BLC: past_BLC[:, -1:].expand(-1, prediction_length, -1)
    }
    day = round(DAY_MINUTES / step_minutes) if step_minutes else 0
    if 0 < day <= context_length:
        naive["last_day"] = lambda past_BLC: past_BLC[:, -day:].repeat(1, -(-prediction_length // day), 1)[
            :, :prediction_length
        ]
    return naive
