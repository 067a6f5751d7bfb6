"""`status` without a cluster: the sweeps of a folder, also one that another process runs or that a kill has cut."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tune.commands.main import main
from tune.common.errors import DONE, WRONG_INPUT
from tune.storage import open_sweep
from tune.storage.outbox import Outbox
from tune.storage.sweep_dir import ENDED, FINISHED, SweepDir


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)


def make(name: str, *, state: str = "running", ended: int = 0, planned: int = 0) -> SweepDir:
    sweep = open_sweep.create(Path("runs"), name, {"key": "k", "state": state, "created_s": 1.0, "code": {}})
    outbox = Outbox(sweep.outbox)
    for number in range(planned):
        outbox.append({"kind": "plan", "trial_id": f"t{number}", "tags": {"status": "planned"}})
    for number in range(ended):
        outbox.append({"kind": "end", "trial_id": f"t{number}", "status": "done"})
    outbox.close()
    return sweep


def shown(capsys: pytest.CaptureFixture[str], *words: str) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert main(["status", "--json", "-", *words]) == DONE
    return json.loads(capsys.readouterr().out)["sweeps"]


def test_each_sweep_has_its_state_and_its_trials(capsys: pytest.CaptureFixture[str]) -> None:
    make("a", state=FINISHED, ended=2, planned=2)
    make("b", state=ENDED, ended=1, planned=1)
    make("c", ended=1, planned=3)
    rows = shown(capsys)
    assert [(row["sweep_id"][0], row["state"], row["ended"], row["left"]) for row in rows] == [
        ("c", "unfinished", 1, 2), ("b", "waits for MLflow", 1, 0), ("a", "finished", 2, 0),
    ]  # fmt: skip
    assert main(["status"]) == DONE
    said = capsys.readouterr().out
    assert "the same command again goes on from there" in said and said.startswith("sweep_id")


def test_a_running_one_is_seen_with_its_process_and_its_half_written_line(capsys: pytest.CaptureFixture[str]) -> None:
    sweep = make("a", ended=1, planned=3)
    outbox = Outbox(sweep.outbox)
    with sweep.outbox.open("ab") as file:
        file.write(b'{"kind":"end","trial_id":"t1","sta')
    (row,) = shown(capsys, "last")
    assert (row["state"], row["ended"], row["left"]) == ("running", 1, 2)
    assert "process" in row["process"]
    outbox.close()


def test_one_sweep_can_be_named_and_one_that_is_not_there_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    first = make("attention")
    make("pruning")
    (row,) = shown(capsys, "attention")
    assert row["sweep_id"] == first.sweep_id and row["ended"] == row["left"] == 0
    assert main(["status", "prunin-1"]) == WRONG_INPUT
    assert "no such sweep in runs; the latest are: pruning-" in capsys.readouterr().err


def test_without_a_folder_it_says_what_to_give(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status"]) == WRONG_INPUT
    (line,) = capsys.readouterr().err.splitlines()
    assert "--storage-path runs: there is no such folder" in line and "--cluster" in line
