"""Exact errors over a split, and the naive forecasts that a model has to beat.

Shapes: B batch, C channels, L context, H horizon.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class SeriesErrors:
    """Errors over the windows of one series of a file."""

    series: int
    """Its number among the file's."""
    windows: int
    mse: float
    mae: float


@dataclass(frozen=True, kw_only=True)
class ForecastErrors:
    """Mean squared and mean absolute error over all windows, steps and channels of a split, in standardised units."""

    mse: float
    mae: float
    filled_left_out: int = 0
    """Targets that count in neither, because the source has no value there."""
    by_series: tuple[SeriesErrors, ...] = ()
    """Of each series that has a window, if the file holds several."""


def evaluate(
    forecasts: dict[str, Callable[[Tensor], Tensor]], batches: Iterable[Any], *, n_series: int = 1
) -> dict[str, ForecastErrors]:
    """Errors of several forecasts (past [B, L, C] -> future [B, H, C]) in one pass over a split.

    Sums are kept in float64 on the device and read once. Padding rows of the last batch are left out, so that every
    observed element counts exactly once. Filled ones are left out. Raises ValueError if the split holds no window, or
    none with an observed element.
    """
    import torch

    sums: dict[str, list[Tensor]] = {name: [] for name in forecasts}  # [n, 2]: of windows, or of a batch
    counts: list[Tensor] = []  # [n, 3]: observed elements, all elements, windows
    owners: list[Tensor] = []  # [n]: the series
    several = n_series > 1
    for coming in batches:
        batch = coming.arrived()
        future = batch.future[: batch.valid]
        observed = None if batch.observed is None else batch.observed[: batch.valid]
        every = future.new_full((batch.valid,), future[0].numel(), dtype=torch.int64)
        count = every if observed is None else observed.sum((1, 2))
        counts.append(_rows(torch.stack((count, every, torch.ones_like(every)), 1), several))
        if several:
            owners.append(batch.series[: batch.valid])
        for name, forecast in forecasts.items():
            error = (forecast(batch.past)[: batch.valid].float() - future).double()
            if observed is not None:
                error = torch.where(observed, error, 0.0)
            sums[name].append(_rows(torch.stack((error.square().sum((1, 2)), error.abs().sum((1, 2))), 1), several))
    if not counts:
        raise ValueError("the split holds no window")
    of_series = torch.cat(owners).cpu() if several else torch.zeros(len(counts), dtype=torch.int64)

    def by_series(parts: list[Tensor]) -> Tensor:
        rows = torch.cat(parts).cpu()  # on the CPU, where sums have one order
        return rows.new_zeros(n_series, rows.shape[1]).index_add_(0, of_series, rows)

    total = by_series(counts)
    if not int(total[:, 0].sum()):
        raise ValueError("the split holds no target but filled ones")
    return {name: _errors(by_series(parts), total) for name, parts in sums.items()}


def _rows(of_windows: Tensor, several: bool) -> Tensor:
    """The sums [n, k] of each window, if there are several series, else of all of them [1, k]."""
    return of_windows if several else of_windows.sum(0, keepdim=True)


def _errors(sums: Tensor, counts: Tensor) -> ForecastErrors:
    """From sums [S, 2] of squares and sizes, and counts [S, 3] of observed and all elements and of windows."""
    observed, every, _ = counts.sum(0).tolist()
    mse, mae = (sums.sum(0) / observed).tolist()
    by_series = [
        SeriesErrors(series=number, windows=windows, mse=square / count, mae=size / count)
        for number, ((square, size), (count, _, windows)) in enumerate(zip(sums.tolist(), counts.tolist(), strict=True))
        if count and len(counts) > 1
    ]
    return ForecastErrors(mse=mse, mae=mae, filled_left_out=every - observed, by_series=tuple(by_series))


def naive_forecasts(
    *, context_length: int, prediction_length: int, per_day: int | None
) -> dict[str, Callable[[Tensor], Tensor]]:
    """`last_value` repeats the last value; `last_day` repeats the last day, if the context holds it.

    per_day: rows of a day; None if that is unknown, or rows are further apart.
    """
    naive: dict[str, Callable[[Tensor], Tensor]] = {
        "last_value": lambda past_BLC: past_BLC[:, -1:].expand(-1, prediction_length, -1)
    }
    day = per_day or 0
    if 0 < day <= context_length:
        naive["last_day"] = lambda past_BLC: past_BLC[:, -day:].repeat(1, -(-prediction_length // day), 1)[
            :, :prediction_length
        ]
    return naive
