"""The store is asked as a sweep asks it, and is neither made nor changed."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from tune.doctor import store
from tune.doctor.finding import Finding, Place


@pytest.fixture(autouse=True)
def _asked_anew() -> None:
    store._asked.cache_clear()


def _place(folder: Path, uri: str) -> Place:
    return Place(data_dir=folder, storage=folder / "runs", tracking_uri=uri)


@pytest.mark.parametrize(
    "uri", ["http://127.0.0.1:9", "sqlite:///{}/nowhere/x.db", "sqlite:///{}/text", "redis://x", "x"]
)
def test_a_store_that_no_sweep_can_use_is_an_obstacle_and_is_left_alone(uri: str, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("this is no database, though it is long enough to be one" * 30)
    before = (tmp_path / "text").read_bytes()
    (finding,) = store.answers(_place(tmp_path, uri.format(tmp_path)))
    assert finding.works is False and finding.needed and "\n" not in finding.found, finding
    (artifacts,) = store.artifacts(_place(tmp_path, uri.format(tmp_path)))
    assert artifacts.works is None and "not tried" in artifacts.found
    assert list(store.unlocked(_place(tmp_path, uri.format(tmp_path)))) == []
    assert (tmp_path / "text").read_bytes() == before and [path.name for path in tmp_path.iterdir()] == ["text"]


def test_a_missing_file_is_made_by_the_first_sweep_and_not_by_the_check(tmp_path: Path) -> None:
    (finding,) = store.answers(_place(tmp_path, f"sqlite:///{tmp_path}/mlflow.db"))
    assert finding.works and "made by the first sweep" in finding.found and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("stands_in_the_way", [False, True])
def test_models_can_be_stored_or_the_cause_is_an_obstacle(stands_in_the_way: bool, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    if stands_in_the_way:
        (tmp_path / "runs/mlartifacts").write_text("a file where a folder belongs")
    before = sorted(tmp_path.rglob("*"))
    (finding,) = store.artifacts(_place(tmp_path, f"sqlite:///{tmp_path}/mlflow.db"))
    assert finding.works is not stands_in_the_way and finding.needed, finding
    assert sorted(tmp_path.rglob("*")) == before
    assert not stands_in_the_way or str(tmp_path / "runs/mlartifacts") in finding.found


def test_a_lock_on_the_file_is_named_and_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "LOCKED_S", 0.1)
    place = _place(tmp_path, f"sqlite:///{tmp_path}/mlflow.db")
    database = sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None)
    database.execute("CREATE TABLE t (x)")
    found: dict[bool, Finding] = {}
    for locked in (False, True):
        if locked:
            database.execute("BEGIN IMMEDIATE")
        (found[locked],) = store.unlocked(place)
    database.close()
    assert found[False].works and found[True].works is False and not found[True].needed
    assert "database is locked: end the process that holds" in found[True].found
