"""`flush`: what MLflow lacks of a sweep is sent by one command, as often as one likes."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

import pytest
from tracking_kit import end, log, plan

from tune.commands.flush import run
from tune.commands.main import main
from tune.common.errors import DONE, INTERRUPTED, WRONG_INPUT
from tune.driver.finish import flush_while_moving, how_to_flush, open_tracker
from tune.storage import open_sweep, sweep_dir
from tune.storage.sweep_dir import SweepDir
from tune.tracking.reader import read_sweep
from tune.tracking.store import PROJECT

DEAD = "http://127.0.0.1:9"


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
        (["--tracking-uri", "sqlite:///other.db"], "is recorded in sqlite:.*mlflow.db, and flush was given sqlite"),
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
