"""`forecast`: the rows after a frame or a file, by a model that a sweep has saved."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from data_pipeline.errors import DataError
from data_pipeline.options import DataOptions
from data_pipeline.series.tail import write_table
from tune.api.errors import wrong_input
from tune.api.sweep import Sweep
from tune.commands.data_options import FIELDS
from tune.commands.model_input import Forecast, forecast_file, options_for
from tune.commands.parser import store_address
from tune.commands.predict import MOST_ROWS, load_forecaster
from tune.common.errors import WrongInput, unknown_name
from tune.common.process_setup import keep_libraries_quiet
from tune.config.trial_config import data_options
from tune.config.values import check_value, checked
from tune.tracking.find_model import find_model

if TYPE_CHECKING:
    from model.facts import Facts

THE_FRAME = "the frame"


def forecast(
    model: str | Path | Sweep,
    frame: pd.DataFrame | str | Path,
    *,
    horizon: int | None = None,
    device: Literal["cpu", "cuda"] = "cpu",
    set: Mapping[str, Any] | None = None,
    storage_path: str | Path = "runs",
    tracking_uri: str | None = None,
) -> pd.DataFrame:
    """Forecast the rows after the last row of `frame`, in its units, as the command `predict` does.

    Args:
        model: a sweep or its id (its trial with the smallest validation error), a trial id, an MLflow run (its id, or
            runs:/ID/model), or the folder of a saved model.
        frame: the last rows of the series, at least as many as the model's context: a time column or index, and the
            model's columns, as in training. Or the path of a CSV or Parquet file. Earlier rows are not used.
        horizon: rows to forecast. None: what the model was trained for; rows beyond are forecast from forecasts.
        device: where to compute.
        set: how a file is read, by field, such as {"data.separator": ";"}.
        storage_path: the folder of the sweeps, where a model's files are looked for too.
        tracking_uri: the MLflow store. None: the sweep's own, else MLFLOW_TRACKING_URI, else `mlflow.db` here.

    Returns:
        `horizon` rows: the time column (`row` where rows have no times) and a float column for each of the model's;
        in long format, the series one below the other, with their ids first.

    Raises:
        WrongInput: no such model or device, gaps or missing values in the rows that are used, too few rows, another
            step of time than in training, or a column that is missing.
    """
    keep_libraries_quiet()
    if horizon is not None and not 1 <= horizon <= MOST_ROWS:
        raise WrongInput(f"horizon={horizon}: give 1 to {MOST_ROWS:,} rows")
    if device not in ("cpu", "cuda"):
        raise unknown_name("device", str(device), ("cpu", "cuda"))
    given = _options(set or {})
    name, uri = (model.sweep_id, model.tracking_uri) if isinstance(model, Sweep) else (str(model), None)
    with tempfile.TemporaryDirectory(prefix="forecast-") as folder, wrong_input():
        store = store_address(tracking_uri or uri)
        found = find_model(name, tracking_uri=store, storage=Path(storage_path), scratch=Path(folder))
        forecaster = load_forecaster(found.folder, device)
        facts = forecaster.facts
        path = Path(frame) if not isinstance(frame, pd.DataFrame) else _written(frame, facts, Path(folder))
        try:
            made = forecast_file(
                path.expanduser(), options_for(facts, given), forecaster, horizon or facts.prediction_length
            )
        except (DataError, WrongInput) as error:
            if not isinstance(frame, pd.DataFrame):
                raise
            raise WrongInput(str(error).replace(str(path), THE_FRAME)) from None
        return _as_frame(made, Path(folder))


def _options(given: Mapping[str, Any]) -> DataOptions:
    values: dict[str, Any] = {}
    for name, value in given.items():
        if name not in FIELDS:
            raise unknown_name("field of a file", str(name), FIELDS)
        check_value(name, value, given=f"set {name}")
        values[name] = checked(name, value)
    options = data_options(values)
    assert options is not None  # every value was checked
    return options


def _written(frame: pd.DataFrame, facts: Facts, folder: Path) -> Path:
    """The frame as a Parquet file, its times as a column. Raises WrongInput for a frame that no such file can hold."""
    named = facts.dataset.get("timestamp_column")
    if isinstance(frame.index, pd.DatetimeIndex):
        column = frame.index.name or named or "date"
        if column in frame.columns:
            raise WrongInput(f"the frame's index and a column are both called {column!r}: rename or drop one of them")
        frame = frame.rename_axis(index=column).reset_index()
    path = folder / "frame.parquet"
    try:
        frame.rename(columns=str).to_parquet(path, index=False)
    except (ValueError, TypeError, OSError) as error:  # pyarrow's errors are ValueErrors and TypeErrors, too
        raise WrongInput(f"the frame cannot be written as Parquet: {' '.join(str(error).split())[:300]}") from None
    return path


def _as_frame(made: Forecast, folder: Path) -> pd.DataFrame:
    """What `predict` writes as Parquet."""
    path, tables = folder / "forecast.parquet", [future for _, _, future in made.series]
    write_table(path, *tables, id_column=made.id_column, ids=[name for name, _, _ in made.series])
    return pd.read_parquet(path)
