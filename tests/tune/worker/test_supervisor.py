"""Every trial has a fresh process, prepared while the trial before it starts up; none of them is left behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import psutil
import pytest
from supervisor_kit import job_in, until
from trial_kit import Recorder, small_config

from tune.trial.report import EpochReport, Report
from tune.worker.process import ProcessLost, TrialProcess
from tune.worker.supervisor import OutOfMemory, TrialSupervisor

ROOT = Path(__file__).resolve().parents[3]


FREE: dict[str, Any] = {"config": small_config(**{"train.epochs": 3}), "awaits_answer": False}


def _run(supervisor: TrialSupervisor, folder: Path, **changes: Any) -> Recorder:
    recorder = Recorder(folder)
    supervisor.run(job_in(folder, **changes), recorder, None)
    return recorder


def _processes(parent: int) -> list[psutil.Process]:
    children = psutil.Process(parent).children(recursive=True)
    return [child for child in children if "tune.worker." in " ".join(child.cmdline())]


@pytest.fixture(scope="module", autouse=True)
def _in_a_trials_own_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """As Tune does: a trial's process keeps its files in the actor's working directory until they are stored."""
    with contextlib.chdir(tmp_path_factory.mktemp("trial")):
        yield


@pytest.fixture(scope="module")
def supervisor(_in_a_trials_own_folder: None) -> Iterator[TrialSupervisor]:
    """One actor's, with a warm fork server; its processes end with the tests."""
    supervisor = TrialSupervisor()
    yield supervisor
    if supervisor.prepared is not None:
        supervisor.prepared.end(0.0)
    if supervisor.fork_server is not None:
        supervisor.fork_server.end()


@pytest.fixture(scope="module")
def in_turn(supervisor: TrialSupervisor, tmp_path_factory: pytest.TempPathFactory) -> list[Recorder]:
    """Three trials, one after another."""
    return [
        _run(supervisor, tmp_path_factory.mktemp("in-turn") / name, moved_because=why)
        for name, why in (("a", None), ("b", "its GPU is gone"), ("c", None))
    ]


def test_the_first_trials_process_is_forked_and_the_next_ones_are_prepared(in_turn: list[Recorder]) -> None:
    assert [trial.final["status"] for trial in in_turn] == ["done"] * 3, in_turn[0].final
    assert [trial.final["tags"]["warm_start"] for trial in in_turn] == ["forked", "prepared", "prepared"]
    why = [trial.final["tags"].get("unprepared_because") for trial in in_turn]
    assert why == ["no trial ran before it in this actor", None, None]


def test_each_trial_has_a_process_of_its_own_which_is_gone_when_the_trial_is(in_turn: list[Recorder]) -> None:
    pids = {int(trial.final["tags"]["process"]) for trial in in_turn}
    assert len(pids | {os.getpid()}) == 4
    until(
        lambda: not [pid for pid in pids if psutil.pid_exists(pid)]
    )  # an ended process stays until the fork server collects it


def test_a_checkpoint_gets_its_manifest_before_it_is_stored(in_turn: list[Recorder]) -> None:
    assert [trial.had_manifest for trial in in_turn] == [[True, True, False]] * 3  # the end is no checkpoint


def test_a_trial_that_moved_to_another_gpu_says_why(in_turn: list[Recorder]) -> None:
    assert [trial.final["tags"].get("moved_because") for trial in in_turn] == [None, "its GPU is gone", None]


def test_cold_forked_and_prepared_processes_compute_the_same(
    in_turn: list[Recorder], supervisor: TrialSupervisor, tmp_path: Path
) -> None:
    cold = _run(supervisor, tmp_path / "a", isolate=True)
    assert cold.final["tags"]["warm_start"] == "cold"
    errors = [trial.final["metrics"]["final/test_mse"] for trial in (cold, *in_turn)]
    assert errors == errors[:1] * 4


@pytest.mark.parametrize("isolate", [False, True])
def test_a_process_that_ran_the_gate_hands_over_to_a_process_that_measures_nothing(
    supervisor: TrialSupervisor, tmp_path: Path, isolate: bool
) -> None:
    folders = {"gate_dir": None if isolate else str(tmp_path / "gate"), "compile_dir": str(tmp_path / "compile")}
    trial = _run(supervisor, tmp_path / "a", may_hand_over=True, isolate=isolate, **folders)
    assert [report["epoch"] for report in trial.epochs] == [1, 2]
    tags, metrics = trial.final["tags"], trial.final["metrics"]
    assert (tags["rehearsed"], tags["gate_verdict"]) == ("true", "cached")
    timeline = json.loads(tags["spans"])
    assert metrics["final/rehearsal_s"] > 0 and timeline["earlier_ms"] == round(1e3 * metrics["final/rehearsal_s"])
    if not isolate:
        again = _run(supervisor, tmp_path / "b", may_hand_over=True, **folders).final
        assert (again["tags"]["rehearsed"], again["metrics"]["final/rehearsal_s"]) == ("false", None)


