"""`delete` removes one sweep whole, asks before, can be repeated, and touches nothing else."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from tracking_kit import end, log, plan

from tune.commands import delete
from tune.commands.main import main
from tune.common.errors import DONE, WRONG_INPUT
from tune.driver.finish import open_tracker
from tune.storage import deletion, open_sweep
from tune.storage.outbox import Outbox
from tune.storage.sweep_dir import FINISHED, SweepDir
from tune.tracking.deletion import runs_of
from tune.tracking.reader import list_sweeps
from tune.tracking.store import PROJECT


class Person(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(name="store")
def store_fixture(new_store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return new_store


def make(store: str, *, name: str = "pruning") -> SweepDir:
    """A finished sweep of one trial whose files MLflow has."""
    content = {"key": "k", "created_s": 1.0, "code": {}, "tracking_uri": store, "storage": str(Path("runs").absolute())}
    sweep = open_sweep.create(Path("runs"), name, content)
    tracker = open_tracker(sweep, store)
    tags = {"sweep": name, "baseline": "a", "arms": "a", "question": "q", "environment": "{}"}
    files: dict[str, str | None] = {"plan.json": "[]"}
    tracker.begin_sweep(sweep_id=sweep.sweep_id, name="s", tags=tags, params={"trials": 1}, files=files)
    plan(tracker, "a")
    log(tracker, "a", 1)
    end(tracker, "a", tags={"arm": "a", "seed": "1"})
    tracker.end_sweep(status="done", metrics={}, files={})
    assert tracker.flush(120.0) == 0
    tracker.close(0)
    (sweep.path / "attempt-1").mkdir()
    (sweep.path / "attempt-1" / "weights").write_bytes(b"x" * 2**20)
    sweep.update(state=FINISHED)
    return sweep


def artifacts(store: str, sweep: SweepDir) -> list[Path]:
    found = [run.files for run in runs_of(store, PROJECT, sweep.sweep_id, Path("runs"))]
    return [files for files in found if files is not None and files.exists()]


def test_folder_runs_and_their_files_go_and_another_sweep_stays_whole(
    store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    other, sweep = make(store, name="batch_size"), make(store)
    before, (mine, *_) = artifacts(store, other), artifacts(store, sweep)
    assert before and mine.is_dir()
    assert main(["delete", "last", "--yes"]) == DONE
    said = capsys.readouterr().out
    assert f"{sweep.sweep_id}, finished" in said and "2 runs, and" in said and f"{sweep.sweep_id} is removed" in said
    assert not sweep.path.exists() and not mine.exists()
    assert [left.sweep_id for left in list_sweeps(store, PROJECT)] == [other.sweep_id]
    assert artifacts(store, other) == before and (other.path / "attempt-1" / "weights").exists()
    assert main(["delete", sweep.sweep_id, "--yes"]) == WRONG_INPUT
    assert f"no such sweep in runs; the latest are: {other.sweep_id}" in capsys.readouterr().err


@pytest.mark.parametrize("interrupted", ["delete_runs", "remove", "finish"])
def test_an_interrupted_removal_hides_the_sweep_and_goes_on(
    store: str, interrupted: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = make(store)
    (files, *_) = artifacts(store, sweep)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(delete, interrupted, killed)
        main(["delete", "pruning", "--yes"])
    assert open_sweep.every(Path("runs")) == [] and sweep.path.exists()
    assert main(["delete", "pruning", "--yes"]) == DONE
    assert "its removal was interrupted" in capsys.readouterr().out
    assert not sweep.path.exists() and not files.exists() and list_sweeps(store, PROJECT) == ()


def test_a_running_sweep_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    sweep = open_sweep.create(Path("runs"), "pruning", {"key": "k", "created_s": 1.0, "code": {}})
    outbox = Outbox(sweep.outbox)
    assert main(["delete", "pruning", "--yes"]) == WRONG_INPUT
    assert "is running as" in capsys.readouterr().err
    outbox.close()
    assert sweep.read()["state"] == "running"


@pytest.mark.parametrize(
    ("answer", "removed"), [("y\n", True), ("yes\n", True), ("\n", False), ("n\n", False), ("", False)]
)
def test_a_person_is_asked_and_only_yes_removes(
    answer: str, removed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    sweep = open_sweep.create(Path("runs"), "pruning", {"key": "k", "created_s": 1.0, "code": {}})
    monkeypatch.setattr("sys.stdin", Person(answer))
    assert main(["delete", "pruning"]) == DONE
    said = capsys.readouterr().out
    assert "no MLflow store of it is there" in said and "Remove all of this? [y/N]" in said
    assert sweep.path.exists() is not removed
    assert ("nothing is removed" in said) is not removed


def test_where_nobody_can_be_asked_nothing_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    sweep = open_sweep.create(Path("runs"), "pruning", {"key": "k", "created_s": 1.0, "code": {}})
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert main(["delete", "pruning"]) == WRONG_INPUT
    assert "give --yes" in capsys.readouterr().err and sweep.read()["state"] == "running"


def test_a_store_that_does_not_answer_keeps_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    content = {"key": "k", "created_s": 1.0, "code": {}, "tracking_uri": "http://127.0.0.1:9"}
    sweep = open_sweep.create(Path("runs"), "pruning", content)
    assert main(["delete", "pruning", "--yes"]) == WRONG_INPUT
    assert "127.0.0.1:9" in capsys.readouterr().err and sweep.read()["state"] == "running"


def test_what_links_point_to_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    sweep = open_sweep.create(Path("runs"), "pruning", {"key": "k", "created_s": 1.0, "code": {}})
    (sweep.path / "linked").symlink_to(outside)
    moved = open_sweep.create(tmp_path / "elsewhere", "attention", {"key": "k", "created_s": 1.0, "code": {}})
    (Path("runs") / moved.sweep_id).symlink_to(moved.path)
    assert main(["delete", "attention", "--yes"]) == WRONG_INPUT
    assert "is a link to" in capsys.readouterr().err and moved.read()
    assert main(["delete", "pruning", "--yes"]) == DONE
    assert (outside / "kept").read_text() == "kept" and not sweep.path.exists()


def test_a_mark_left_alone_is_enough_to_go_on(tmp_path: Path) -> None:
    sweep = open_sweep.create(tmp_path, "pruning", {"key": "k", "created_s": 1.0, "code": {}})
    deletion.begin(sweep).close()
    found = deletion.find_deletable(tmp_path, sweep.sweep_id)
    deletion.finish(found, deletion.begin(found))
    assert not sweep.path.exists()
