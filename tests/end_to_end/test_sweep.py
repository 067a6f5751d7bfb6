"""The command as a person runs it: real Ray, real MLflow (SQLite), real files, a driver killed mid-sweep."""

from __future__ import annotations

import json
import re
import signal
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from sweep_kit import ROOT, Driver, Ran, ended, epochs, read, run

from tune.report.accounts import accounts, accounts_line
from tune.tracking.reader import SweepRecord

ARMS = 11
EPOCHS = 3
SMALL = (  # noqa: SIM905
    "--sweep pruning --dataset demo --epochs 3 --repeats 1 --set data.context_length=96 "
    "--set data.prediction_length=24 --set model.d_model=32 --set model.ffn_dim=32 --set train.learning_rate=0.001"
).split()


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """The whole pruning sweep, once."""
    return run(tmp_path_factory.mktemp("swept"), *SMALL, "--json", "result.json")


def _epochs_once(record: SweepRecord) -> None:
    for trial in record.trials:
        for name in ("loss/val_mse", "loss/train_mse", "time/train_s", "model/heads"):
            assert [step for step, _ in trial.history[name]] == list(range(1, EPOCHS + 1)), (trial.trial_id, name)


def test_the_sweep_ends_well_with_a_table_of_all_arms(swept: Ran) -> None:
    assert swept.code == 0, swept.err
    for trial in swept.record().trials:
        assert trial.tags["arm"] in swept.out
    assert "s/epoch" in swept.out and "verdict" in swept.out
    view = rf"runs\?workflowType=machine_learning&viewStateShareKey={swept.sweep_ids[0]}"
    assert re.search(rf"MLflow UI: http://127\.0\.0\.1:5000/#/experiments/\d+/{view} after .* ui", swept.out)


def test_mlflow_holds_one_parent_and_one_child_per_trial_and_every_epoch_once(swept: Ran) -> None:
    assert len(swept.sweep_ids) == 1
    record = swept.record()
    assert record.status == "done"
    assert len(record.trials) == len({trial.trial_id for trial in record.trials}) == ARMS
    assert {trial.status for trial in record.trials} == {"done"}
    _epochs_once(record)


def test_the_numbers_of_the_table_are_mlflows(swept: Ran) -> None:
    every = read(swept.folder, "report", swept.sweep_ids[0], "--verbose")
    for trial in swept.record().trials:
        row = next(line for line in every.out.splitlines() if line.startswith(f"│ {trial.tags['arm']} "))
        assert f"{trial.metrics['final/test_mse']:.4f}" in row
        assert f"{trial.metrics['final/parameters']:,.0f}" in row
        seconds = f" {trial.metrics['final/epoch_all_windows_s']:.3f} "
        assert seconds in next(line for line in swept.out.splitlines() if line.startswith(f"{trial.tags['arm']} "))


def test_the_parent_run_carries_each_arms_summary(swept: Ran) -> None:
    record = swept.record()
    for trial in record.trials:
        assert record.metrics[f"arm_test_mse/{trial.tags['arm']}"] == pytest.approx(trial.metrics["final/test_mse"])


