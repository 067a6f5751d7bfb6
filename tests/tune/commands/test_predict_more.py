"""`predict --horizon, --backtest, --plot`: the numbers are those of the trial, of numpy and of the file."""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from predict_kit import H, L, Trained

from model.forecaster import Forecaster
from tune.commands import backtest
from tune.commands.main import main
from tune.common.errors import WrongInput

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return Trained(tmp_path_factory.mktemp("trained"))


@pytest.fixture
def frame(trained: Trained) -> pd.DataFrame:
    """The rows of the series up to where the first test window's forecast begins."""
    series = trained.series
    rows = series.bounds["test"][0]
    return pd.DataFrame(series.values[:rows], columns=list(series.columns)).assign(date=series.timestamps[:rows])


@pytest.fixture
def command(trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    def run(*words: Any) -> tuple[int, str, str]:
        own = ["predict", "unpruned", "--tracking-uri", trained.uri, "--storage-path", str(tmp_path / "runs")]
        code = main([*own, *map(str, words)])
        out, error = capsys.readouterr()
        return code, out, error

    return run


def _csv(frame: pd.DataFrame, path: Path, **options: Any) -> Path:
    frame.to_csv(path, index=False, **options)
    return path


def test_a_longer_horizon_feeds_forecasts_back_and_says_so(
    trained: Trained, frame: pd.DataFrame, command: Command, tmp_path: Path
) -> None:
    source, target = _csv(frame, tmp_path / "in.csv"), tmp_path / "out.parquet"
    code, out, error = command("--input", source, "--output", target, "--horizon", 2 * H + 5)
    assert code == 0
    assert error == f"--horizon 53: rows {H + 1} to 53 are forecast from forecasts, so errors add up\n"
    assert "53 rows x 7 columns" in out and f"rows {H + 1} to 53 are forecast from forecasts" in out
    forecaster = Forecaster(trained.folder / "unpruned")
    columns = list(trained.series.columns)
    known = frame[columns].to_numpy()
    for _ in range(3):
        known = np.concatenate((known, forecaster.forecast(known)))
    forecast = pd.read_parquet(target)
    np.testing.assert_allclose(forecast[columns], known[len(frame) : len(frame) + 53], rtol=1e-4, atol=1e-4)
    hours = pd.date_range(frame["date"].iloc[-1], periods=54, freq="h")[1:]
    assert list(forecast["date"]) == list(hours)


def test_a_shorter_horizon_is_the_beginning_of_the_forecast(
    frame: pd.DataFrame, command: Command, tmp_path: Path
) -> None:
    source = _csv(frame, tmp_path / "in.csv")
    assert command("--input", source, "--output", tmp_path / "all.csv")[0] == 0
    code, out, error = command("--input", source, "--output", tmp_path / "some.csv", "--horizon", 5)
    assert (code, error) == (0, "") and "5 rows x 7 columns" in out and "forecasts" not in out
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "some.csv"), pd.read_csv(tmp_path / "all.csv").head(5))


@pytest.mark.parametrize("trial_id", ["unpruned", "custom-score=magnitude-s1"])
def test_a_backtest_over_the_test_set_is_the_trials_own_error(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str], trial_id: str
) -> None:
    words = ["predict", str(trained.folder / trial_id), "--backtest", "--storage-path", str(tmp_path / "runs")]
    assert main([*words, "--json", str(tmp_path / "out.json")]) == 0
    out = capsys.readouterr().out
    errors = json.loads((tmp_path / "out.json").read_text())["backtest"]["errors"]
    final = trained.final[trial_id]["metrics"]
    assert errors["model"]["standardised_mse"] == pytest.approx(final["final/test_mse"], rel=1e-5)
    assert errors["model"]["standardised_mae"] == pytest.approx(final["final/test_mae"], rel=1e-5)
    for name in ("last_value", "last_day"):
        assert errors[name]["standardised_mse"] == pytest.approx(final[f"final/naive_{name}_mse"], rel=1e-5)
    std = trained.series.std
    scaled = [errors["model"]["columns"][name]["mse"] / std[at] ** 2 for at, name in enumerate(trained.series.columns)]
    assert np.mean(scaled) == pytest.approx(final["final/test_mse"], rel=1e-5)
    assert "over the test set of demo: 617 windows of 48 + 24 rows" in out and "last day" in out and "OT" in out