def test_a_trial_times_no_epoch_before_the_next_process_idles(supervisor: TrialSupervisor, tmp_path: Path) -> None:
    idle: list[tuple[str, psutil.Process]] = []

    def report(content: Report, folder: Path | None) -> None:
        assert (
            supervisor.prepared is not None and supervisor.prepared.pid is not None and supervisor.prepared.ready(0.0)
        )
        idle.append((content.tags["process"], psutil.Process(supervisor.prepared.pid)))

    supervisor.run(job_in(tmp_path / "a"), report, None)
    assert len(idle) == 3
    (own,), (waiting,) = {pid for pid, _ in idle}, {process for _, process in idle}
    assert int(own) != waiting.pid
    before = waiting.cpu_times()
    time.sleep(1.0)
    assert waiting.cpu_times()[:2] == before[:2]


def test_if_the_prepared_process_was_killed_the_trial_gets_another_and_says_so(
    supervisor: TrialSupervisor, tmp_path: Path
) -> None:
    _run(supervisor, tmp_path / "a")
    assert supervisor.prepared is not None and supervisor.prepared.pid is not None
    os.kill(supervisor.prepared.pid, signal.SIGKILL)
    trial = _run(supervisor, tmp_path / "b")
    assert (trial.final["status"], trial.final["tags"]["warm_start"]) == ("done", "forked")
    assert trial.final["tags"]["unprepared_because"].endswith("it was lost")
    assert _run(supervisor, tmp_path / "c").final["tags"]["warm_start"] == "prepared"


def test_if_nothing_could_be_prepared_the_next_trials_process_is_forked_for_it(
    supervisor: TrialSupervisor, tmp_path: Path
) -> None:
    job = job_in(tmp_path / "a", data_dir="nowhere")
    data = job.config.data.model_copy(update={"dataset": "/nowhere.csv"})
    broken = replace(job, config=job.config.model_copy(update={"data": data}))
    supervisor.run(broken, Recorder(tmp_path / "a"), None)
    tags = _run(supervisor, tmp_path / "b").final["tags"]
    assert tags["warm_start"] == "forked" and "nowhere.csv" in tags["unprepared_because"]


@pytest.mark.parametrize("since_the_report", [False, True])
def test_only_kills_since_the_trials_last_message_count_as_lack_of_memory(
    supervisor: TrialSupervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, since_the_report: bool
) -> None:
    counter = tmp_path / "vmstat"
    counter.write_text("oom_kill 0\n")
    monkeypatch.setattr("tune.machine.out_of_memory.VMSTAT", counter)

    def kill(content: Report, folder: Path | None) -> None:
        second = isinstance(content, EpochReport) and content.epoch == 2
        if second == since_the_report:
            counter.write_text("oom_kill 1\n")
        if second:
            os.kill(int(content.tags["process"]), signal.SIGKILL)

    with pytest.raises(ProcessLost) as lost:
        supervisor.run(job_in(tmp_path / "a"), kill, None)
    assert lost.type is (OutOfMemory if since_the_report else ProcessLost)


def test_a_trial_whose_process_is_killed_is_lost_and_says_which_process(
    supervisor: TrialSupervisor, tmp_path: Path
) -> None:
    def kill(content: Report, folder: Path | None) -> None:
        os.kill(int(content.tags["process"]), signal.SIGKILL)

    with pytest.raises(ProcessLost, match=r"process \d+ was lost"):
        supervisor.run(job_in(tmp_path / "a"), kill, None)


def test_a_trial_that_is_stopped_leaves_no_process(supervisor: TrialSupervisor, tmp_path: Path) -> None:
    pids = []

    def stop(content: Report, folder: Path | None) -> None:
        pids.append(int(content.tags["process"]))
        raise SystemExit  # as Tune ends a trial that a scheduler stopped

    with pytest.raises(SystemExit):
        supervisor.run(job_in(tmp_path / "a"), stop, None)
    until(lambda: not psutil.pid_exists(pids[0]))


def test_a_trial_that_nobody_may_end_trains_on_while_an_epoch_is_reported(
    supervisor: TrialSupervisor, tmp_path: Path
) -> None:
    reached: list[bool] = []

    def report(content: Report, folder: Path | None) -> None:
        if isinstance(content, EpochReport) and content.epoch == 1:
            assert folder is not None
            until((folder.parent / "epoch-2" / "state.pt").exists)
            time.sleep(0.5)
            reached.append((folder.parent / "epoch-3").exists())
        recorder(content, folder)

    recorder = Recorder(tmp_path / "a")
    supervisor.run(replace(job_in(tmp_path / "a"), **FREE), report, None)
    assert reached == [False]  # one report is on its way at most
    assert [report["epoch"] for report in recorder.epochs] == [1, 2, 3] and recorder.final["status"] == "done"
    again = _run(supervisor, tmp_path / "b", config=FREE["config"])
    assert again.final["metrics"]["final/test_mse"] == recorder.final["metrics"]["final/test_mse"]


