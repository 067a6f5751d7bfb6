"""`flush`: what MLflow lacks of a sweep is sent by one command, as often as one likes."""

from __future__ import annotations

import argparse
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from model_kit import save_small
from tracking_kit import end, expected_points, log, plan, points

from tune.commands.flush import _other_store, run
from tune.commands.main import main
from tune.common.address import sqlite_file
from tune.common.errors import DONE, INTERRUPTED, TRIAL_FAILED, WRONG_INPUT
from tune.driver.finish import flush_while_moving, how_to_flush, open_tracker
from tune.storage import open_sweep, sweep_dir
from tune.storage.sweep_dir import SweepDir
from tune.tracking.reader import read_sweep
from tune.tracking.store import PROJECT

DEAD = "http://127.0.0.1:9"
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def uri(new_store: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr("tune.commands.flush.STALLED_S", 300.0)  # on a busy machine a store takes its time
    return new_store


@pytest.fixture
def ended(tmp_path: Path, uri: str) -> SweepDir:
    """A sweep whose trials have ended while no store answered."""
    content = {"key": "k", "created_s": 1.0, "code": {}, "tracking_uri": uri}
    folder = open_sweep.create(tmp_path / "runs", "pruning", content)
    tracker = open_tracker(folder, DEAD)
    tags = {"sweep": "pruning", "baseline": "a", "arms": "a", "question": "q", "environment": "{}"}
    tracker.begin_sweep(sweep_id=folder.sweep_id, name="s", tags=tags, params={"trials": 1}, files={})
    plan(tracker, "a")
    log(tracker, "a", 1, 2, 3)
    end(tracker, "a", tags={"arm": "a", "seed": "1"})
    tracker.end_sweep(status="interrupted", metrics={}, files={})
    assert tracker.close(0) == 7
    folder.update(state=sweep_dir.ENDED)
    return folder


def _flush(folder: SweepDir, tracking_uri: str | None = None, to: str | None = None) -> int:
    return run(
        argparse.Namespace(
            sweep_id=folder.sweep_id, storage_path=folder.path.parent, tracking_uri=tracking_uri, to=to, quiet=True
        )
    )


def test_a_sweep_that_ended_without_its_store_gets_its_points_and_its_summary_and_is_finished(
    ended: SweepDir, uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _flush(ended) == DONE
    assert capsys.readouterr().out == (
        f"MLflow has every record of {ended.sweep_id} (7 were sent now); its table: "
        f"python experiments.py report {ended.sweep_id}\n"
    )
    record = read_sweep(uri, PROJECT, ended.sweep_id)
    assert record.status == "done"
    assert record.trials[0].history["loss/val_mse"] == [(1, 1.0), (2, 1 / 2), (3, 1 / 3)]
    assert ended.read()["state"] == sweep_dir.FINISHED


def test_flushing_again_sends_nothing_and_changes_nothing(
    ended: SweepDir, uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _flush(ended) == DONE
    before, records = read_sweep(uri, PROJECT, ended.sweep_id), ended.outbox.read_text()
    assert _flush(ended, uri) == DONE
    assert "(0 were sent now)" in capsys.readouterr().out
    assert read_sweep(uri, PROJECT, ended.sweep_id) == before
    assert ended.outbox.read_text() == records


def test_a_store_that_was_deleted_since_gets_every_record_again(ended: SweepDir, uri: str) -> None:
    assert _flush(ended) == DONE
    sqlite_file(uri).unlink()  # this process keeps it open, as MLflow keeps its connections
    again = [sys.executable, str(ROOT / "experiments.py"), "flush", ended.sweep_id, "--storage-path", ended.path.parent]
    ran = subprocess.run(again, cwd=ended.path.parent, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == DONE and "cannot be written" not in ran.stderr
    assert "(8 were sent now)" in ran.stdout
    assert sqlite_file(uri).exists()


def test_a_sweep_with_trials_left_is_sent_and_stays_unfinished(
    ended: SweepDir, uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ended.update(state=sweep_dir.RUNNING)
    assert _flush(ended) == DONE
    assert "not all of its trials have ended: the command that started it runs the others" in capsys.readouterr().out
    assert read_sweep(uri, PROJECT, ended.sweep_id).status == "interrupted"
    assert ended.read()["state"] == sweep_dir.RUNNING


def test_a_store_that_stops_taking_records_is_given_up_with_the_command_to_repeat(
    ended: SweepDir, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ended.update(tracking_uri=DEAD)
    monkeypatch.setattr("tune.commands.flush.check_store", lambda *_, **__: None)  # it answers at first
    monkeypatch.setattr("tune.commands.flush.STALLED_S", 0.3)
    assert _flush(ended) == INTERRUPTED
    err = capsys.readouterr().err
    assert f"MLflow lacks 7 records of {ended.sweep_id}, which wait in {ended.path}; nothing is lost" in err
    assert f"python experiments.py flush {ended.sweep_id} --storage-path {ended.path.parent}" in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--tracking-uri", "sqlite:///other.db"],
            "is recorded in sqlite:.*mlflow.db, and flush was given sqlite.* --to .*other.db, .* --resume ",
        ),
        (["--storage-path", "elsewhere"], r"flush pruning-.*: no such sweep in elsewhere"),
    ],
)
def test_another_store_and_an_unknown_sweep_are_wrong_input_in_one_line(
    ended: SweepDir, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["flush", ended.sweep_id, "--storage-path", str(ended.path.parent), *options]) == WRONG_INPUT
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert re.search(message, line)


def test_a_sweep_that_is_running_is_left_to_its_own_process(
    ended: SweepDir, uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_tracker(ended, uri):
        assert main(["flush", ended.sweep_id, "--storage-path", str(ended.path.parent)]) == WRONG_INPUT
    assert "is running as process" in capsys.readouterr().err


def test_a_password_is_not_in_the_command_that_is_shown() -> None:
    hint = how_to_flush("s", Path("runs"), "postgresql+psycopg2://u:hidden@db/m", 3)
    assert "hidden" not in hint and "postgresql+psycopg2://db/m and its password" in hint
    assert "--storage-path" not in hint


class Slow:
    """Takes one record each time it is waited for, down to a last one that it never takes."""

    def __init__(self, pending: int) -> None:
        self.pending, self.waits, self.blocked = pending, 0, None

    def flush(self, timeout_s: float) -> int:
        self.waits += 1
        self.pending = max(1, self.pending - 1)
        return self.pending


def test_flush_waits_as_long_as_records_arrive_and_no_longer() -> None:
    slow: Any = Slow(50)
    assert flush_while_moving(slow, 0.05, lambda text: None) == 1
    assert slow.waits >= 49


@pytest.fixture
def with_files(ended: SweepDir) -> SweepDir:
    """The sweep above, whose trial has a model and raw samples."""
    save_small(ended.path / "best")
    (ended.path / "raw").mkdir()
    (ended.path / "raw" / "step_ms.npy").write_bytes(b"1")
    ended.update(state=sweep_dir.RUNNING)
    tracker = open_tracker(ended, DEAD)
    plan(tracker, "b")
    end(tracker, "b", tags={"arm": "a", "seed": "2"}, model_dir=ended.path / "best", samples_dir=ended.path / "raw")
    tracker.end_sweep(status="interrupted", metrics={}, files={})
    tracker.close(0)
    ended.update(state=sweep_dir.ENDED)
    return ended


def _files(uri: str, folder: SweepDir) -> list[str]:
    """What the store has of the sweep's files, and of those of trial b."""
    from mlflow import MlflowClient

    client, sweep = MlflowClient(tracking_uri=uri), read_sweep(uri, PROJECT, folder.sweep_id)
    trial = sweep.trials[1].run_id
    found = [file.path for run_id in (sweep.run_id, trial) for file in client.list_artifacts(run_id)]
    models = client.search_logged_models([client.get_run(trial).info.experiment_id])
    return sorted(found + [str(model.status) for model in models if model.source_run_id == trial])


FILES = ["READY", "report.html", "report.md", "samples"]


def test_files_that_cannot_be_stored_keep_a_sweep_open_until_the_cause_is_gone(
    with_files: SweepDir, uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    artifacts = with_files.path.parent / "mlartifacts"
    artifacts.write_text("")
    for _ in range(2):
        assert _flush(with_files) == INTERRUPTED
        said = capsys.readouterr()
        assert "every record" not in said.out
        assert said.err.splitlines()[-1].startswith(f"MLflow lacks 3 records of {with_files.sweep_id}, which wait in ")
        assert f"Once this is mended ({artifacts} is a file where a folder is needed)" in said.err
        assert f": python experiments.py flush {with_files.sweep_id}" in said.err
        assert with_files.read()["state"] == sweep_dir.ENDED
    assert read_sweep(uri, PROJECT, with_files.sweep_id).status == "done"  # all numbers are there
    artifacts.unlink()
    assert _flush(with_files) == DONE
    assert with_files.read()["state"] == sweep_dir.FINISHED
    assert _files(uri, with_files) == FILES


@pytest.mark.parametrize("state", [sweep_dir.RUNNING, sweep_dir.ENDED])
def test_what_mlflow_refuses_for_good_is_counted_and_never_called_complete(
    ended: SweepDir, uri: str, state: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tracker = open_tracker(ended, DEAD)
    tracker.log_epoch(trial_id="a", epoch=4, metrics={"gpu (%)": 1.0, "loss/val_mse": 1 / 4}, timestamp_ms=4)
    tracker.close(0)
    ended.update(state=state)
    for _ in range(2):
        assert _flush(ended) == TRIAL_FAILED
        said = capsys.readouterr()
        assert "every record" not in said.out + said.err
        assert f"MLflow refused 1 records of {ended.sweep_id} for what is in them; it has all others" in said.err
        assert "outbox.jsonl.rejected keeps them" in said.err
    record = read_sweep(uri, PROJECT, ended.sweep_id)
    assert record.trials[0].history["loss/val_mse"][-1] == (4, 1 / 4)
    assert record.tags["refused_records"] == "1"
    assert main(["list", "runs", "--tracking-uri", uri]) == DONE
    assert f"{ended.sweep_id}: MLflow refused 1 of its records; " in capsys.readouterr().out


def test_flush_to_another_store_moves_the_sweep_there_whole_and_once(
    with_files: SweepDir, uri: str, empty_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _flush(with_files) == DONE
    other = f"sqlite:///{shutil.copy(empty_store, tmp_path / 'other.db')}"
    before, old = read_sweep(uri, PROJECT, with_files.sweep_id), Path(tmp_path / "mlflow.db").read_bytes()
    shutil.rmtree(with_files.path / "best")  # as it was sent; MLflow has a copy
    capsys.readouterr()
    assert _flush(with_files, to=other) == DONE
    assert f"{other} is the store of {with_files.sweep_id} from now on" in capsys.readouterr().out
    moved = read_sweep(other, PROJECT, with_files.sweep_id)
    assert [(trial.trial_id, trial.status, trial.history) for trial in moved.trials] == [
        (trial.trial_id, trial.status, trial.history) for trial in before.trials
    ]
    assert (moved.status, moved.metrics) == (before.status, before.metrics)
    assert _files(other, with_files) == FILES
    assert with_files.read()["tracking_uri"] == other
    assert (tmp_path / "mlflow.db").read_bytes() == old
    assert _flush(with_files) == DONE
    assert "(0 were sent now)" in capsys.readouterr().out
    assert _flush(with_files, to=other) == DONE
    assert "from now on" not in capsys.readouterr().out


def test_files_that_neither_disk_nor_store_has_are_named_and_the_rest_moves(
    with_files: SweepDir, empty_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(with_files.path / "best")
    other = f"sqlite:///{shutil.copy(empty_store, tmp_path / 'other.db')}"
    assert _flush(with_files, to=other) == TRIAL_FAILED
    said = capsys.readouterr()
    assert f"{with_files.path}/best with the model is not there" in said.err
    assert f"{other} is the store of" in said.out
    assert _files(other, with_files) == ["report.html", "report.md", "samples"]


def test_while_files_wait_the_sweep_keeps_its_store(
    with_files: SweepDir, uri: str, empty_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = f"sqlite:///{shutil.copy(empty_store, tmp_path / 'other.db')}"
    (with_files.path.parent / "mlartifacts").write_text("")
    assert _flush(with_files, to=other) == INTERRUPTED
    assert f" --to {other}" in capsys.readouterr().err
    assert with_files.read()["tracking_uri"] == uri


def test_moving_goes_on_where_a_kill_ended_it_and_stores_nothing_twice(
    ended: SweepDir, empty_store: Path, tmp_path: Path
) -> None:
    epochs = 3000
    with open_tracker(ended, DEAD) as tracker:
        log(tracker, "a", *range(4, epochs + 1))
        tracker.close(0)
    ended.update(state=sweep_dir.RUNNING)
    other = Path(shutil.copy(empty_store, tmp_path / "other.db"))
    command = [sys.executable, "experiments.py", "flush", ended.sweep_id, "--storage-path", str(ended.path.parent)]
    command += ["--to", f"sqlite:///{other}"]
    with (tmp_path / "killed.log").open("wb") as file:
        process = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=file)
    while not _points(other):
        assert process.poll() is None, (tmp_path / "killed.log").read_text()
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert 0 < _points(other) < 2 * epochs
    assert _flush(ended, to=f"sqlite:///{other}") == DONE
    (trial,) = read_sweep(f"sqlite:///{other}", PROJECT, ended.sweep_id).trials
    assert points(f"sqlite:///{other}", trial.run_id) == expected_points(*range(1, epochs + 1))


def _points(file: Path) -> int:
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as database:
        return database.execute("SELECT COUNT(*) FROM metrics").fetchone()[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--to", "sqlite:///b.db", "--tracking-uri", "sqlite:///c.db"], "one store gets the records; give --to"),
        (["--to", "postgresql://u:hidden@db/m"], r"--to postgresql://db/m: .* put the whole address into MLFLOW_TRACK"),
        (["--to", "http://127.0.0.1:9"], "does not answer"),
        (["--to", "nowhere"], "'nowhere'"),
    ],
)
def test_another_store_that_cannot_be_meant_is_wrong_input_in_one_line(
    ended: SweepDir, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["flush", ended.sweep_id, "--storage-path", str(ended.path.parent), *options]) == WRONG_INPUT
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(message, line) and "hidden" not in line
    assert ended.read()["tracking_uri"] != "sqlite:///b.db"


def test_the_password_of_another_store_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = "postgresql+psycopg2://u:hidden@db/m"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", whole)
    given = argparse.Namespace(tracking_uri=None, to="postgresql+psycopg2://db/m")
    assert _other_store(given) == whole