def test_a_backtest_over_a_file_takes_every_window_without_a_gap_or_a_missing_value(
    trained: Trained, frame: pd.DataFrame, command: Command, tmp_path: Path
) -> None:
    columns, rows = list(trained.series.columns), frame.tail(300).reset_index(drop=True)
    rows.loc[100, "OT"] = np.nan
    rows = rows.drop(index=[200, 201]).reset_index(drop=True)
    code, out, error = command("--backtest", "--input", _csv(rows, tmp_path / "in.csv"), "--json", tmp_path / "o.json")
    assert code == 0 and "if the model saw rows of it in training" in error and error.count("\n") == 1
    forecaster, squares, times = Forecaster(trained.folder / "unpruned"), [], pd.to_datetime(rows["date"])
    for at in range(len(rows) - L - H + 1):
        window = rows.iloc[at : at + L + H]
        if window[columns].notna().all(axis=None) and times[at + L + H - 1] - times[at] == pd.Timedelta(
            hours=L + H - 1
        ):
            values = window[columns].to_numpy()
            squares.append(np.square(forecaster.forecast(values[:L]) - values[L:]))
    content = json.loads((tmp_path / "o.json").read_text())["backtest"]
    assert content["windows"] == len(squares) and content["left_out"] == len(rows) - L - H + 1 - len(squares)
    assert content["errors"]["model"]["mse"] == pytest.approx(np.mean(squares), rel=1e-4)
    for at, name in enumerate(columns):
        found = content["errors"]["model"]["columns"][name]["mse"]
        assert found == pytest.approx(np.mean(np.array(squares)[..., at]), rel=1e-4)
    assert f"{len(squares)} windows" in out


def test_a_file_without_one_whole_window_is_refused(frame: pd.DataFrame, command: Command, tmp_path: Path) -> None:
    code, out, error = command("--backtest", "--input", _csv(frame.tail(L + H - 1), tmp_path / "in.csv"))
    assert code == 2 and out == "" and f"no window of {L} + {H} rows" in error


@pytest.mark.parametrize("more", [(), ("--backtest",), ("--horizon", 60), ("--horizon", 1)])
def test_a_plot_is_a_png_that_shows_more_than_paper(
    frame: pd.DataFrame, command: Command, tmp_path: Path, more: tuple[Any, ...]
) -> None:
    source, target = _csv(frame.tail(200), tmp_path / "in.csv"), tmp_path / "plot.png"
    assert command("--input", source, "--plot", target, *more)[0] == 0
    with Image.open(target) as image:
        assert image.format == "PNG" and image.width > 900
        colours = {colour for _, colour in image.convert("RGB").getcolors(1 << 24) or []}
    assert {(0xD9, 0x48, 0x0F), (0x8A, 0x8F, 0x98)} <= colours  # forecast and history
    assert ((0x1F, 0x23, 0x28) in colours) == ("--backtest" in more)  # truth
    code, _, error = command("--input", source, "--plot", target)
    assert code == 2 and "it exists; name another file, or give --force" in error


@pytest.mark.parametrize(
    ("digits", "expected"), [(0, r"-?\d+"), (1, r"-?\d+\.\d"), (3, r"-?\d+\.\d{3}")], ids=["whole", "one", "three"]
)
def test_a_csv_forecast_has_the_decimals_of_each_column(
    frame: pd.DataFrame, command: Command, tmp_path: Path, digits: int, expected: str
) -> None:
    frame["OT"] = frame["OT"].astype(float).round(digits)
    frame["HUFL"] = frame["HUFL"].astype(float).round(2)
    code, out, _ = command("--input", _csv(frame, tmp_path / "in.csv"), "--output", tmp_path / "out.csv")
    texts = pd.read_csv(tmp_path / "out.csv", dtype=str)
    assert code == 0 and texts["OT"].str.fullmatch(expected).all()
    assert texts["HUFL"].str.fullmatch(r"-?\d+\.\d\d").all()
    assert re.search(r"\d to \d decimals, those of each column's last rows", out)
    assert command("--input", tmp_path / "in.csv", "--output", tmp_path / "out.parquet")[0] == 0
    floats = pd.read_parquet(tmp_path / "out.parquet")
    assert floats["OT"].dtype == np.float64 and (floats["OT"] != floats["OT"].round(digits)).any()
    np.testing.assert_allclose(texts["OT"].astype(float), floats["OT"], atol=0.5 * 10.0**-digits + 1e-9)