def test_the_parent_run_carries_the_whole_report(swept: Ran, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    run_id = swept.record().run_id
    files = [
        MlflowClient(swept.uri).download_artifacts(run_id, f"report.{kind}", str(tmp_path)) for kind in ("md", "html")
    ]
    for text in (Path(file).read_text() for file in files):
        assert "By pruning" in text and "magnitude, 1 a layer, one shot" in text
        assert "No GPU was used." in text or "all arms" in text


def test_the_model_in_mlflow_is_the_one_whose_test_error_is_reported(swept: Ran, tmp_path: Path) -> None:
    import torch
    from mlflow import MlflowClient

    from data_pipeline.feed import open_feed
    from data_pipeline.series.store import open_series
    from model.heads import heads_per_layer
    from model.patchtst import load_model
    from tune.measure.accuracy import evaluate
    from tune.tracking.model_package import download_model

    trial = next(trial for trial in swept.record().trials if trial.tags["arm"] == "static-4-8")
    client = MlflowClient(swept.uri)
    download_model(client, trial.run_id, tmp_path / "model")
    model = load_model(tmp_path / "model")
    assert all(4 not in layer and 8 not in layer for layer in heads_per_layer(model))
    series = open_series("demo", None, tmp_path)
    feed = open_feed(
        "device", series, context_length=96, prediction_length=24, batch_size=128, device="cpu", seed=1, num_workers=0
    )
    with torch.no_grad():
        forecast = {"model": lambda past: model(past_values=past).prediction_outputs}
        errors = evaluate(forecast, feed.eval_batches("test"))["model"]
    assert errors.mse == pytest.approx(trial.metrics["final/test_mse"], rel=1e-6)


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
    assert f"[{ARMS}/{ARMS} ended]" in swept.err


def _trained_s(record: SweepRecord) -> float:
    return sum(seconds for trial in record.trials for _, seconds in trial.history["time/train_s"])


def test_the_parts_of_the_wall_time_sum_to_it_and_stand_in_the_report_in_json_and_in_mlflow(swept: Ran) -> None:
    record, result = swept.record(), json.loads((swept.folder / "result.json").read_text())
    found = accounts(record)
    assert found is not None and found.whole and (found.runs, found.devices) == (1, 1)
    assert sum(found.parts_s.values()) == pytest.approx(found.wall_s)
    assert found.parts_s["training"] == pytest.approx(_trained_s(record))
    assert min(found.parts_s[name] for name in ("validation", "gaps", "rest")) > 0
    assert accounts_line(found) in swept.out
    assert result["accounts"]["wall_s"] == record.metrics["sweep/wall_s"] == pytest.approx(found.wall_s)


def test_report_prints_the_same_table_again(swept: Ran) -> None:
    again = read(swept.folder, "report", swept.sweep_ids[0])
    assert again.code == 0, again.err
    arms = tuple(f"{trial.tags['arm']} " for trial in swept.record().trials)
    table = [line for line in swept.out.splitlines() if line.startswith(arms)]
    assert len(table) == ARMS and all(line in again.out for line in table)


def test_each_trial_has_a_process_of_its_own(swept: Ran) -> None:
    assert len({trial.tags["process"] for trial in swept.record().trials}) == ARMS


def test_every_process_but_the_first_was_prepared_while_the_trial_before_it_started(swept: Ran) -> None:
    tags = [trial.tags for trial in swept.record().trials]
    assert sorted(each["warm_start"] for each in tags) == ["forked"] + ["prepared"] * (ARMS - 1)
    assert {each["compile_cache"] for each in tags} == {"shared"}


FEWER = 5  # arms that lose their processes: the baseline, and those that choose heads at random or step by step
FEWER_ARMS = """
import sys
from dataclasses import replace
sys.path.insert(0, {root!r})
from tune.commands.main import main
from tune.config import sweeps
whole = sweeps.pruning()
sweeps.SWEEPS["pruning"] = lambda: replace(whole, arms=whole.arms[:1] + whole.arms[1 - {fewer}:])
if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
"""


@dataclass
class Battered:
    """One sweep that lost a trial's process, was interrupted, lost an actor and its driver, and finished isolated."""

    killed: psutil.Process
    left: list[psutil.Process]  # of the trials of the interrupted run, once it had ended
    interrupt_code: int
    interrupt_log: str
    ended_before_kill: set[str]
    last: Ran


@pytest.fixture(scope="module")
def battered(tmp_path_factory: pytest.TempPathFactory) -> Battered:
    folder = tmp_path_factory.mktemp("battered")
    program = folder / "fewer_arms.py"
    program.write_text(FEWER_ARMS.format(root=str(ROOT), fewer=FEWER))
    first = Driver(folder, "first.log", *SMALL, program=program)
    first.until_a_trial_is_between_epochs()
    ours = first.processes("tune.worker.")
    (fork_server,) = (
        process for process in ours if process.ppid() not in {parent.pid for parent in ours}
    )  # the node's only one
    killed = min(fork_server.children(), key=lambda process: process.create_time())  # not the prepared one
    killed.kill()
    first.until(lambda: ended(folder))
    first.until_a_trial_is_between_epochs()
    processes = first.processes("tune.worker.")
    assert len(processes) >= 2
    said_before = len(first.log.read_text())  # by Ray, of the process that was killed
    first.process.send_signal(signal.SIGINT)
    code = first.process.wait(timeout=120)
    _, left = psutil.wait_procs(processes, timeout=30)
    second = Driver(folder, "second.log", *SMALL, program=program)
    second.until_a_trial_is_between_epochs()
    for process in second.processes("ImplicitFunc"):
        process.kill()
    second.until(lambda: len(ended(folder)) >= 3)
    second.until_a_trial_is_between_epochs()
    before_kill = ended(folder)
    second.process.send_signal(signal.SIGKILL)
    second.process.wait()
    last = run(folder, *SMALL, "--isolate", program=program)
    return Battered(killed, left, code, first.log.read_text()[said_before:], before_kill, last)


def test_an_interrupted_sweep_exits_130_and_says_how_to_go_on(battered: Battered) -> None:
    assert battered.interrupt_code == 130, battered.interrupt_log
    assert "the same command again goes on" in battered.interrupt_log
    assert "Traceback" not in battered.interrupt_log


def test_an_interrupted_sweep_leaves_no_process_of_a_trial(battered: Battered) -> None:
    assert not battered.killed.is_running()
    assert battered.left == []


def test_the_same_command_finishes_the_same_sweep_and_says_that_it_resumes(battered: Battered) -> None:
    assert battered.last.code == 0, battered.last.err
    assert "resuming pruning-" in battered.last.err
    assert len(battered.last.sweep_ids) == 1
    record = battered.last.record()
    assert record.status == "done"
    assert {trial.status for trial in record.trials} == {"done"} and len(record.trials) == FEWER


def test_an_isolated_trial_starts_cold_with_caches_of_its_own_and_leaves_none(battered: Battered) -> None:
    tags = [trial.tags for trial in battered.last.record().trials]
    isolated = [each for each in tags if each["compile_cache"] == "isolated"]
    assert isolated and {each["warm_start"] for each in isolated} == {"cold"}
    assert {each["gate_verdict"] for each in isolated} == {"measured"}
    assert list((battered.last.folder / "runs").glob("*/isolated")) == []


def test_no_trial_that_had_ended_runs_again(battered: Battered) -> None:
    assert len(battered.ended_before_kill) >= 3
    for trial_id in battered.ended_before_kill:
        assert f"{trial_id} started" not in battered.last.err


def test_every_epoch_is_there_once_whatever_was_lost(battered: Battered) -> None:
    _epochs_once(battered.last.record())
    seen = epochs(battered.last.folder)
    assert len(seen) == len(set(seen)) == FEWER * EPOCHS


def test_the_wall_time_is_that_of_all_three_runs_also_of_the_one_that_was_killed(battered: Battered) -> None:
    record = battered.last.record()
    found = accounts(record)
    assert found is not None and found.whole and found.runs == 3
    assert sum(found.parts_s.values()) == pytest.approx(found.wall_s)
    assert found.parts_s["training"] == pytest.approx(_trained_s(record))


def test_losing_processes_changes_no_result(battered: Battered, swept: Ran) -> None:
    theirs = {trial.trial_id: trial.metrics["final/test_mse"] for trial in swept.record().trials}
    ours = {trial.trial_id: trial.metrics["final/test_mse"] for trial in battered.last.record().trials}
    assert ours == {trial_id: theirs[trial_id] for trial_id in ours}


def test_the_plan_names_every_trial_and_runs_nothing(tmp_path: Path) -> None:
    planned = read(tmp_path, "--sweep", "pruning", "--dataset", "demo", "--plan", "--json", "-")
    assert planned.code == 0
    result = json.loads(planned.out)
    assert len(result["trials"]) == 10 * ARMS  # the most that may run
    assert all(trial["trial_id"] in planned.err for trial in result["trials"][: 3 * ARMS])
    assert f"{3 * ARMS} to {10 * ARMS} trials in 3 to 10 blocks" in planned.err
    assert list(tmp_path.iterdir()) == []


WRONG = [
    (["--sweep", "prunning"], "Did you mean 'pruning'?"),
    (["--sweep", "pruning", "--dataset", "ETTh9"], "ETTh9"),
    (["--sweep", "pruning", "--dataset", "nowhere.csv"], "there is no file"),
    (["--sweep", "pruning", "--dataset", "demo", "--set", "data.context_length=5000"], "holds no window"),
    (["--sweep", "pruning", "--dataset", "demo", "--set", "data.num_workers=2"], "the device feed has no workers"),
    (["data", "show", "ETTh9"], "did you mean"),
    (["--sweep", "pruning", "--set", "model.d_model"], "write FIELD=VALUE"),
    (["--sweep", "pruning", "--set", "model.d_modle=3"], "Did you mean 'model.d_model'?"),
    (["--sweep", "pruning", "--dataset", "demo", "--set", "data.dataset=demo"], "data.dataset is given twice"),
    (["--sweep", "pruning", "--epochs", "0"], "train.epochs=0"),
    (["--sweep", "pruning", "--epochs", "two"], "--epochs: two is not a whole number"),
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
    start = run if (arguments, message) == WRONG[0] else read  # one in a process of its own: each takes seconds
    done = start(tmp_path, *arguments, *([] if arguments[:1] == ["report"] else ["--quiet"]))
    assert done.code == 2, done.err
    lines = [line for line in done.err.splitlines() if line]
    assert len(lines) == 1 and lines[0].startswith("error: "), done.err
    assert message in lines[0]
    assert done.out == ""
