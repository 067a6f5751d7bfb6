"""`experiments.py predict`: what it forecasts is what the trial's own evaluation computes, and wrong input is told."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from model_kit import save_small
from predict_kit import PRUNED, PRUNED_ID, H, L, Trained, config

from model.forecaster import Forecaster
from model.patchtst import load_model
from tune.commands.main import main
from tune.config.trial_config import TrialConfig
from tune.engine.step import Stepper
from tune.tracking.store import open_client

# SQLAlchemy 2.1 warns of what MLflow 3.17 does on import.
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
    def run(run: str, source: Path, *more: str, target: str = "out.csv") -> tuple[int, str, str]:
        words = ["predict", run, "--input", str(source), "--output", str(tmp_path / target)]
        code = main([*words, "--tracking-uri", trained.uri, *more])
        out, error = capsys.readouterr()
        return code, out, error

    return run


def _save(frame: pd.DataFrame, path: Path) -> Path:
    if path.name.endswith(".parquet"):
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False)
    return path


@pytest.mark.parametrize("trial_id", ["unpruned", PRUNED_ID])
@pytest.mark.parametrize("ending", ["csv", "csv.gz", "parquet"])
def test_a_forecast_is_what_the_trials_evaluation_computes_for_that_window(
    trained: Trained, frame: pd.DataFrame, command: Command, tmp_path: Path, trial_id: str, ending: str
) -> None:
    source = _save(frame, tmp_path / f"in.{ending}")
    code, out, error = command(trained.run_ids[trial_id], source, target=f"out.{ending}")
    assert (code, error) == (0, "")
    read = pd.read_parquet if ending == "parquet" else pd.read_csv
    forecast = read(tmp_path / f"out.{ending}")
    past = trained.first_test_windows(8)
    model = load_model(trained.folder / trial_id)
    stepper = Stepper(model, torch.optim.Adam(model.parameters()), precision="fp32")
    with torch.no_grad():
        expected = stepper.predict(past)[0].double().numpy() * trained.series.std + trained.series.mean
    assert list(forecast.columns) == ["date", *trained.series.columns]
    np.testing.assert_allclose(forecast[list(trained.series.columns)], expected, rtol=1e-5, atol=1e-5)
    start = trained.series.bounds["test"][0]
    assert list(pd.to_datetime(forecast["date"])) == list(pd.to_datetime(trained.series.timestamps[start : start + H]))
    assert f"out.{ending}: 24 rows x 7 columns" in out and f"trial {trial_id} of {trained.sweep_id}" in out
    assert command(trial_id, source, "--force", target=f"out.{ending}")[1] == out  # found by its name too


@pytest.mark.parametrize("trial_id", ["unpruned", PRUNED_ID])
def test_the_saved_models_forecasts_have_the_error_that_the_trial_reported(trained: Trained, trial_id: str) -> None:
    series = trained.series
    forecaster = Forecaster(trained.folder / trial_id)
    start, stop = series.bounds["test"]
    errors = []
    for row in range(start, stop - H + 1):
        error = forecaster.forecast(series.values[row - L : row]) - series.values[row : row + H]
        errors.append(np.square(error / series.std))
    assert np.mean(errors) == pytest.approx(trained.final[trial_id]["metrics"]["final/test_mse"], rel=1e-5)


def test_the_saved_facts_name_the_series_and_the_trial(trained: Trained) -> None:
    facts = Forecaster(trained.folder / PRUNED_ID).facts
    assert facts.columns == trained.series.columns and facts.step_minutes == 60
    assert facts.mean == tuple(trained.series.mean) and facts.std == tuple(trained.series.std)
    assert facts.dataset["source_sha256"] == trained.series.source_sha256
    assert (facts.trial["sweep_id"], facts.trial["trial_id"]) == (trained.sweep_id, PRUNED_ID)
    assert TrialConfig.model_validate(facts.trial["config"]) == config(**PRUNED)
    assert facts.trial["val_mse"] == trained.final[PRUNED_ID]["metrics"]["final/val_mse"]
    assert "torch" in facts.versions


def test_a_sweeps_best_trial_is_named_and_a_trial_a_folder_and_the_sweeps_run_are_found(
    trained: Trained, frame: pd.DataFrame, command: Command, tmp_path: Path
) -> None:
    source, results = _save(frame, tmp_path / "in.csv"), []
    parent = open_client(trained.uri).search_runs(["1"], "tags.role = 'sweep'")[0].info.run_id
    for run in (trained.sweep_id, parent, trained.winner, str(trained.folder / trained.winner)):
        code, out, _ = command(run, source, "--force")
        assert code == 0
        results.append((tmp_path / "out.csv").read_text())
        if run in (trained.sweep_id, parent):
            assert f"trial {trained.winner} of" in out and "the smallest validation MSE (" in out
    assert len(set(results)) == 1


def test_columns_that_the_model_does_not_know_and_their_order_do_not_matter(
    trained: Trained, frame: pd.DataFrame, command: Command, tmp_path: Path
) -> None:
    assert command("unpruned", _save(frame, tmp_path / "a.csv"), target="a-out.csv")[0] == 0
    more = frame[frame.columns[::-1]].assign(note="text", holiday=None)
    code, _, error = command("unpruned", _save(more, tmp_path / "b.csv"), target="b-out.csv")
    assert (code, error) == (0, "not columns of the model, ignored: note, holiday\n")
    assert (tmp_path / "a-out.csv").read_text() == (tmp_path / "b-out.csv").read_text()


def test_gaps_and_missing_values_before_the_context_do_not_matter(
    frame: pd.DataFrame, command: Command, tmp_path: Path
) -> None:
    frame.loc[:100, "OT"] = np.nan
    code, _, error = command("unpruned", _save(frame.drop(index=range(200, 300)), tmp_path / "in.csv"))
    assert (code, error) == (0, "")


def test_times_in_utc_stay_in_utc(frame: pd.DataFrame, command: Command, tmp_path: Path) -> None:
    source = _save(frame.assign(date=frame["date"].dt.tz_localize("UTC")), tmp_path / "in.parquet")
    assert command("unpruned", source, target="out.parquet")[0] == 0
    assert str(pd.read_parquet(tmp_path / "out.parquet")["date"].dt.tz) == "UTC"
    assert command("unpruned", source, target="out.csv")[0] == 0
    assert re.search(r"^\d{4}-\d\d-\d\d \d\d:00:00Z,", (tmp_path / "out.csv").read_text(), re.M)


def _without_last_step(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.drop(index=frame.index[-2])


def _with_nan(frame: pd.DataFrame) -> pd.DataFrame:
    frame.loc[frame.index[-L], "OT"] = np.nan
    return frame


def _with_infinity(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(HUFL=np.inf)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda frame: frame.drop(columns=["OT", "LULL"]), "no column 'LULL', 'OT': there are HUFL"),
        (lambda frame: frame.tail(L - 1), f"{L - 1} data rows, the model forecasts from {L}"),
        (_without_last_step, "there is a gap, .* is followed by .*: fill it"),
        (_with_nan, f"no finite value in column 'OT' at .*, within the last {L} rows"),
        (_with_infinity, "column 'HUFL': the value is not a finite"),
        (lambda frame: frame.iloc[::2], "there is one per 120 min, the model was trained on one per 60"),
        (lambda frame: frame.iloc[::-1], "sort the rows by time"),
        (lambda frame: pd.concat([frame, frame.tail(1).assign(OT=0.5)]), "follows .*: sort the rows by time"),
        (lambda frame: frame.assign(OT="warm"), "'OT' holds text .'warm'.*as the model was trained on"),
        (lambda frame: frame.drop(columns="date"), "no timestamp column .*data.timestamp_column=NAME"),
    ],
    ids=["columns", "short", "gap", "nan", "infinite", "step", "backwards", "twice", "text", "no time"],
)  # fmt: skip
def test_a_file_that_cannot_be_forecast_from_is_refused_in_one_line(
    frame: pd.DataFrame, command: Command, tmp_path: Path, change: Callable[[Any], Any], expected: str
) -> None:
    code, out, error = command("unpruned", _save(change(frame), tmp_path / "in.csv"))
    assert (code, out) == (2, "")
    assert re.search(expected, error) and error.count("\n") == 1, error
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        ("unpruend", "no folder, MLflow run, sweep or trial of this name; the latest .* Did you mean 'unpruned'"),
        ("0" * 32, "no folder, MLflow run, sweep or trial of this name"),
        ('it\'s "so"', "no folder, MLflow run, sweep or trial of this name"),
        ("failed", r"trial failed of .* is 'failed' \(no luck\) and has no model"),
        ("stopped", r"trial stopped of .* is 'stopped' \(too slow\) and has no model"),
        ("./nowhere", "there is no such folder"),
        ("{tmp}", "it holds no forecasting.json"),
        ("{tmp}/broken", "this model cannot be used: .* holds no complete model"),
    ],
)
def test_a_run_without_a_model_is_refused_in_one_line(
    frame: pd.DataFrame, command: Command, tmp_path: Path, run: str, expected: str
) -> None:
    (save_small(tmp_path / "broken") / "model.safetensors").unlink()
    code, out, error = command(run.format(tmp=tmp_path), _save(frame, tmp_path / "in.csv"))
    assert (code, out) == (2, "")
    assert re.search(expected, error) and error.count("\n") == 1, error


@pytest.mark.parametrize(
    ("source", "target", "more", "expected"),
    [
        ("in.xls", "out.csv", (), "--input .*in.xls: give a file ending in .csv, .csv.gz, .tsv"),
        ("none.csv", "out.csv", (), "--input .*none.csv: there is no such file"),
        ("in.csv", "out.json", (), "--output .*out.json: give a file ending in"),
        ("in.csv", "none/out.csv", (), "there is no folder"),
        ("in.csv", "there.csv", (), "it exists; .*--force"),
        ("in.csv", "in.csv", ("--force",), "this is the input"),
        ("in.csv", "folder.csv", ("--force",), "it is not a file"),
        ("in.csv", "out.csv", ("--device", "tpu"), "invalid choice: 'tpu'"),
    ],
)
def test_files_that_cannot_be_read_or_written_are_refused_before_a_model_is_looked_for(
    frame: pd.DataFrame, command: Command, tmp_path: Path, source: str, target: str, more: tuple[str, ...],
    expected: str,
) -> None:  # fmt: skip
    _save(frame, tmp_path / "in.csv")
    (tmp_path / "there.csv").write_text("mine")
    (tmp_path / "folder.csv").mkdir()
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    code, out, error = command("no-such-run", tmp_path / source, *more, target=target)
    assert (code, out) == (2, "")
    assert re.search(expected, error) and error.count("\n") == 1, error
    assert before == {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused(frame: pd.DataFrame, command: Command, tmp_path: Path) -> None:
    code, _, error = command("unpruned", _save(frame, tmp_path / "in.csv"), "--device", "cuda")
    assert code == 2 and "PyTorch finds no CUDA GPU here" in error


def test_nothing_that_the_store_holds_is_executed(
    trained: Trained, frame: pd.DataFrame, command: Command, tmp_path: Path
) -> None:
    packed = list((trained.folder / "artifacts").rglob("code/model/*.py"))
    assert packed
    texts = {file: file.read_text() for file in packed}
    try:
        for file in packed:
            file.write_text("raise SystemExit('executed')\n")
        assert command("unpruned", _save(frame, tmp_path / "in.csv"))[0] == 0
    finally:
        for file, text in texts.items():
            file.write_text(text)


def test_a_full_disk_leaves_neither_half_a_file_nor_a_traceback(
    trained: Trained, frame: pd.DataFrame, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    source = _save(frame, tmp_path / "in.csv")
    monkeypatch.setattr(os, "replace", full)
    code, _, error = command(str(trained.folder / "unpruned"), source)
    assert code == 2 and "No space left on device; name another file" in error
    assert not [path for path in tmp_path.iterdir() if "out.csv" in path.name]