@pytest.mark.parametrize(
    ("zone", "last"),
    [
        (None, "2016-10-15 16:00:00"),
        ("UTC", "2016-10-15 16:00:00Z"),
        ("+02:00", "2016-10-15 16:00:00+02:00"),
        ("-03:30", "2016-10-15 16:00:00-03:30"),
    ],
)
@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_forecast_keeps_the_zone_of_the_file(
    frame: pd.DataFrame, command: Command, tmp_path: Path, zone: str | None, last: str, ending: str
) -> None:
    frame["date"] = frame["date"].dt.tz_localize(zone)
    source = tmp_path / f"in.{ending}"
    frame.to_parquet(source) if ending == "parquet" else frame.to_csv(source, index=False)
    code, out, _ = command("--input", source, "--output", tmp_path / "out.csv")
    assert code == 0 and f"columns, {last} to " in out
    assert pd.read_csv(tmp_path / "out.csv")["date"].iloc[0] == last
    assert command("--input", source, "--output", tmp_path / "out.parquet")[0] == 0
    assert str(pd.read_parquet(tmp_path / "out.parquet")["date"].dt.tz) == str(frame["date"].dt.tz)


def test_a_named_zone_stays_in_parquet_and_gives_its_offset_across_a_clock_change_in_csv(
    frame: pd.DataFrame, command: Command, tmp_path: Path
) -> None:
    end = pd.Timestamp("2016-10-29 22:00", tz="UTC")
    frame["date"] = pd.date_range(end=end, periods=len(frame), freq="h").tz_convert("Europe/Berlin")
    frame.to_parquet(tmp_path / "in.parquet")
    assert command("--input", tmp_path / "in.parquet", "--output", tmp_path / "out.csv")[0] == 0
    texts = list(pd.read_csv(tmp_path / "out.csv")["date"])
    assert texts[1:4] == ["2016-10-30 02:00:00+02:00", "2016-10-30 02:00:00+01:00", "2016-10-30 03:00:00+01:00"]
    assert command("--input", tmp_path / "in.parquet", "--output", tmp_path / "out.parquet")[0] == 0
    assert str(pd.read_parquet(tmp_path / "out.parquet")["date"].dt.tz) == "Europe/Berlin"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), "nothing to do: give --output FILE, --plot FILE.png or --backtest"),
        (("--plot", "x.png"), "--input FILE is missing"),
        (("--output", "x.csv", "--backtest"), "--input FILE is missing"),
        (("--backtest", "--horizon", "0"), "--horizon 0: give 1 to"),
        (("--backtest", "--plot", "x.jpg"), "--plot x.jpg: give a file ending in .png"),
        (
            ("--input", "x.csv", "--output", "o.csv", "--json", "o.json"),
            "--json o.json is for the errors of",
        ),
    ],
)
def test_options_that_do_not_go_together_are_refused_in_one_line(
    command: Command, words: tuple[str, ...], expected: str
) -> None:
    code, out, error = command(*words)
    assert (code, out) == (2, "") and expected in error and error.count("\n") == 1


def test_a_backtest_over_the_file_of_the_training_takes_its_test_set_only(
    trained: Trained, command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    series = trained.series
    frame = pd.DataFrame(series.values, columns=list(series.columns)).assign(date=series.timestamps)
    source = _csv(frame, tmp_path / "training.csv")
    folder = shutil.copytree(trained.folder / "unpruned", tmp_path / "model")
    facts = json.loads((folder / "forecasting.json").read_text())
    facts["dataset"]["source_sha256"] = hashlib.sha256(source.read_bytes()).hexdigest()
    (folder / "forecasting.json").write_text(json.dumps(facts))
    words = ["predict", str(folder), "--backtest", "--input", str(source), "--json", str(tmp_path / "o.json")]
    assert main(words) == 0
    out, error = capsys.readouterr()
    content = json.loads((tmp_path / "o.json").read_text())["backtest"]
    expected = trained.final["unpruned"]["metrics"]["final/test_mse"]
    assert content["errors"]["model"]["standardised_mse"] == pytest.approx(expected, rel=1e-5)
    assert "which the model was trained on: 617 windows" in out and error == ""


@pytest.mark.parametrize(("series", "remedy"), [(None, "--input FILE"), ({"s": 1}, "put a link to it there")])
def test_a_backtest_whose_training_file_has_moved_says_what_to_do(tmp_path: Path, series: Any, remedy: str) -> None:
    gone = tmp_path / "gone.csv"
    facts = SimpleNamespace(dataset={"name": str(gone)}, series=series)
    with pytest.raises(WrongInput, match=f"{gone}, which the model was trained on, is not there.*{remedy}"):
        backtest._training_series(argparse.Namespace(), facts)  # type: ignore[arg-type]
