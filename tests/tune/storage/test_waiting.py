"""What an ended sweep still has to send is seen from its folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from tune.storage import open_sweep
from tune.storage.outbox import Outbox, beside
from tune.storage.sweep_dir import ENDED, FINISHED, RUNNING, SweepDir
from tune.storage.waiting import waiting


@pytest.fixture
def folder(tmp_path: Path) -> SweepDir:
    return open_sweep.create(tmp_path / "runs", "pruning", {"key": "k", "created_s": 1.0, "code": {}})


@pytest.mark.parametrize(
    ("state", "refused", "words"),
    [
        (FINISHED, 0, None),
        (RUNNING, 0, None),
        (ENDED, 0, "records of {id} wait in "),
        (FINISHED, 2, "2 records of {id} were refused by MLflow: to send "),
        (ENDED, 1, "1 records of {id} were refused by MLflow; records of {id} wait in "),
    ],
)
def test_a_sweep_whose_records_wait_names_the_command_that_sends_them(
    folder: SweepDir, state: str, refused: int, words: str | None
) -> None:
    folder.update(state=state)
    if refused:
        beside(folder.outbox, "rejected").write_text("{}\n" * refused)
    line = waiting(folder.path.parent, folder.sweep_id)
    if words is None:
        assert line is None
    else:
        assert words.format(id=folder.sweep_id) in str(line)
        assert f"python experiments.py flush {folder.sweep_id} --storage-path {folder.path.parent}" in str(line)


def test_a_sweep_that_runs_or_is_not_here_says_nothing(folder: SweepDir) -> None:
    folder.update(state=ENDED)
    outbox = Outbox(folder.outbox)
    assert waiting(folder.path.parent, folder.sweep_id) is None
    outbox.close()
    assert waiting(folder.path.parent, folder.sweep_id) is not None
    assert waiting(folder.path.parent, "another") is None
    (folder.path / "sweep.json").write_text("{")
    assert waiting(folder.path.parent, folder.sweep_id) is None
