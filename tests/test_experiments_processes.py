"""A sweep whose trial processes are killed, that is interrupted and goes on isolated: nothing lost, nothing left."""

from __future__ import annotations

import signal
from collections import Counter
from dataclasses import dataclass

import psutil
import pytest
from sweep_kit import Driver, Ran, ended, epochs, run

SWEEP = (  # noqa: SIM905
    "--sweep custom --over train.learning_rate=0.001,0.002,0.003 --dataset demo --epochs 3 --repeats 1 "
    "--set data.context_length=96 --set data.prediction_length=24 --set model.d_model=32 --set model.ffn_dim=32"
).split()


@dataclass
class Battered:
    code: int
    killed: psutil.Process
    left: list[psutil.Process]  # of the interrupted run, once it had ended
    last: Ran


def _of_trials(driver: Driver) -> list[psutil.Process]:
    children = psutil.Process(driver.process.pid).children(recursive=True)
    return [child for child in children if "tune.standby" in " ".join(child.cmdline())]


@pytest.fixture(scope="module")
def battered(tmp_path_factory: pytest.TempPathFactory) -> Battered:
    folder = tmp_path_factory.mktemp("battered")
    first = Driver(folder, "first.log", *SWEEP)
    first.until_a_trial_is_between_epochs()
    serving = next(process for process in _of_trials(first) if "serve" in process.cmdline())
    serving.kill()
    first.until(lambda: ended(folder))
    first.until_a_trial_is_between_epochs()
    processes = _of_trials(first)
    assert len(processes) >= 2
    first.process.send_signal(signal.SIGINT)
    code = first.process.wait(timeout=120)
    _, left = psutil.wait_procs(processes, timeout=30)
    return Battered(code, serving, left, run(folder, *SWEEP, "--isolate"))


def test_an_interrupted_sweep_leaves_no_process_of_a_trial(battered: Battered) -> None:
    assert battered.code == 130
    assert battered.left == []


def test_a_trial_whose_process_was_killed_runs_again_and_every_epoch_is_there_once(battered: Battered) -> None:
    assert not battered.killed.is_running()
    assert battered.last.code == 0, battered.last.err
    assert {trial.status for trial in battered.last.record().trials} == {"done"}
    assert Counter(epochs(battered.last.folder)).most_common(1)[0][1] == 1
    assert len(epochs(battered.last.folder)) == 3 * 3


def test_an_isolated_trial_starts_cold_with_caches_of_its_own_and_leaves_none(battered: Battered) -> None:
    tags = [trial.tags for trial in battered.last.record().trials]
    isolated = [one for one in tags if one["compile_cache"] == "isolated"]
    assert isolated and {one["warm_start"] for one in isolated} == {"cold"}
    assert {one["gate_verdict"] for one in isolated} == {"measured"}
    assert list((battered.last.folder / "runs").glob("*/isolated")) == []
