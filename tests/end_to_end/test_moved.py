"""A project that moves in the middle of its sweep, and after it: real commands, real artifacts, one sweep for all."""

from __future__ import annotations

import math
import shutil
import sqlite3
from dataclasses import dataclass
from pathlib import Path

import pytest
from sweep_kit import Driver, Ran, ended, run

pytestmark = pytest.mark.cluster
ARMS = 3
SWEEP = (  # noqa: SIM905
    "--sweep custom --over train.learning_rate=1e-4,1e-3,1e-2 --dataset small.csv --epochs 1 --repeats 1 "
    "--set data.context_length=48 --set data.prediction_length=12 --set train.batch_size=32"
).split()


@dataclass
class Moved:
    folder: Path
    first: Path  # where the sweep began
    resumed: Ran
    ended_before: set[str]


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory) -> Moved:
    """A sweep whose driver is killed after its first trial, whose folder then gets another name and goes on."""
    top = tmp_path_factory.mktemp("projects")
    first, second = top / "a", top / "b"
    first.mkdir()
    rows = [f"2020-01-{1 + hour // 24:02} {hour % 24:02}:00,{math.sin(hour / 4):.4f},{hour % 5}" for hour in range(700)]
    (first / "small.csv").write_text("\n".join(["date,a,b", *rows]) + "\n")
    driver = Driver(first, "log", *SWEEP)
    driver.until(lambda: ended(first))
    driver.process.kill()
    driver.process.wait()
    before = ended(first)
    first.rename(second)
    return Moved(second, first, run(second, *SWEEP), before)


def test_trials_that_had_ended_are_not_trained_again(moved: Moved) -> None:
    assert moved.resumed.code == 0, moved.resumed.err
    assert "which did not finish" in moved.resumed.err
    assert f"its storage {moved.first}/runs is now {moved.folder}/runs" in moved.resumed.err
    assert 1 <= len(moved.ended_before) < ARMS
    for trial in moved.ended_before:
        assert f"{trial} started" not in moved.resumed.err
    (sweep_id,) = moved.resumed.sweep_ids
    record = moved.resumed.record(sweep_id)
    assert [trial.status for trial in record.trials] == ["done"] * ARMS
    assert {len(trial.history["loss/val_mse"]) for trial in record.trials} == {1}


def test_nothing_is_made_where_the_project_was_and_no_record_names_that_place(moved: Moved) -> None:
    assert not moved.first.exists()
    database = sqlite3.connect(moved.folder / "mlflow.db")
    rows = database.execute(
        "SELECT artifact_uri FROM runs UNION SELECT artifact_location FROM logged_models UNION "
        "SELECT artifact_location FROM experiments WHERE name = 'patchtst-sweeps'"
    ).fetchall()
    database.close()
    assert len(rows) == 1 + 1 + ARMS + ARMS
    assert all(uri.startswith((moved.folder / "runs" / "mlartifacts").as_uri()) for (uri,) in rows)


def test_the_finished_sweep_keeps_neither_optimizer_moments_nor_a_second_report(moved: Moved) -> None:
    (sweep,) = (moved.folder / "runs").glob("custom-*")
    assert not list(sweep.rglob("moments.safetensors")) and not list(sweep.rglob("state.pt"))
    assert (sweep / "outbox.jsonl").stat().st_size < 500_000
    (page,) = (moved.folder / "runs" / "mlartifacts").rglob("report.html")
    text = page.read_text()
    assert all(f"learning_rate={rate}" in text for rate in ("0.0001", "0.001", "0.01"))


def test_a_moved_copy_predicts_with_its_own_model_and_says_what_is_missing(moved: Moved, tmp_path: Path) -> None:
    (sweep_id,) = moved.resumed.sweep_ids
    copy = tmp_path / "copy of it"
    shutil.copytree(moved.folder, copy)
    shutil.copytree(copy / "runs" / "mlartifacts", tmp_path / "kept")
    forecast = ("predict", sweep_id, "--input", "small.csv", "--output")
    done = run(copy, *forecast, "one.csv")
    assert done.code == 0, done.err
    shutil.rmtree(copy / "runs" / "mlartifacts")
    moved.folder.rename(moved.first)
    try:
        missing = run(copy, *forecast, "two.csv")
    finally:
        moved.first.rename(moved.folder)
    assert missing.code == 2 and not (copy / "two.csv").exists()
    (line,) = missing.err.splitlines()
    assert (
        f"{moved.folder}/runs/mlartifacts" in line and f"{copy}/runs/mlartifacts" in line and "--storage-path" in line
    )
    (elsewhere := tmp_path / "elsewhere").mkdir()
    (tmp_path / "kept").rename(elsewhere / "mlartifacts")
    again = run(copy, *forecast, "two.csv", "--storage-path", str(elsewhere))
    assert again.code == 0, again.err
    assert (copy / "one.csv").read_bytes() == (copy / "two.csv").read_bytes()
