"""`predict` continues each step of the calendar, and rows without times by their numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from trial_kit import Recorder, small_job

from tune.commands.main import main
from tune.trial.run import run_trial

L, H, ROWS = 24, 6, 420
OFFICE = pd.offsets.CustomBusinessHour(start="09:00", end="17:00")
AXES: dict[str, Callable[[int], pd.DatetimeIndex]] = {
    "month": lambda rows: pd.date_range("1985-01-01", periods=rows, freq="MS"),
    "month end": lambda rows: pd.date_range("1985-01-31", periods=rows, freq="ME"),
    "quarter": lambda rows: pd.date_range("1902-01-01", periods=rows, freq="QS"),
    "year": lambda rows: pd.date_range("1200-01-01", periods=rows, freq="YS", unit="s"),
    "business day": lambda rows: pd.date_range("2020-01-01", periods=rows, freq="B"),
    "office hour": lambda rows: pd.date_range("2020-01-01 09:00", periods=rows, freq=OFFICE),
    "day of a clock": lambda rows: pd.date_range("2020-02-01", periods=rows, freq="D", tz="Europe/Berlin"),
}


def _model(frame: pd.DataFrame, folder: Path, **fields: object) -> Path:
    frame.to_parquet(folder / "in.parquet", index=False)
    recorder = Recorder(folder / "run")
    recorder.folder.mkdir()
    small = {"train__epochs": 1, "train__batch_size": 32, "data__context_length": L, "data__prediction_length": H}
    job = small_job(recorder.folder, data__dataset=str(folder / "in.parquet"), **small, **fields)
    run_trial(job, recorder)
    assert recorder.final["status"] == "done", recorder.final
    return recorder.folder / f"report-{len(recorder.reports)}" / "model"


def _values(rows: int) -> np.ndarray:
    return (np.sin(np.arange(rows) / 3) + np.random.default_rng(0).normal(0, 0.1, rows)).round(2)


@pytest.mark.parametrize("name", AXES)
def test_the_forecast_continues_the_calendar(name: str, tmp_path: Path) -> None:
    axis = AXES[name](ROWS + H)
    frame = pd.DataFrame({"date": axis[:ROWS], "load": _values(ROWS)})
    model = _model(frame, tmp_path)
    words = ["predict", str(model), "--input", str(tmp_path / "in.parquet")]
    assert main([*words, "--output", str(tmp_path / "out.parquet"), "--plot", str(tmp_path / "p.png")]) == 0
    assert list(pd.read_parquet(tmp_path / "out.parquet")["date"]) == list(axis[ROWS:])
    assert main([*words, "--backtest", "--horizon", "9"]) == 0


def test_a_gap_in_the_calendar_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame = pd.DataFrame({"date": AXES["business day"](ROWS), "load": _values(ROWS)})
    model = _model(frame, tmp_path)
    frame.drop(index=ROWS - 3).to_csv(tmp_path / "gap.csv", index=False)
    capsys.readouterr()
    words = ["predict", str(model), "--input", str(tmp_path / "gap.csv"), "--output", str(tmp_path / "o.csv")]
    assert main(words) == 2
    assert "there is a gap, 2021-08-05 00:00:00 is followed by 2021-08-09 00:00:00" in capsys.readouterr().err


@pytest.mark.parametrize("times", [True, False])
def test_rows_that_are_only_equidistant_go_on_by_number(times: bool, tmp_path: Path) -> None:
    frame = pd.DataFrame({"load": _values(ROWS)})
    if times:  # which say nothing
        frame.insert(0, "date", pd.to_datetime("2020-01-01") + pd.to_timedelta(np.arange(ROWS) ** 2, unit="min"))
    model = _model(frame, tmp_path, data__step="row")
    words = ["predict", str(model), "--input", str(tmp_path / "in.parquet")]
    assert main([*words, "--output", str(tmp_path / "out.csv"), "--plot", str(tmp_path / "p.png")]) == 0
    forecast = pd.read_csv(tmp_path / "out.csv")
    assert list(forecast.columns) == ["row", "load"] and list(forecast["row"]) == list(range(ROWS, ROWS + H))
    assert main([*words, "--backtest"]) == 0