def test_a_trial_that_may_be_ended_trains_no_epoch_before_the_answer(
    supervisor: TrialSupervisor, tmp_path: Path
) -> None:
    def report(content: Report, folder: Path | None) -> None:
        before = cpu_s(content)
        time.sleep(1.0)
        stood_still.append(cpu_s(content) - before < 0.2)
        assert isinstance(content, EpochReport) and content.epoch == 1
        raise InterruptedError  # as Tune ends it

    def cpu_s(content: Report) -> float:
        return sum(psutil.Process(int(content.tags["process"])).cpu_times()[:2])

    stood_still: list[bool] = []
    with pytest.raises(InterruptedError):
        supervisor.run(job_in(tmp_path / "a"), report, None)
    assert stood_still == [True]


def test_an_epoch_that_was_reported_early_is_stored_completely_though_its_process_was_killed(
    supervisor: TrialSupervisor, tmp_path: Path
) -> None:
    def report(content: Report, folder: Path | None) -> None:
        os.kill(int(content.tags["process"]), signal.SIGKILL)
        until(lambda: not psutil.pid_exists(int(content.tags["process"])))
        recorder(content, folder)

    recorder = Recorder(tmp_path / "a")
    with pytest.raises(ProcessLost):
        supervisor.run(replace(job_in(tmp_path / "a"), **FREE), report, None)
    assert [report["epoch"] for report in recorder.reports] == [1]
    rest = Recorder(tmp_path / "b")
    supervisor.run(replace(job_in(tmp_path / "b"), **FREE), rest, str(tmp_path / "a" / "report-1"))
    assert [report["epoch"] for report in rest.epochs] == [2, 3] and rest.final["status"] == "done"


@pytest.mark.parametrize("free", [False, True])
def test_a_trial_keeps_no_copy_of_what_is_stored(supervisor: TrialSupervisor, tmp_path: Path, free: bool) -> None:
    folders: list[Path] = []

    def report(content: Report, folder: Path | None) -> None:
        assert folder is not None and (folder / "samples").is_dir()
        assert not [earlier for earlier in folders if earlier.exists()]
        folders.append(folder)

    supervisor.run(replace(job_in(tmp_path / "a"), **(FREE if free else {})), report, None)
    assert len(folders) == len(set(folders)) >= 3 and not folders[0].parent.exists()


def test_an_isolated_trial_has_a_cold_process_and_an_empty_cache_that_is_removed(
    supervisor: TrialSupervisor, tmp_path: Path
) -> None:
    caches = tmp_path / "isolated"
    seen: list[list[Path]] = []

    def report(content: Report, folder: Path | None) -> None:
        seen.append(list(caches.iterdir()))
        recorder(content, folder)

    _run(supervisor, tmp_path / "a")  # leaves a prepared process, which is not used
    recorder = Recorder(tmp_path / "b")
    supervisor.run(job_in(tmp_path / "b", isolate=True, compile_dir=str(caches)), report, None)
    tags = recorder.final["tags"]
    assert (tags["warm_start"], tags["compile_cache"]) == ("cold", "isolated")
    assert [len(folders) for folders in seen] == [1, 1, 1]
    assert list(caches.iterdir()) == []


OWNER = """
import sys
from pathlib import Path
sys.path[:0] = {paths!r}
from supervisor_kit import job_in
from tune.worker.supervisor import TrialSupervisor
wait = lambda report, folder: print("epoch", flush=True) or sys.stdin.read()
TrialSupervisor().run(job_in(Path(sys.argv[1])), wait, None)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_no_process_outlives_the_actor(tmp_path: Path, how: signal.Signals) -> None:
    code = OWNER.format(paths=[str(ROOT), str(ROOT / "tests" / "kits")])
    command = [sys.executable, "-c", code, str(tmp_path / "a")]
    with subprocess.Popen(command, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as actor:
        assert actor.stdout is not None and actor.stdout.readline() == b"epoch\n"
        processes = until(lambda: len(started := _processes(actor.pid)) == 3 and started)
        actor.send_signal(how)
        actor.wait(timeout=60)
    until(lambda: not [process for process in processes if process.is_running() and process.status() != "zombie"])


def test_a_process_that_ended_is_not_taken_for_ready() -> None:
    ours, theirs = Pipe()
    process = TrialProcess(ours)
    theirs.send(("ready", None))
    assert process.ready(1.0)
    theirs.close()
    assert not process.ready(1.0)
    assert process.problem == "it was lost"


def test_a_process_that_ends_just_before_it_is_killed_hides_no_error() -> None:
    class AboutToEnd(TrialProcess):
        """Alive at the last look."""

        looks = iter([True, True, False])

        def _alive(self) -> bool:
            return next(self.looks)

    ours, theirs = Pipe()
    process = AboutToEnd(ours)
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        process.pid = ended.pid
    with theirs, pytest.raises(ProcessLost, match="the error in flight"), process:
        raise ProcessLost("the error in flight")
