"""Fork servers, an actor's own or its node's, and what happens if one is lost."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import psutil
import pytest
from supervisor_kit import job_in, until
from trial_kit import Recorder

from tune.trial.report import Report
from tune.worker.process import ForkServer, start_cold
from tune.worker.process import _python as START
from tune.worker.supervisor import TrialSupervisor


@pytest.fixture(scope="module", autouse=True)
def _in_a_trials_own_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """As Tune does: a trial's process keeps its files in the actor's working directory until they are stored."""
    with contextlib.chdir(tmp_path_factory.mktemp("trial")):
        yield


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[tuple[ForkServer, str]]:
    """A fork server as a node has one, and its socket."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # short: the paths of sockets are limited
        socket_path = Path(folder) / "socket"
        fork_server = ForkServer.start(listen_at=socket_path)
        until(socket_path.exists)
        yield fork_server, str(socket_path)
        fork_server.end()
        assert not socket_path.exists()


def test_the_actors_of_a_node_share_its_fork_server_each_with_its_own_environment(
    listening: tuple[ForkServer, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parents = []

    def report(content: Report, folder: Path | None) -> None:
        parents.append(psutil.Process(int(content.tags["process"])).ppid())

    for setting in ("one", "two"):  # as a GPU that Ray gives to one actor
        monkeypatch.setenv("TORCHINDUCTOR_OF_THE_ACTOR", setting)
        actor = TrialSupervisor()
        job = replace(job_in(tmp_path / setting, compile_dir=str(tmp_path / setting / "compile")), prepare_next=False)
        actor.run(job, report, None, node_socket=listening[1])
        assert actor.fork_server is not None
        actor.fork_server.end()
        (about,) = (tmp_path / setting / "compile").glob("*/about.json")
        assert json.loads(about.read_text())["compiler"] == {"TORCHINDUCTOR_OF_THE_ACTOR": setting}
    assert len(set(parents)) == 1 and psutil.Process(parents[0]).cmdline()[-1] == listening[1]


def test_a_cold_process_is_told_from_a_fork_server_and_its_forks_by_its_command_line(
    listening: tuple[ForkServer, str],
) -> None:
    with start_cold() as cold, ForkServer.reach(listening[1]).fork() as forked:
        modules = []
        for process in (cold, forked):
            assert process.responds(60.0) and process.pid is not None
            command = psutil.Process(process.pid).cmdline()
            modules.append(command[command.index("-m") + 1])
            process.end(0.0)
    assert modules == ["tune.worker.child", "tune.worker.forkserver"]  # a fork keeps its server's


def test_a_fork_server_outlives_its_clients_and_ends_with_its_owner(listening: tuple[ForkServer, str]) -> None:
    fork_server, socket_path = listening
    with ForkServer.reach(socket_path).fork() as forked:
        assert forked.responds(60.0)
    other = ForkServer.reach(socket_path)
    assert fork_server.alive and other.alive
    fork_server.end()
    until(lambda: not other.alive)
    with pytest.raises(OSError):
        ForkServer.reach(socket_path)


def test_if_the_nodes_fork_server_is_gone_an_actor_starts_its_own(tmp_path: Path) -> None:
    actor = TrialSupervisor()
    recorder = Recorder(tmp_path / "a")
    actor.run(
        replace(job_in(tmp_path / "a"), prepare_next=False), recorder, None, node_socket=str(tmp_path / "nowhere")
    )
    assert recorder.final["tags"]["warm_start"] == "forked"
    assert actor.fork_server is not None
    actor.fork_server.end()


def test_if_no_fork_server_can_import_what_it_needs_the_trial_gets_a_cold_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tune.worker.process._python", _without_fork_servers)
    actor = TrialSupervisor()
    recorder = Recorder(tmp_path / "a")
    actor.run(replace(job_in(tmp_path / "a"), prepare_next=False), recorder, None)
    assert (recorder.final["status"], recorder.final["tags"]["warm_start"]) == ("done", "cold")
    assert actor.fork_server is not None
    actor.fork_server.end()


def _without_fork_servers(module: str, pipe: Connection, *arguments: str) -> subprocess.Popen[bytes]:
    """Fork servers end at once."""
    if module == "tune.worker.forkserver":
        return subprocess.Popen([sys.executable, "-c", ""])
    return START(module, pipe, *arguments)
