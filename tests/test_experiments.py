"""The command as a person runs it: real Ray, real MLflow (SQLite), real files, a driver killed mid-sweep."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tune.runner import PROJECT
from tune.tracking import SweepRecord, list_sweeps, read_sweep

ROOT = Path(__file__).resolve().parents[1]
ARMS = 11
EPOCHS = 2
SMALL = (  # noqa: SIM905
    "--sweep pruning --dataset demo --epochs 2 --set data.context_length=96 --set data.prediction_length=24 "
    "--set model.d_model=32 --set model.ffn_dim=32 --set train.learning_rate=0.001"
).split()


@dataclass
class Ran:
    folder: Path
    code: int
    out: str
    err: str

    @property
    def uri(self) -> str:
        return f"sqlite:///{self.folder / 'mlflow.db'}"

    @property
    def sweep_ids(self) -> list[str]:
        return [summary.sweep_id for summary in list_sweeps(self.uri, PROJECT)]

    def record(self, sweep_id: str | None = None) -> SweepRecord:
        return read_sweep(self.uri, PROJECT, sweep_id or self.sweep_ids[0])


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}


def _run(folder: Path, *arguments: str) -> Ran:
    done = subprocess.run(
        [sys.executable, str(ROOT / "experiments.py"), *arguments],
        cwd=folder, env=_environment(), capture_output=True, text=True, timeout=540,
    )  # fmt: skip
    return Ran(folder, done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """The whole pruning sweep, once."""
    return _run(tmp_path_factory.mktemp("swept"), *SMALL, "--json", "result.json")


def _epochs_once(record: SweepRecord) -> None:
    for trial in record.trials:
        for name in ("loss/val_mse", "loss/train_mse", "time/train_s", "model/heads"):
            assert [step for step, _ in trial.history[name]] == list(range(1, EPOCHS + 1)), (trial.trial_id, name)


def test_the_sweep_ends_well_with_a_table_of_all_arms(swept: Ran) -> None:
    assert swept.code == 0, swept.err
    for trial in swept.record().trials:
        assert trial.tags["arm"] in swept.out
    assert "test MSE" in swept.out and "median epoch s" in swept.out
    assert "mlflow ui --backend-store-uri" in swept.out


def test_mlflow_holds_one_parent_and_one_child_per_trial_and_every_epoch_once(swept: Ran) -> None:
    assert len(swept.sweep_ids) == 1
    record = swept.record()
    assert record.status == "done"
    assert len(record.trials) == len({trial.trial_id for trial in record.trials}) == ARMS
    assert {trial.status for trial in record.trials} == {"done"}
    _epochs_once(record)


def test_the_numbers_of_the_table_are_mlflows(swept: Ran) -> None:
    for trial in swept.record().trials:
        row = next(line for line in swept.out.splitlines() if f" {trial.tags['arm']} " in line)
        assert f"{trial.metrics['final/test_mse']:.4f}" in row
        assert f"{trial.metrics['final/parameters']:,.0f}" in row


def test_the_parent_run_carries_each_arms_summary(swept: Ran) -> None:
    record = swept.record()
    for trial in record.trials:
        assert record.metrics[f"test_mse/{trial.tags['arm']}"] == pytest.approx(trial.metrics["final/test_mse"])


def test_the_trained_model_lies_in_mlflow_and_loads(swept: Ran, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    from model.patchtst import heads_per_layer, load_model

    trial = next(trial for trial in swept.record().trials if trial.tags["arm"] == "static-4-8")
    client = MlflowClient(swept.uri)
    folder = client.download_artifacts(trial.run_id, "model", str(tmp_path))
    assert all(4 not in layer and 8 not in layer for layer in heads_per_layer(load_model(Path(folder))))


def test_the_time_parts_of_every_epoch_sum_to_the_epoch(swept: Ran) -> None:
    for trial in swept.record().trials:
        assert max(value for _, value in trial.history["time/unexplained_pct"]) < 2


def test_the_json_file_holds_params_and_metrics_by_their_names(swept: Ran) -> None:
    result = json.loads((swept.folder / "result.json").read_text())
    assert result["sweep"] == "pruning" and result["sweep_id"] == swept.sweep_ids[0]
    assert len(result["trials"]) == ARMS
    trial = result["trials"][0]
    assert trial["params"]["data.dataset"] == "demo" and trial["metrics"]["final/test_mse"] > 0
    assert result["environment"]["versions"]["torch"].startswith("2.11")
    assert len(result["environment"]["code_sha256"]) == 64


def test_progress_with_an_estimate_goes_to_stderr_and_the_table_to_stdout(swept: Ran) -> None:
    assert "ETA" in swept.err and "ETA" not in swept.out
    assert f"[{ARMS}/{ARMS} done]" in swept.err


def test_report_prints_the_same_table_again(swept: Ran) -> None:
    again = _run(swept.folder, "report", swept.sweep_ids[0])
    assert again.code == 0, again.err
    table = [line for line in swept.out.splitlines() if line.startswith("│")]
    assert table and all(line in again.out for line in table)


def test_a_trial_gets_the_whole_device_and_one_process_of_its_own(swept: Ran) -> None:
    assert {trial.tags["timing_valid"] for trial in swept.record().trials} == {"true"}


def _outbox(folder: Path) -> list[dict[str, Any]]:
    files = list((folder / "runs").glob("*/outbox.jsonl"))
    text = files[0].read_text() if files else ""
    return [json.loads(line) for line in text.splitlines() if line.endswith("}")]


def _kill_after(folder: Path, *, ended: int) -> None:
    """Start the sweep and SIGKILL its driver once `ended` trials have ended and the next has reported an epoch."""
    with open(folder / "driver.log", "wb") as log:
        driver = subprocess.Popen(
            [sys.executable, str(ROOT / "experiments.py"), *SMALL],
            cwd=folder,
            env=_environment(),
            stdout=log,
            stderr=log,
        )
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and driver.poll() is None:
        records = _outbox(folder)
        over = {record["trial_id"] for record in records if record["kind"] == "end"}
        begun = {record["trial_id"] for record in records if record["kind"] == "epoch"}
        if len(over) >= ended and begun - over:
            break
        time.sleep(0.05)
    assert driver.poll() is None, (folder / "driver.log").read_text()
    driver.send_signal(signal.SIGKILL)
    driver.wait()


def test_after_sigkill_of_the_driver_the_same_command_finishes_without_repeating_anything(tmp_path: Path) -> None:
    _kill_after(tmp_path, ended=2)
    before = _outbox(tmp_path)
    finished = {record["trial_id"] for record in before if record["kind"] == "end"}
    resumed = _run(tmp_path, *SMALL)
    assert resumed.code == 0, resumed.err
    assert "resuming pruning-" in resumed.err
    assert len(resumed.sweep_ids) == 1
    record = resumed.record()
    assert {trial.status for trial in record.trials} == {"done"} and len(record.trials) == ARMS
    _epochs_once(record)
    for trial_id in finished:
        assert f"{trial_id} started" not in resumed.err
    for trial in record.trials:
        logged = [r["epoch"] for r in _outbox(tmp_path) if r["kind"] == "epoch" and r["trial_id"] == trial.trial_id]
        assert logged == list(range(1, EPOCHS + 1))


def test_interrupting_the_sweep_exits_130_and_the_same_command_goes_on(tmp_path: Path) -> None:
    with open(tmp_path / "driver.log", "wb") as log:
        driver = subprocess.Popen(
            [sys.executable, str(ROOT / "experiments.py"), *SMALL],
            cwd=tmp_path,
            env=_environment(),
            stdout=log,
            stderr=log,
        )
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and not any(record["kind"] == "epoch" for record in _outbox(tmp_path)):
        time.sleep(0.05)
    driver.send_signal(signal.SIGINT)
    assert driver.wait(timeout=120) == 130, (tmp_path / "driver.log").read_text()
    assert "the same command again goes on" in (tmp_path / "driver.log").read_text()
    planned = _run(tmp_path, *SMALL, "--plan")
    assert planned.code == 0


def test_the_plan_names_every_trial_and_runs_nothing(tmp_path: Path) -> None:
    planned = _run(tmp_path, "--sweep", "pruning", "--dataset", "demo", "--plan", "--json", "-")
    assert planned.code == 0
    result = json.loads(planned.out)
    assert len(result["trials"]) == ARMS
    assert all(trial["trial_id"] in planned.err for trial in result["trials"])
    assert list(tmp_path.iterdir()) == []


WRONG = [
    (["--sweep", "prunning"], "unknown sweep 'prunning'; allowed: num_workers, pruning. Did you mean 'pruning'?"),
    (["--sweep", "pruning", "--dataset", "ETTh9"], "ETTh9"),
    (["--sweep", "pruning", "--dataset", "nowhere.csv"], "there is no file"),
    (["--sweep", "pruning", "--dataset", "demo", "--set", "data.context_length=5000"], "holds no window"),
    (["--sweep", "pruning", "--dataset", "demo", "--set", "data.num_workers=2"], "the device feed has no workers"),
    (["data", "show", "ETTh9"], "did you mean"),
    (["--sweep", "pruning", "--set", "model.d_model"], "write FIELD=VALUE"),
    (["--sweep", "pruning", "--set", "model.d_modle=3"], "Did you mean 'model.d_model'?"),
    (["--sweep", "pruning", "--dataset", "demo", "--set", "data.dataset=demo"], "data.dataset is given twice"),
    (["--sweep", "pruning", "--epochs", "0"], "train.epochs=0"),
    (["--sweep", "pruning", "--epochs", "two"], "invalid int value: 'two'"),
    (["--sweep", "pruning", "--repeats", "0"], "--repeats 0: give 1 or more"),
    (["--sweep", "pruning", "--max-concurrent", "0"], "--max-concurrent 0: give 1 or more"),
    (["--sweep", "pruning", "--dataset", "demo", "--resume", "nope"], "--resume nope: no such sweep"),
    (["--sweep", "pruning", "--dataset", "demo", "--gpus-per-trial", "2"], "--gpus-per-trial 2"),
    (["--sweep", "pruning", "--dataset", "demo", "--tracking-uri", "http://127.0.0.1:9"], "127.0.0.1:9"),
    (["--sweep", "pruning", "--what"], "unrecognized arguments: --what"),
    ([], "the following arguments are required: --sweep"),
    (["report", "nope"], "run a sweep"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG, ids=[" ".join(arguments) for arguments, _ in WRONG])
def test_wrong_input_is_one_line_and_exit_code_2(tmp_path: Path, arguments: list[str], message: str) -> None:
    done = _run(tmp_path, *arguments, *([] if arguments[:1] == ["report"] else ["--quiet"]))
    assert done.code == 2, done.err
    lines = [line for line in done.err.splitlines() if line]
    assert len(lines) == 1 and lines[0].startswith("error: "), done.err
    assert message in lines[0]
    assert done.out == ""
