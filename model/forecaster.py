"""A saved model as a forecaster in the units of the source: from its folder alone, pruned or not.

Needs nothing but this package, torch, transformers and safetensors (pandas for MLflow). Nothing is unpickled.
Shapes: B windows, C columns, L context, H horizon that the model was trained for, N rows forecast, T rows.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError

from model.facts import Facts, read_facts
from model.patchtst import load_model

if TYPE_CHECKING:
    import pandas as pd


class Forecaster:
    """Forecasts with a saved model in fp32, eager attention, evaluation mode."""

    def __init__(self, folder: Path, *, device: str = "cpu") -> None:
        """Load the model in `folder`. ValueError, one line, where the folder does not hold a whole one."""
        self.facts: Facts = read_facts(folder)
        self.device = torch.device(device)
        try:
            self.model = load_model(folder, attention="eager").to(self.device)
        except (OSError, RuntimeError, SafetensorError, ValueError) as error:
            what = " ".join(str(error).split())[:300]
            raise ValueError(f"{folder} holds no complete model ({what}): fetch it again") from error
        config, facts = self.model.config, self.facts
        lengths = (config.num_input_channels, config.context_length, config.prediction_length)
        if lengths != (len(facts.columns), facts.context_length, facts.prediction_length):
            raise ValueError(f"{folder}: forecasting.json and config.json are of different models: fetch it again")

    def scaling(self, series: str | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation [C] float64. ValueError for a series that the model does not know."""
        known = self.facts.series
        if known is None:
            return np.array(self.facts.mean), np.array(self.facts.std)
        if series is None or series not in known:
            shown = ", ".join(list(known)[:8])
            raise ValueError(f"the model knows {len(known)} series ({shown}{', ...' if len(known) > 8 else ''})")
        return np.array(known[series]["mean"]), np.array(known[series]["std"])

    def forecast(self, values_TC: np.ndarray, *, horizon: int | None = None, series: str | None = None) -> np.ndarray:
        """The rows [N, C] float64 after the last of `values_TC` [T, C], both in the units of the source.

        horizon: N, by `roll` where it is above H; None is H.
        series: the id of the series, for a model of several.

        The last L rows count. They are standardised as in training: as 32-bit floats, computed in float64, rounded
        once. ValueError where there are fewer than L rows or other than C columns, or where one is not finite.
        """
        length, columns = self.facts.context_length, len(self.facts.columns)
        if values_TC.ndim != 2 or values_TC.shape[1] != columns or len(values_TC) < length:
            raise ValueError(
                f"a forecast needs {length} rows or more of {columns} columns and got an array of shape "
                f"{list(values_TC.shape)}"
            )
        past_LC = values_TC[-length:].astype(np.float32, order="C")  # a frame's order would change the last digit
        if not np.isfinite(past_LC).all():
            raise ValueError(f"the last {length} rows must hold finite 32-bit numbers only")
        mean, std = self.scaling(series)
        past_1LC = torch.from_numpy(standardised(past_LC, mean, std))[None].to(self.device)
        future_NC = self.roll(past_1LC, _rows_ahead(self.facts, horizon))[0]
        return future_NC.double().cpu().numpy() * std + mean

    def roll(self, past_BLC: torch.Tensor, horizon: int) -> torch.Tensor:
        """Forecasts [B, N, C] of `horizon` N rows, both standardised.

        Above H the model's own forecast is the end of its next context, again and again: errors add up.
        """
        parts: list[torch.Tensor] = []
        with torch.no_grad():
            for _ in range(0, horizon, self.facts.prediction_length):
                if parts:
                    past_BLC = torch.cat((past_BLC, parts[-1]), dim=1)[:, -self.facts.context_length :]
                parts.append(self.model(past_values=past_BLC).prediction_outputs.float())
        return torch.cat(parts, dim=1)[:, :horizon]


def standardised(values: np.ndarray, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """Rows [..., C] float32 of the source's units as a model sees them."""
    scaled: np.ndarray = ((values - mean) / std).astype(np.float32)
    return scaled


def _rows_ahead(facts: Facts, horizon: int | None) -> int:
    """The rows to forecast: `horizon`, by default the model's own. ValueError for less than 1."""
    if horizon is not None and horizon < 1:
        raise ValueError(f"a horizon of {horizon} rows: give 1 or more")
    return facts.prediction_length if horizon is None else horizon


class MlflowForecaster:
    """What `mlflow.pyfunc.load_model` wraps."""

    def __init__(self, folder: Path) -> None:
        self.forecaster = Forecaster(folder)

    def predict(self, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """H rows after the last row of `model_input`, a frame with the model's columns in time order, L rows or more.

        Both in the units of the source; rows are one time step apart. A model of several series takes the id of the
        rows' series as `params["series"]`. ValueError for a missing column, too few rows or an unknown series.
        """
        import pandas as pd

        columns = list(self.forecaster.facts.columns)
        missing = [name for name in columns if name not in model_input.columns]
        if missing:
            raise ValueError(f"columns {', '.join(missing[:8])} are missing; the model forecasts {', '.join(columns)}")
        rows, series = model_input[columns].to_numpy(dtype=np.float64), (params or {}).get("series")
        forecast_HC = self.forecaster.forecast(rows, series=series)
        return pd.DataFrame(forecast_HC, columns=columns)


def _load_pyfunc(path: str) -> MlflowForecaster:
    """MLflow's way in (mlflow.pyfunc, `loader_module`): `path` is the folder of the saved model."""
    return MlflowForecaster(Path(path))
