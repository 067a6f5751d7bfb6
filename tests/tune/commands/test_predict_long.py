"""`predict` with models of series under each other: the long format comes back, an unknown series is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from trial_kit import Recorder, small_job

from model.forecaster import Forecaster
from tune.commands.main import main
from tune.trial.run import run_trial

L, H = 48, 24
LENGTHS = {"same": {"north": 600, "south": 600}, "unequal": {"north": 700, "south": 600, "west": 650}}
LEVEL = {"north": 1.0, "south": 20.0, "west": 300.0}
Command = Callable[..., tuple[int, str, str]]


def _long(lengths: dict[str, int]) -> pd.DataFrame:
    draw, parts = np.random.default_rng(0), []
    for name, rows in lengths.items():
        hours = pd.date_range(end="2020-02-01", periods=rows, freq="h")
        values = (LEVEL[name] * (3 + np.sin(np.arange(rows) / 4) + draw.normal(0, 0.2, rows))).round(2)
        parts.append(pd.DataFrame({"unique_id": name, "ds": hours, "y": values}))
    return pd.concat(parts, ignore_index=True)


class Model:
    """A model that was trained on a long file."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind, self.frame = kind, _long(LENGTHS[kind])
        self.file = folder / f"{kind}.csv"
        self.frame.to_csv(self.file, index=False)
        recorder = Recorder(folder / kind)
        recorder.folder.mkdir()
        fields = {"train__epochs": 1, "train__batch_size": 32, "data__dataset": str(self.file)}
        run_trial(small_job(recorder.folder, **fields), recorder)
        assert recorder.final["status"] == "done", recorder.final
        self.metrics = recorder.final["metrics"]
        self.folder = recorder.folder / f"report-{len(recorder.reports)}" / "model"

    def expected(self) -> pd.DataFrame:
        """The forecast by the forecaster itself."""
        forecaster, parts = Forecaster(self.folder), []
        wide = self.frame.pivot(index="ds", columns="unique_id", values="y")
        together = forecaster.forecast(wide.to_numpy()) if self.kind == "same" else None
        for at, name in enumerate(sorted(LENGTHS[self.kind])):
            own = self.frame[self.frame["unique_id"] == name]["y"].to_numpy()[:, None]
            values = forecaster.forecast(own, series=name)[:, 0] if together is None else together[:, at]
            parts.append(pd.DataFrame({"unique_id": name, "y": values}))
        return pd.concat(parts, ignore_index=True)


@pytest.fixture(scope="module", params=LENGTHS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    return Model(request.param, tmp_path_factory.mktemp("long"))


@pytest.fixture
def command(model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    def run(*words: Any) -> tuple[int, str, str]:
        own = ["predict", str(model.folder), "--storage-path", str(tmp_path / "runs")]
        code = main([*own, *map(str, words)])
        out, error = capsys.readouterr()
        return code, out, error

    return run


def test_a_long_file_gives_a_long_forecast_of_each_series(model: Model, command: Command, tmp_path: Path) -> None:
    shuffled = model.frame.sample(frac=1, random_state=1)  # rows may lie in any order
    shuffled.to_csv(tmp_path / "in.csv", index=False)
    code, out, error = command("--input", tmp_path / "in.csv", "--output", tmp_path / "out.parquet")
    assert (code, error) == (0, "") and f"24 rows x 1 columns x {len(LENGTHS[model.kind])} series" in out
    forecast, expected = pd.read_parquet(tmp_path / "out.parquet"), model.expected()
    assert list(forecast.columns) == ["unique_id", "ds", "y"]
    assert list(forecast["unique_id"]) == list(expected["unique_id"])
    np.testing.assert_allclose(forecast["y"], expected["y"], rtol=1e-5)
    hours = pd.date_range("2020-02-01 01:00", periods=H, freq="h")
    assert all(list(rows["ds"]) == list(hours) for _, rows in forecast.groupby("unique_id"))


def test_a_csv_has_the_decimals_of_each_series(model: Model, command: Command, tmp_path: Path) -> None:
    frame = model.frame.assign(
        y=np.where(model.frame["unique_id"] == "south", model.frame["y"].round(), model.frame["y"])
    )
    frame.to_csv(tmp_path / "in.csv", index=False)
    assert command("--input", tmp_path / "in.csv", "--output", tmp_path / "out.csv")[0] == 0
    texts = pd.read_csv(tmp_path / "out.csv", dtype=str)
    south = texts["unique_id"] == "south"
    assert texts[south]["y"].str.fullmatch(r"\d+").all() and texts[~south]["y"].str.fullmatch(r"\d+\.\d\d").all()


def test_an_unknown_series_is_refused_with_the_nearest_name(model: Model, command: Command, tmp_path: Path) -> None:
    more = model.frame[model.frame["unique_id"] == "south"].assign(unique_id="souht")
    pd.concat([model.frame, more]).to_csv(tmp_path / "in.csv", index=False)
    code, out, error = command("--input", tmp_path / "in.csv", "--output", tmp_path / "out.csv")
    assert (code, out) == (2, "") and error.count("\n") == 1
    assert "the model does not know the series 'souht'" in error and "did you mean 'south'?" in error
    assert not (tmp_path / "out.csv").exists()


def test_a_series_that_is_not_there_matters_only_where_series_are_forecast_together(
    model: Model, command: Command, tmp_path: Path
) -> None:
    model.frame[model.frame["unique_id"] != "south"].to_csv(tmp_path / "in.csv", index=False)
    code, _, error = command("--input", tmp_path / "in.csv", "--output", tmp_path / "out.csv")
    if model.kind == "same":
        assert code == 2 and "no rows of 'south', which the model was trained on" in error
    else:
        assert code == 0 and set(pd.read_csv(tmp_path / "out.csv")["unique_id"]) == {"north", "west"}


def test_a_series_that_is_too_short_is_named(model: Model, command: Command, tmp_path: Path) -> None:
    others, south = (model.frame[model.frame["unique_id"].eq("south") == it] for it in (False, True))
    pd.concat([others, south.tail(L - 1)]).to_csv(tmp_path / "in.csv", index=False)
    code, _, error = command("--input", tmp_path / "in.csv", "--output", tmp_path / "out.csv")
    assert code == 2 and f"series 'south' has {L - 1} rows, the model forecasts from {L}" in error


def test_a_backtest_over_the_test_set_is_the_trials_own_error(model: Model, command: Command, tmp_path: Path) -> None:
    code, _, error = command("--backtest", "--json", tmp_path / "o.json", "--plot", tmp_path / "plot.png")
    assert code == 0, error
    errors = json.loads((tmp_path / "o.json").read_text())["backtest"]["errors"]
    assert code == 0 and (tmp_path / "plot.png").exists()
    assert errors["model"]["standardised_mse"] == pytest.approx(model.metrics["final/test_mse"], rel=1e-5)
    assert errors["last_day"]["standardised_mse"] == pytest.approx(model.metrics["final/naive_last_day_mse"], rel=1e-5)


def test_a_backtest_over_a_long_file_is_refused_before_anything_is_written(
    model: Model, command: Command, tmp_path: Path
) -> None:
    target = tmp_path / "out.csv"
    code, _, error = command("--backtest", "--input", model.file, "--output", target)
    assert code == 2 and "series under each other are measured over the test set only" in error
    assert not target.exists()


def test_a_plot_has_a_panel_for_each_series(model: Model, command: Command, tmp_path: Path) -> None:
    assert command("--input", model.file, "--plot", tmp_path / "plot.png", "--horizon", 30)[0] == 0
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
