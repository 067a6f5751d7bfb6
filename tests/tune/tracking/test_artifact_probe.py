"""A file is stored, read and removed where models will go, before a sweep starts; what stands in its way is named."""

from __future__ import annotations

import importlib
import os
import resource
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tune.config.sweeps import get_sweep
from tune.driver import run
from tune.driver.options import Options
from tune.driver.run import run_sweep
from tune.plan.planner import Planner
from tune.tracking.artifact_probe import artifact_root, check_artifacts
from tune.tracking.store import PROJECT, TrackingError, open_client

Place = Callable[[Path], str]


def said(uri: str, storage: Path, timeout_s: float = 60.0) -> list[str]:
    lines: list[str] = []
    check_artifacts(uri, PROJECT, artifact_root(storage, uri), lines.append, timeout_s=timeout_s)
    return lines


def tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def behind_a_file(folder: Path) -> str:
    (folder / "taken").touch()
    return (folder / "taken" / "mlartifacts").as_uri()


@pytest.mark.parametrize("there", [[], ["store"], ["store", "experiment"], ["store", "experiment", "folder"]])
def test_a_place_that_takes_files_is_left_as_it_was(there: list[str], tmp_path: Path, empty_store: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    if "store" in there:
        (tmp_path / "mlflow.db").write_bytes(empty_store.read_bytes())
    if "experiment" in there:
        open_client(uri).create_experiment(PROJECT, artifact_root(tmp_path / "runs", uri))
    if "folder" in there:
        (tmp_path / "runs" / "mlartifacts").mkdir(parents=True)
    before = tree(tmp_path)
    assert said(uri, tmp_path / "runs") == []
    assert tree(tmp_path) == before
    if "store" in there:
        experiments = [experiment.name for experiment in open_client(uri).search_experiments()]
        assert set(experiments) == {"Default", *([PROJECT] if "experiment" in there else [])}


@pytest.mark.parametrize(
    ("place", "needs", "words"),
    [
        (behind_a_file, "", r"at /.*/taken/mlartifacts: /.*/taken is a file where a folder is needed"),
        (lambda folder: "s3://b/x", "boto3", "at s3://b/x: no package boto3 for .*: pip install boto3"),
        (lambda folder: "gs://b/x", "google.cloud.storage", "at gs://b/x: no package google-cloud-storage for .*: pip"),
        (lambda folder: "abfss://c@a.example.net/x", "azure.storage", "no package azure.*: pip install azure-storage"),
        (lambda folder: "made-up://x", "", "at made-up://x: .*Could not find a registered artifact repository"),
        (lambda folder: "http://127.0.0.1:9/x", "", "at http://127.0.0.1:9/x: .*refused"),
    ],
)  # fmt: skip
def test_a_place_that_takes_no_files_is_named_with_cause_and_remedy(
    place: Place, needs: str, words: str, tmp_path: Path, new_store: str
) -> None:
    with suppress(ImportError):
        if needs and importlib.import_module(needs):
            pytest.skip(f"{needs} is installed here")
    open_client(new_store).create_experiment(PROJECT, place(tmp_path))
    before = tree(tmp_path)
    with pytest.raises(TrackingError, match=f"models and reports could not be stored .*{words}") as refused:
        said(new_store, tmp_path)
    assert "\n" not in str(refused.value) and "another MLflow store" in str(refused.value)
    assert tree(tmp_path) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_of_another_account_is_named(tmp_path: Path, new_store: str) -> None:
    (tmp_path / "theirs").mkdir(mode=0o500)
    open_client(new_store).create_experiment(PROJECT, (tmp_path / "theirs").as_uri())
    with pytest.raises(TrackingError, match=f"theirs/.* is not writable by uid {os.getuid()}"):
        said(new_store, tmp_path)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_folder_for_temporary_files_without_room_is_named_and_not_the_store(tmp_path: Path) -> None:
    with largest_file(100_000), pytest.raises(TrackingError, match="the folder for temporary files .* set TMPDIR"):
        said(f"sqlite:///{tmp_path}/mlflow.db", tmp_path)
    assert tree(tmp_path) == []


def test_a_place_that_forbids_removing_is_accepted_with_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

    def forbidden(self: object, path: str) -> None:
        raise PermissionError("s3:DeleteObject is denied")

    monkeypatch.setattr(LocalArtifactRepository, "delete_artifacts", forbidden)
    (line,) = said(f"sqlite:///{tmp_path}/mlflow.db", tmp_path)
    (kept,) = tmp_path.rglob("*.bin")
    assert "lets nobody remove them (PermissionError: s3:DeleteObject is denied)" in line
    assert str(kept.relative_to(tmp_path / "mlartifacts")) in line


def test_a_place_that_never_answers_is_given_up(tmp_path: Path, new_store: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        place = f"http://127.0.0.1:{mute.getsockname()[1]}/x"
        open_client(new_store).create_experiment(PROJECT, place)
        with pytest.raises(TrackingError, match=f"could not be stored at {place} within 0.5 s"):
            said(new_store, tmp_path, timeout_s=0.5)


def test_a_sweep_whose_models_could_not_be_stored_ends_before_ray_starts(
    tmp_path: Path, new_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(address: str | None) -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr(run.connect, "connected", start)
    open_client(new_store).create_experiment(PROJECT, behind_a_file(tmp_path))
    before = tree(tmp_path)
    options = Options(storage_path=tmp_path / "runs", tracking_uri=new_store, data_dir=tmp_path)
    planner = Planner(get_sweep("custom"), overrides={}, repeats=1, seed=1)
    with pytest.raises(TrackingError, match="models and reports could not be stored"):
        run_sweep(planner, options=options, show_plan=lambda plan: None)
    assert tree(tmp_path) == before
