"""Sweeps as jobs of a real cluster: sent, left alone, found running by a second user, stopped, gone on with."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from job_cluster_kit import LocalCluster, local_cluster
from secret_kit import CANARIES, PLANTED, environments, files_with, found_in, plant_modules
from sweep_kit import ROOT, outbox

from tune.tracking.reader import read_sweep
from tune.tracking.store import PROJECT

CANARY = "canary-of-the-user"
EVERY = (*CANARIES, CANARY.encode())
SECRETS = {name: value for name, value in PLANTED.items() if not name.startswith("RAY_")}  # the cluster has Ray's own
TRAPS = ("model", "tune", "data_pipeline/__init__.py", "numpy", "yaml", "torch", "ray", "sitecustomize")
SWEEP = (  # noqa: SIM905
    "--sweep custom --over train.learning_rate=0.001,0.002 --dataset demo --repeats 1 --gpus-per-trial 0 "
    "--set data.context_length=96 --set data.prediction_length=24 --set model.d_model=32 --set model.ffn_dim=32"
).split()


@dataclass
class User:
    """Somebody with a terminal, who runs commands in a folder of their own."""

    folder: Path
    cluster: LocalCluster

    @property
    def uri(self) -> str:
        return f"sqlite:///{self.folder}/mlflow.db"

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        plain = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "RAY_"))}
        return subprocess.Popen(
            [sys.executable, str(ROOT / "experiments.py"), *arguments],
            cwd=self.folder, env={**plain, **self.cluster.clients, **SECRETS, "MLFLOW_TRACKING_PASSWORD": CANARY},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # as in a terminal
        )  # fmt: skip

    def submit(self, epochs: int) -> subprocess.Popen[str]:
        storage = ["--storage-path", str(self.folder / "runs"), "--tracking-uri", self.uri]
        return self.start(*SWEEP, "--epochs", str(epochs), "--submit", self.cluster.url, *storage)

    def ask(self, *words: str) -> tuple[int, str]:
        process = self.start(*words, "--cluster", self.cluster.url, "--tracking-uri", self.uri)
        return _rest(process)


def _rest(process: subprocess.Popen[str]) -> tuple[int, str]:
    said, _ = process.communicate(timeout=300)
    return process.returncode, said


def _until(happened: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        if found := happened():
            return found
        time.sleep(0.1)
    raise AssertionError("it did not happen")


@dataclass
class Story:
    """What one user heard, in its order."""

    user: User
    detached: tuple[int, str]
    status: dict[str, Any]
    second: tuple[int, str]
    stopped: tuple[int, str]
    again: tuple[int, str]
    other: tuple[int, str]  # of another sweep, on the same cluster, storage and store at the same time
    after: dict[str, Any]
    log: str
    record: Any
    shown: bytes  # command lines of the cluster's processes while a trial ran
    inherited: list[bytes]  # environments of the trials' processes
    core_limits: list[int]  # of the same, in bytes
    left: dict[str, set[str]]  # file of the cluster -> the secrets in it


def _trial_processes(cluster: LocalCluster) -> list[psutil.Process]:
    ours = []
    for process in _every_process(cluster):
        with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended
            ours += [process] if "tune.worker." in " ".join(process.cmdline()) else []
    forked = [process for process in ours if process.ppid() in {parent.pid for parent in ours}]  # by a fork server
    assert forked
    return forked


def _every_process(cluster: LocalCluster) -> list[psutil.Process]:
    assert cluster.node is not None
    return psutil.Process(cluster.node.pid).children(recursive=True)


def _records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "outbox.jsonl").read_text().splitlines()]


def _status(user: User) -> dict[str, Any]:
    code, said = user.ask("status", "--json", "-")
    assert code == 0, said
    return json.loads(said[said.index("{") : said.rindex("}") + 1])


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    with local_cluster(MLFLOW_TRACKING_PASSWORD=f"{CANARY}-on-the-cluster", **SECRETS) as cluster:
        user = User(tmp_path_factory.mktemp("submitted"), cluster)
        plant_modules(user.folder, user.folder / "executed", TRAPS)
        first = user.submit(epochs=2)
        _until(lambda: first.poll() is not None or any(record["kind"] == "epoch" for record in outbox(user.folder)))
        trials = _trial_processes(cluster)
        for trial in trials:
            trial.suspend()  # or a fast machine has done it all before the others have begun
        shown = b"\n".join(command.encode() for command, _ in environments(_every_process(cluster)))
        inherited = [environment for _, environment in environments(trials)]
        core_limits = [trial.rlimit(resource.RLIMIT_CORE)[0] for trial in trials]
        first.send_signal(signal.SIGINT)
        detached = _rest(first)
        status = _status(user)
        second = _rest(user.submit(epochs=2))
        other = user.submit(epochs=1)  # another sweep, which has trials of the same names
        stopping = user.start("stop", status["jobs"][0]["job"], "--cluster", cluster.url, "--tracking-uri", user.uri)
        assert stopping.stdout is not None and "stopping" in stopping.stdout.readline()
        time.sleep(1.0)
        for trial in trials:
            with contextlib.suppress(psutil.NoSuchProcess):  # the sweep that is stopped has ended it
                trial.resume()
        stopped = _rest(stopping)
        again = _rest(user.submit(epochs=2))
        others = _rest(other)
        after = _status(user)
        record = read_sweep(user.uri, PROJECT, status["jobs"][0]["sweep"])
        log = (cluster.folder / "node.log").read_text()
        log += "".join(
            file.read_text(errors="replace") for file in (cluster.folder / "t").rglob("*.log") if file.is_file()
        )
        seen = (shown, inherited, core_limits, files_with(cluster.folder, EVERY))
        yield Story(user, detached, status, second, stopped, again, others, after, log, record, *seen)


def test_ctrl_c_leaves_the_job_alone_and_says_how_to_follow_see_and_stop_it(story: Story) -> None:
    code, said = story.detached
    assert code == 130, said
    job = story.status["jobs"][0]["job"]
    assert f"job {job} runs the custom sweep at {story.user.cluster.url}" in said
    for command in ("logs -f", "status", "stop"):
        assert f"experiments.py {command} {job} --cluster {story.user.cluster.url}" in said
    assert "Traceback" not in said


def test_status_knows_whose_job_it_is_which_sweep_and_how_far(story: Story) -> None:
    (row,) = story.status["jobs"]
    assert row["state"] == "running" and row["user"]
    assert re.fullmatch(r"custom-\d{8}-\d{6}-[0-9a-f]{4}", row["sweep"])
    assert row["ended"] + row["left"] == 2


def test_the_same_sweep_of_a_second_user_is_refused_naming_the_job_that_runs_it(story: Story) -> None:
    code, said = story.second
    (row,) = story.status["jobs"]
    assert code == 2
    (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert f"{row['sweep']} is running as process" in line
    assert f" of {row['user']} since " in line and f"(job {row['job']})" in line


def test_a_stopped_sweep_goes_on_with_the_same_command_and_its_exit_code_is_the_jobs(story: Story) -> None:
    code, said = story.stopped
    assert code == 0 and "is stopped; the same command again goes on from there" in said, said
    code, said = story.again
    assert code == 0, said
    assert f"resuming {story.status['jobs'][0]['sweep']}, which did not finish" in said
    assert [row["state"] for row in story.after["jobs"]] == ["stopped", "failed (2)", "done", "done"]
    assert [(row["ended"], row["left"]) for row in story.after["jobs"][2:]] == [(2, 0), (2, 0)]


def test_nothing_ran_twice_and_all_of_it_is_one_sweep_of_this_code(story: Story) -> None:
    folder = story.user.folder / "runs" / story.record.sweep_id
    epochs = [(record["trial_id"], record["epoch"]) for record in _records(folder) if record["kind"] == "epoch"]
    assert len(epochs) == len(set(epochs)) == 4
    code = json.loads((folder / "sweep.json").read_text())["code"]
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    assert code["git_commit"] == (head or None)  # told to a machine that has no git of ours
    assert {trial.status for trial in story.record.trials} == {"done"}


def test_two_sweeps_at_once_on_one_cluster_storage_and_store_do_not_mix(story: Story) -> None:
    code, said = story.other
    assert code == 0, said
    folders = sorted((story.user.folder / "runs").glob("custom-*"))
    assert len(folders) == 2
    for folder in folders:
        records = _records(folder)
        assert {record["sweep_id"] for record in records} == {folder.name}
        sweep = read_sweep(story.user.uri, PROJECT, folder.name)
        planned = {record["trial_id"] for record in records if record["kind"] == "plan"}
        assert {trial.trial_id for trial in sweep.trials} == planned and len(planned) == 2
        assert {trial.tags["sweep_id"] for trial in sweep.trials} == {folder.name}
        epochs = {trial.params["train.epochs"] for trial in sweep.trials}
        logged = {len(trial.history["loss/val_mse"]) for trial in sweep.trials}
        assert epochs == {str(number) for number in logged}


def test_no_secret_of_the_user_or_the_cluster_is_in_storage_store_or_logs(story: Story) -> None:
    assert "experiments.py --sweep custom" in story.log  # the job's own log is among what is searched
    assert CANARY not in story.log
    assert files_with(story.user.folder, EVERY) == {}
    assert story.left == {}  # all of the session's folder, which lies in /tmp/ray as a rule
    heard = (story.detached, story.second, story.stopped, story.again, story.other)
    assert not [said for _, said in heard if found_in(said.encode(), EVERY)]


def test_no_command_line_on_the_cluster_shows_a_secret(story: Story) -> None:
    assert b"experiments.py --sweep custom" in story.shown
    assert found_in(story.shown, EVERY) == set()


def test_trials_on_a_cluster_inherit_none_of_its_secrets_and_leave_no_core_dumps(story: Story) -> None:
    assert story.inherited and all(b"PYTHONPATH=" in environment for environment in story.inherited)
    assert not [environment for environment in story.inherited if found_in(environment, EVERY)]
    assert set(story.core_limits) <= {0, 1}


def test_neither_the_command_nor_the_job_runs_a_module_of_the_current_folder(story: Story) -> None:
    executed = story.user.folder / "executed"
    assert not executed.exists(), executed.read_text()
