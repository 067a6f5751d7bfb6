"""Artifacts of a SQLite store whose folder was moved or copied: real stores, real artifacts."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest

from tune.tracking.artifact_place import ARTIFACTS, artifact_roots, found_artifacts, settle_artifacts
from tune.tracking.store import PROJECT, TrackingError, open_client

OTHERS = "somebody else's"


class Project:
    """A folder with a store and a storage, and artifacts of a run and of a model."""

    def __init__(self, folder: Path, store: str = "mlflow.db", storage: str = "runs") -> None:
        self.store, self.storage = folder / store, folder / storage

    @property
    def uri(self) -> str:
        return f"sqlite:///{self.store}"

    def make(self, empty_store: Path) -> None:
        for folder in (self.store.parent, self.storage):
            folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(empty_store, self.store)
        client = open_client(self.uri)
        for name, root in ((PROJECT, self.storage / ARTIFACTS), (OTHERS, self.storage / "others")):
            self.add_run(str(client.create_experiment(name, root.as_uri())))

    def add_run(self, experiment_id: str | None = None) -> None:
        client = open_client(self.uri)
        run = client.create_run(experiment_id or client.get_experiment_by_name(PROJECT).experiment_id)
        client.log_text(run.info.run_id, "text", "a.txt")
        model = client.create_logged_model(run.info.experiment_id, name="model", source_run_id=run.info.run_id)
        (folder := self.storage / "model").mkdir(exist_ok=True)
        (folder / "weights").write_text("w")
        client.log_model_artifacts(model.model_id, str(folder))

    def places(self, experiment: str = PROJECT) -> set[Path]:
        """The folders that the store names: of the experiment, its runs and its models."""
        client = open_client(self.uri)
        found = client.get_experiment_by_name(experiment)
        runs = client.search_runs([found.experiment_id])
        models = client.search_logged_models([found.experiment_id])
        uris = [found.artifact_location, *(run.info.artifact_uri for run in runs)]
        uris += [model.artifact_location for model in models]
        return {Path(uri.removeprefix("file://").replace("%20", " ")) for uri in uris}

    def settle(self) -> list[str]:
        said: list[str] = []
        settle_artifacts(self.uri, PROJECT, self.storage, said.append)
        return said


def _below(places: set[Path], folder: Path) -> bool:
    return all(place.is_relative_to(folder) for place in places)


@pytest.mark.parametrize("store", ["mlflow.db", "runs/mlflow.db", "stores/of all/mlflow.db"])
@pytest.mark.parametrize("target", ["b", "home/b/my project"])
def test_a_moved_stores_records_name_the_artifacts_where_they_are(
    tmp_path: Path, empty_store: Path, store: str, target: str
) -> None:
    Project(tmp_path / "a", store).make(empty_store)
    (tmp_path / target).parent.mkdir(parents=True, exist_ok=True)
    shutil.move(tmp_path / "a", tmp_path / target)
    moved = Project(tmp_path / target, store)
    (line,) = moved.settle()
    assert str(tmp_path / "a") in line and str(moved.storage) in line
    assert _below(moved.places(), moved.storage / ARTIFACTS)
    assert _below(moved.places(OTHERS), tmp_path / "a")  # not ours
    moved.add_run()
    assert not (tmp_path / "a").exists()
    assert moved.settle() == []


def test_a_copy_and_its_original_keep_their_artifacts_apart(tmp_path: Path, empty_store: Path) -> None:
    original, copy = Project(tmp_path / "a"), Project(tmp_path / "b")
    original.make(empty_store)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "a").rglob("*")}
    assert len(copy.settle()) == 1
    copy.add_run()
    assert _below(copy.places(), copy.storage / ARTIFACTS)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "a").rglob("*")} == before
    assert original.settle() == []
    original.add_run()
    assert _below(original.places(), original.storage / ARTIFACTS)


def test_a_second_storage_of_one_store_is_told_where_the_artifacts_go(tmp_path: Path, empty_store: Path) -> None:
    first, second = Project(tmp_path, storage="one"), Project(tmp_path, storage="two")
    first.make(empty_store)
    second.storage.mkdir()
    (line,) = second.settle()
    assert str(first.storage / ARTIFACTS) in line and "outside of --storage-path" in line
    assert _below(second.places(), first.storage)


def test_a_storage_copied_without_its_store_leaves_the_store_to_the_original(tmp_path: Path, empty_store: Path) -> None:
    original = Project(tmp_path / "a", store="../mlflow.db")
    original.make(empty_store)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    (line,) = Project(tmp_path / "b", store="../mlflow.db").settle()
    assert "outside of --storage-path" in line
    assert _below(original.places(), original.storage)


def test_a_storage_that_moved_without_its_store_is_found(tmp_path: Path, empty_store: Path) -> None:
    Project(tmp_path, storage="disk1/runs").make(empty_store)
    shutil.move(tmp_path / "disk1", tmp_path / "disk2")
    moved = Project(tmp_path, storage="disk2/runs")
    assert len(moved.settle()) == 1
    assert _below(moved.places(), moved.storage / ARTIFACTS)


def test_new_artifacts_go_to_the_storage_if_the_earlier_ones_are_gone(tmp_path: Path, empty_store: Path) -> None:
    first = Project(tmp_path, storage="a/runs")
    first.make(empty_store)
    earlier = first.places()
    shutil.rmtree(tmp_path / "a")
    now = Project(tmp_path, storage="b/runs")
    now.storage.mkdir(parents=True)
    (line,) = now.settle()
    assert "are not here" in line and str(now.storage / ARTIFACTS) in line
    now.add_run()
    assert not (tmp_path / "a").exists()
    assert earlier - now.places() == {first.storage / ARTIFACTS}  # records of the earlier ones stay: they may come back


def test_a_link_to_the_storage_changes_nothing(tmp_path: Path, empty_store: Path) -> None:
    Project(tmp_path / "a").make(empty_store)
    (tmp_path / "a" / "runs" / ARTIFACTS).mkdir(exist_ok=True)
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert Project(tmp_path / "link").settle() == []


@pytest.mark.parametrize("location", ["s3://bucket/artifacts", "mlflow-artifacts:/1", "dbfs:/x"])
def test_artifacts_that_are_no_local_folder_are_left_alone(tmp_path: Path, empty_store: Path, location: str) -> None:
    project = Project(tmp_path)
    project.storage.mkdir()
    shutil.copy(empty_store, project.store)
    open_client(project.uri).create_experiment(PROJECT, location)
    assert project.settle() == []
    assert open_client(project.uri).get_experiment_by_name(PROJECT).artifact_location == location
    assert found_artifacts(location, artifact_roots(project.uri, project.storage)) is None


@pytest.mark.parametrize(
    "uri", ["http://127.0.0.1:9", "postgresql://h/d", "sqlite:///{}/missing.db", "sqlite:///{}/text"]
)
def test_no_other_kind_of_store_is_touched(tmp_path: Path, uri: str) -> None:
    (tmp_path / "text").write_text("no database")
    settle_artifacts(uri.format(tmp_path), PROJECT, tmp_path, pytest.fail)
    assert {path.name for path in tmp_path.iterdir()} == {"text"}


def test_a_store_that_stays_locked_is_said_to_be_before_anything_is_written(
    tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tune.tracking.artifact_place.LOCKED_S", 0.1)
    Project(tmp_path / "a").make(empty_store)
    shutil.move(tmp_path / "a", tmp_path / "b")
    moved = Project(tmp_path / "b")
    holder = sqlite3.connect(moved.store)
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(TrackingError, match="another process has locked it"):
        moved.settle()
    holder.close()
    assert len(moved.settle()) == 1
