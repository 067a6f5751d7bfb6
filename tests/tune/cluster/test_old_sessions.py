"""Which folders of Ray sessions are removed: those of ended processes, and nobody else's."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tune.cluster.old_sessions import (
    KEPT,
    clear_dead_sessions,
    dead_sessions,
    keep_own_session,
    remove_own_session,
)

NAME = "session_2026-01-01_00-00-00_000001_{}"


@pytest.fixture(name="sessions")
def sessions_fixture() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:  # the paths of sockets must be short
        yield Path(folder)


@pytest.fixture(scope="module", name="ended")
def ended_fixture() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def _session(sessions: Path, pid: int, *, old: bool = True) -> Path:
    folder = sessions / NAME.format(pid)
    (folder / "logs").mkdir(parents=True)
    (folder / "logs" / "raylet.out").write_text("log")
    if old:
        os.utime(folder, (0, 0))
    return folder


def test_a_session_whose_process_has_ended_is_removed_and_a_running_ones_is_not(sessions: Path, ended: int) -> None:
    dead, running = _session(sessions, ended), _session(sessions, os.getpid())
    assert dead_sessions(sessions) == [dead]
    clear_dead_sessions(sessions)
    assert not dead.exists() and running.exists()


def test_a_session_at_whose_sockets_somebody_listens_is_alive_whatever_its_number(sessions: Path, ended: int) -> None:
    """In another container the process has a number that is free here."""
    folder = _session(sessions, ended)
    (folder / "sockets").mkdir()
    with socket.socket(socket.AF_UNIX) as raylet:
        raylet.bind(str(folder / "sockets" / "raylet"))
        raylet.listen()
        assert dead_sessions(sessions) == []
    assert dead_sessions(sessions) == [folder]


def test_a_session_that_may_be_starting_is_left_alone(sessions: Path, ended: int) -> None:
    _session(sessions, ended, old=False)
    assert dead_sessions(sessions) == []


@pytest.mark.parametrize("name", ["session_latest", "session_2026", "other", "session_2026-01-01_00-00-00_1_x"])
def test_what_is_no_session_of_ours_is_left_alone(sessions: Path, ended: int, name: str) -> None:
    dead = _session(sessions, ended)
    if name == "session_latest":
        (sessions / name).symlink_to(dead)
    else:
        (sessions / name).mkdir()
    assert dead_sessions(sessions) == [dead]


def test_logs_that_somebody_was_told_to_read_stay_until_gc(sessions: Path, ended: int) -> None:
    folder = _session(sessions, ended)
    (folder / KEPT).touch()
    os.utime(folder, (0, 0))
    assert dead_sessions(sessions) == []
    assert dead_sessions(sessions, kept=True) == [folder]


def test_the_own_session_goes_at_the_end_unless_its_logs_are_kept(sessions: Path) -> None:
    folder, other = _session(sessions, os.getpid()), _session(sessions, 1)
    latest = sessions / "session_latest"
    latest.symlink_to(folder)
    keep_own_session(sessions)
    remove_own_session(sessions)
    assert (folder / "logs" / "raylet.out").exists()
    (folder / KEPT).unlink()
    remove_own_session(sessions)
    assert not folder.exists() and not latest.is_symlink() and other.exists()


def test_no_folder_of_sessions_is_no_error(tmp_path: Path) -> None:
    clear_dead_sessions(tmp_path / "none")
    remove_own_session(tmp_path / "none")
