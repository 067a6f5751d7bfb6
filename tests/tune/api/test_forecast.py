"""`forecast`: a frame is forecast as `predict` forecasts its file."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from model_kit import COLUMNS, H, L, save_small

from tune.api.forecast import forecast
from tune.api.sweep import load
from tune.commands.main import main
from tune.common.errors import WrongInput

# SQLAlchemy 2.1 warns of what MLflow 3.17 does on import.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A saved model of an hourly series."""
    return str(save_small(tmp_path_factory.mktemp("model") / "small"))


@pytest.fixture
def frame() -> pd.DataFrame:
    """100 rows with their times as index."""
    times = pd.date_range("2024-01-01", periods=100, freq="h", name="date")
    values = np.random.default_rng(0).normal(size=(100, len(COLUMNS))).round(3)
    return pd.DataFrame(values, columns=list(COLUMNS), index=times)


def test_a_forecast_is_what_predict_writes(model: str, frame: pd.DataFrame, tmp_path: Path) -> None:
    frame.to_csv(tmp_path / "in.csv")
    words = ["predict", model, "--input", str(tmp_path / "in.csv"), "--output", str(tmp_path / "out.parquet")]
    assert main(words) == 0
    expected = pd.read_parquet(tmp_path / "out.parquet")
    for given in (frame, frame.reset_index(), tmp_path / "in.csv", str(tmp_path / "in.csv")):
        made = forecast(model, given)
        assert made["date"].tolist() == expected["date"].tolist() and len(made) == H
        np.testing.assert_allclose(made.drop(columns="date"), expected.drop(columns="date"), rtol=1e-5, atol=1e-6)
    assert len(forecast(model, frame, horizon=H + 5)) == H + 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda frame: frame[-L + 1 :], f"^the frame: {L - 1} data rows, the model forecasts from {L}"),
        (lambda frame: frame.drop(columns="load"), "^the frame: no column 'load'"),
        (lambda frame: frame.drop(index=frame.index[-3]), "^the frame: .* there is a gap"),
        (lambda frame: frame.assign(OT=float("nan")), "^the frame: .*column 'OT'"),
        (lambda frame: frame.assign(date=1), "the frame's index and a column are both called 'date'"),
        (lambda frame: frame.assign(OT=[1, "a"] * 50), "^the frame cannot be written as Parquet"),
        (lambda frame: frame.assign(OT=[[1]] * 100), "^the frame: column 'OT' holds list"),
    ],
)
def test_a_frame_that_cannot_be_used_is_told_in_one_line(
    model: str, frame: pd.DataFrame, change: Any, message: str
) -> None:
    with pytest.raises(WrongInput, match=message) as told:
        forecast(model, change(frame))
    assert "\n" not in str(told.value) and "/" not in str(told.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"horizon": 0}, "horizon=0: give 1 to 1,000,000 rows"),
        ({"device": "gpu"}, "unknown device 'gpu'; allowed: cpu, cuda"),
        ({"set": {"data.sepparator": ";"}}, "Did you mean 'data.separator'"),
        ({"set": {"data.separator": 3}}, "data.separator 3: input should be a valid string"),
    ],
)
def test_a_wrong_argument_is_told_before_anything_is_read(given: dict[str, Any], message: str) -> None:
    with pytest.raises(WrongInput, match=message):
        forecast("nothing", SimpleNamespace(), **given)  # type: ignore[arg-type]


def test_a_store_that_is_not_there_and_a_margin_that_is_none_are_wrong_input(tmp_path: Path) -> None:
    with pytest.raises(WrongInput, match="there is no MLflow store at"):
        load("last", tracking_uri=f"sqlite:///{tmp_path}/none.db")
    with pytest.raises(WrongInput, match="margin-pct -1"):
        load("last", margin_pct=-1)
