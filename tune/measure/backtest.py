"""Errors of forecasts whose truth is known, in the units of the source, for each column and in all.

Shapes: B windows, N rows forecast, C columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class ColumnErrors:
    """Mean squared and mean absolute errors of one forecast over all windows and rows."""

    mse: np.ndarray
    """[C] float64, in the units of the source, squared."""
    mae: np.ndarray
    """[C] float64, in the units of the source."""
    std: np.ndarray
    """[C] float64: the unit of standardised errors."""
    count: np.ndarray
    """[C] float64: how many values each column's errors are of."""

    def overall(self) -> tuple[float, float]:
        """MSE and MAE of all values of all columns, whose units may differ."""
        return self._mean(self.mse), self._mean(self.mae)

    def standardised(self) -> tuple[float, float]:
        """MSE and MAE of all values, in the units of training."""
        return self._mean(self.mse / np.square(self.std)), self._mean(self.mae / self.std)

    def _mean(self, errors: np.ndarray) -> float:
        return float(np.sum(errors * self.count, where=self.count > 0) / self.count.sum())

    def as_dict(self, columns: Iterable[str]) -> dict[str, Any]:
        """As JSON: of all columns together, standardised as in training and not, and of each column."""
        (mse, mae), (scaled_mse, scaled_mae) = self.overall(), self.standardised()
        return {
            "mse": mse,
            "mae": mae,
            "standardised_mse": scaled_mse,
            "standardised_mae": scaled_mae,
            "columns": {
                name: {"mse": mse, "mae": mae}
                for name, mse, mae in zip(columns, self.mse.tolist(), self.mae.tolist(), strict=True)
            },
        }


def column_errors(
    forecasts: Mapping[str, Callable[[Tensor], Tensor]],
    windows: Iterable[tuple[Tensor, Tensor, Tensor | None]],
    std: np.ndarray,
) -> dict[str, ColumnErrors]:
    """Errors of several forecasts (past [B, L, C] -> future [B, N, C]) over windows, all standardised.

    windows: past, future and which values of the future count [B, N, C]; None: all.

    Sums are kept in float64 on the device and read once. A column of which nothing counts has NaN. ValueError where
    there is no window.
    """
    import torch

    sums: dict[str, Tensor] = {}
    count: Tensor | None = None
    for past, future, counted in windows:
        weight = torch.ones_like(future, dtype=torch.float64) if counted is None else counted.double()
        count = weight.sum(dim=(0, 1)) if count is None else count + weight.sum(dim=(0, 1))
        for name, forecast in forecasts.items():
            error = (forecast(past).double() - future.double()) * weight
            both = torch.stack((error.square().sum(dim=(0, 1)), error.abs().sum(dim=(0, 1))))
            sums[name] = sums[name] + both if name in sums else both
    if count is None:
        raise ValueError("there is no window")
    seen = count.cpu().numpy()
    with np.errstate(invalid="ignore"):
        means = {name: both.cpu().numpy() / seen for name, both in sums.items()}
    return {
        name: ColumnErrors(mse=mse * np.square(std), mae=mae * std, std=std, count=seen)
        for name, (mse, mae) in means.items()
    }
