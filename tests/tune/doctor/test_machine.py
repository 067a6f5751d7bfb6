"""Folders, limits, memory and clocks: what is wrong says what to do; what a sweep does without is no obstacle."""

from __future__ import annotations

import resource
import signal
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from tune.doctor import machine, storage
from tune.doctor.finding import Finding, Place
from tune.storage import check_folder


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(data_dir=tmp_path / "data", storage=tmp_path / "runs", tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")


@pytest.fixture(autouse=True)
def _forget_the_temporary_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)


@pytest.mark.parametrize("home", [None, "", "/proc", "/nowhere", "file/below"])
def test_a_home_that_cannot_be_written_is_said_and_is_no_obstacle(
    home: str | None, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HOME") if home is None else monkeypatch.setenv("HOME", home)
    (finding,) = machine.home(place)
    assert finding.works is None and not finding.needed and "a sweep keeps nothing there" in finding.found


def test_the_temporary_folder_is_the_one_that_python_takes(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    (finding,) = machine.temporary(place)
    assert finding.works and finding.found == f"{tmp_path} can be written" and list(tmp_path.iterdir()) == []


def test_no_temporary_folder_at_all_is_an_obstacle(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/proc"])
    (finding,) = machine.temporary(place)
    assert finding.works is False and finding.needed and "set TMPDIR" in finding.found


def test_a_full_temporary_folder_is_named_with_its_cause(place: Place) -> None:
    assert machine._write(Path("/dev/full"), 1) is not None
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # as a disk that is full: the write fails half-way
    try:
        (finding,) = machine.temporary(place)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert finding.works is False and finding.needed and "file too large: make room, or set TMPDIR" in finding.found


@pytest.mark.parametrize("few", [True, False])
def test_few_open_files_and_processes_say_how_to_raise_them(
    few: bool, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = 300 if few else 100_000
    monkeypatch.setattr(resource, "getrlimit", lambda number: (limit, limit))
    monkeypatch.setattr(machine, "_own_threads", lambda: 20)
    monkeypatch.setattr(machine, "_pids", lambda: (limit, 100))
    found = list(machine.limits(place))
    assert [finding.name for finding in found] == ["open files", "processes", "processes of the control group"]
    assert {finding.works for finding in found} == {not few}
    assert all(("raise the limit" in finding.found) == few for finding in found)


def test_the_control_groups_own_number_of_processes_is_read(tmp_path: Path) -> None:
    assert machine._pids(tmp_path) == (resource.RLIM_INFINITY, 0)
    (tmp_path / "pids.max").write_text("max\n")
    assert machine._pids(tmp_path) == (resource.RLIM_INFINITY, 0)
    (tmp_path / "pids.max").write_text("64\n")
    (tmp_path / "pids.current").write_text("3\n")
    assert machine._pids(tmp_path) == (64, 3)


@pytest.mark.parametrize(("free", "works"), [(None, None), (1 << 30, False), (64 << 30, True)])
def test_memory_is_what_the_control_group_leaves(
    free: int | None, works: bool | None, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "host_free", lambda: free)
    (finding,) = machine.memory(place)
    assert finding.works is works and ("allow the container more" in finding.found) == (works is False)


@pytest.mark.parametrize(("ahead_s", "said"), [(3600.0, "3,600 s ahead of"), (-90.0, "90 s behind")])
def test_a_clock_that_differs_says_by_how_much(ahead_s: float, said: str, place: Place) -> None:
    wrong, right = storage.clocks("storage", ahead_s), storage.clocks("storage", 0.3)
    assert wrong.works is False and said in wrong.found and "NTP" in wrong.found and right.works


def test_the_file_systems_clock_is_read_from_a_file_that_is_gone_afterwards(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [finding.works for finding in storage.clock(place)] == [True]
    monkeypatch.setattr(storage, "time", SimpleNamespace(time=lambda: time.time() - 3600))
    assert [finding.works for finding in storage.clock(place)] == [False]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("given", ["file", "/proc/x", "file/below"])
def test_a_storage_folder_that_cannot_be_written_is_an_obstacle(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("x")
    where = Place(data_dir=tmp_path, storage=tmp_path / given, tracking_uri="sqlite:///x.db")
    findings: list[Finding] = list(storage.folder(where))
    assert [(finding.works, finding.needed) for finding in findings] == [(False, True)]
    assert "give a folder that can be written" in findings[0].found


@pytest.mark.parametrize("cache", ["compile", "gate"])
def test_caches_that_others_can_write_to_are_an_obstacle_and_say_how_to_close_them(cache: str, place: Place) -> None:
    (place.storage / cache).mkdir(parents=True)
    (place.storage / cache).chmod(0o777)
    (finding,) = storage.folder(place)
    assert finding.works is False and finding.needed and "chmod -R go-w" in finding.found
    (place.storage / cache).chmod(0o700)
    assert [finding.works for finding in storage.folder(place)] == [True]


def test_a_storage_folder_that_keeps_no_modes_is_said_with_the_place_that_its_caches_go_to(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check_folder, "keeps_private", lambda folder: False)  # as on exFAT or SMB
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    (finding,) = storage.folder(place)
    assert finding.works and "keeps no permissions or owners" in finding.found and str(tmp_path) in finding.found
