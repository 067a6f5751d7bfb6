"""Templates: what trials' processes are forked from, an actor's own or its node's, and what becomes of lost ones."""

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
from typing import Any

import psutil
import pytest
from nursery_kit import job_in, until
from trial_kit import Recorder

from tune.worker.process import ForkServer
from tune.worker.process import _python as START
from tune.worker.supervisor import TrialSupervisor


@pytest.fixture(scope="module", autouse=True)
def _in_a_folder_of_a_trials_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """As Tune does: a trial's process keeps its files in the actor's working directory until they are stored."""
    with contextlib.chdir(tmp_path_factory.mktemp("trial")):
        yield


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[tuple[ForkServer, str]]:
    """A template as a node has one, and its socket."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # short: the paths of sockets are limited
        place = Path(folder) / "socket"
        template = ForkServer.start(listen_at=place)
        until(place.exists)
        yield template, str(place)
        template.end()
        assert not place.exists()


def test_the_actors_of_a_node_share_its_template_each_with_its_own_environment(
    listening: tuple[ForkServer, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parents = []

    def report(result: dict[str, Any], folder: Path | None) -> None:
        parents.append(psutil.Process(int(result["tags"]["process"])).ppid())

    for setting in ("one", "two"):  # as a GPU that Ray gives to one actor
        monkeypatch.setenv("TORCHINDUCTOR_OF_THE_ACTOR", setting)
        actor = TrialSupervisor()
        job = replace(job_in(tmp_path / setting, compile_dir=str(tmp_path / setting / "compile")), prepare_next=False)
        actor.run(job, report, None, template=listening[1])
        assert actor.template is not None
        actor.template.end()
        (about,) = (tmp_path / setting / "compile").glob("*/about.json")
        assert json.loads(about.read_text())["compiler"] == {"TORCHINDUCTOR_OF_THE_ACTOR": setting}
    assert len(set(parents)) == 1 and psutil.Process(parents[0]).cmdline()[-1] == listening[1]


def test_a_template_outlives_those_that_it_forks_for_and_ends_with_its_owner(listening: tuple[ForkServer, str]) -> None:
    template, socket_path = listening
    with ForkServer.reach(socket_path).fork() as forked:
        assert forked.wakes(60.0)
    other = ForkServer.reach(socket_path)
    assert template.lives and other.lives
    template.end()
    until(lambda: not other.lives)
    with pytest.raises(OSError):
        ForkServer.reach(socket_path)


def test_where_the_nodes_template_is_gone_an_actor_starts_its_own(tmp_path: Path) -> None:
    actor = TrialSupervisor()
    recorder = Recorder(tmp_path / "a")
    actor.run(replace(job_in(tmp_path / "a"), prepare_next=False), recorder, None, template=str(tmp_path / "nowhere"))
    assert recorder.final["tags"]["warm_start"] == "forked"
    assert actor.template is not None
    actor.template.end()


def test_where_no_template_can_import_what_it_needs_the_trial_gets_a_cold_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tune.worker.process._python", _only_serving)
    actor = TrialSupervisor()
    recorder = Recorder(tmp_path / "a")
    actor.run(replace(job_in(tmp_path / "a"), prepare_next=False), recorder, None)
    assert (recorder.final["status"], recorder.final["tags"]["warm_start"]) == ("done", "cold")
    assert actor.template is not None
    actor.template.end()


def _only_serving(kind: str, pipe: Connection, *arguments: str) -> subprocess.Popen[bytes]:
    """Templates end at once."""
    if kind == "template":
        return subprocess.Popen([sys.executable, "-c", ""])
    return START(kind, pipe, *arguments)
