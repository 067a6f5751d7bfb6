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
    scaled_mse: np.ndarray
    """[C] float64, of standardised values."""
    scaled_mae: np.ndarray
    """[C] float64, of standardised values."""
    count: np.ndarray
    """[C] float64: how many values each column's errors are of."""

    def overall(self) -> tuple[float, float]:
        """MSE and MAE of all values of all columns, whose units may differ."""
        return self._mean(self.mse), self._mean(self.mae)

    def standardised(self) -> tuple[float, float]:
        """MSE and MAE of all values, in the units of training."""
        return self._mean(self.scaled_mse), self._mean(self.scaled_mae)

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


@dataclass(frozen=True, kw_only=True, eq=False)
class Windows:
    """Some windows of one series, standardised."""

    past: Tensor
    """[B, L, C]."""
    future: Tensor
    """[B, N, C]."""
    counted: Tensor | None
    """[B, N, C] bool, the values of the future that count; None: all."""
    std: np.ndarray
    """[C] float64: what one unit is in the units of the source."""


def column_errors(
    forecasts: Mapping[str, Callable[[Tensor], Tensor]], windows: Iterable[Windows]
) -> dict[str, ColumnErrors]:
    """Errors of several forecasts (past [B, L, C] -> future [B, N, C], standardised) over windows.

    Sums are kept in float64. A column of which nothing counts has NaN. ValueError where there is no window.
    """
    import torch

    sums: dict[str, np.ndarray] = {}
    count: np.ndarray | None = None
    for some in windows:
        weight = torch.ones_like(some.future, dtype=torch.float64) if some.counted is None else some.counted.double()
        seen = weight.sum(dim=(0, 1)).cpu().numpy()
        count = seen if count is None else count + seen
        for name, forecast in forecasts.items():
            error = (forecast(some.past).double() - some.future.double()) * weight
            square, size = torch.stack((error.square().sum(dim=(0, 1)), error.abs().sum(dim=(0, 1)))).cpu().numpy()
            each = np.stack((square * np.square(some.std), size * some.std, square, size))
            sums[name] = sums[name] + each if name in sums else each
    if count is None:
        raise ValueError("there is no window")
    with np.errstate(invalid="ignore"):
        means = {name: each / count for name, each in sums.items()}
    return {
        name: ColumnErrors(mse=mse, mae=mae, scaled_mse=scaled_mse, scaled_mae=scaled_mae, count=count)
        for name, (mse, mae, scaled_mse, scaled_mae) in means.items()
    }
