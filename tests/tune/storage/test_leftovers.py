"""What a sweep keeps on disk, and what may go."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tune.storage import open_sweep
from tune.storage.leftovers import clear_leftovers, leftovers, size_bytes, stale_drafts
from tune.storage.outbox import Outbox
from tune.storage.sweep_dir import ENDED, FINISHED, RUNNING, SweepDir

FILES = ("model/model.safetensors", "moments.safetensors", "state.pt", "samples/steps.arrow")


@pytest.fixture(name="sweep", params=["absolute", "relative"])
def sweep_fixture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> SweepDir:
    """Two attempts. Trial a ended in the second with its model, b was stopped, c is not over; each has old epochs."""
    monkeypatch.chdir(tmp_path)
    storage = tmp_path / "runs" if request.param == "absolute" else Path("runs")
    sweep = open_sweep.create(storage, "custom", {"key": "k", "created_s": 1.0, "code": {}})
    for attempt in ("attempt-1", "attempt-2"):
        for trial in "abc":
            for number in range(2):
                for file in FILES:
                    path = sweep.path / attempt / trial / f"checkpoint_00000{number}" / file
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_text("x" * 10)
        (sweep.path / attempt / "experiment_state.json").write_text("{}")
    newest = {trial: sweep.path.absolute() / "attempt-2" / trial / "checkpoint_000001" for trial in "abc"}
    for trial, folder in newest.items():
        sweep.save_checkpoint(trial, str(folder))
    outbox = Outbox(sweep.outbox)
    folders = {"model_dir": str(newest["a"] / "model"), "samples_dir": str(newest["a"] / "samples")}
    outbox.append({"kind": "end", "trial_id": "a", **folders})
    outbox.append({"kind": "end", "trial_id": "b", "model_dir": None, "samples_dir": str(newest["b"] / "samples")})
    outbox.close()
    return sweep


def _left(sweep: SweepDir) -> set[str]:
    return {str(file.relative_to(sweep.path)) for file in sweep.path.rglob("*") if file.is_file()} - {
        "sweep.json",
        "outbox.jsonl",
        "outbox.jsonl.lock",
    }


def test_a_finished_sweep_keeps_what_a_store_may_be_sent_again_and_no_checkpoint(sweep: SweepDir) -> None:
    sweep.update(state=FINISHED)
    clear_leftovers(sweep)
    assert _left(sweep) == {
        "attempt-2/a/checkpoint_000001/model/model.safetensors",
        "attempt-2/a/checkpoint_000001/samples/steps.arrow",
        "attempt-2/b/checkpoint_000001/samples/steps.arrow",
    }
    assert leftovers(sweep) == []


@pytest.mark.parametrize("state", [RUNNING, ENDED])
def test_an_unfinished_sweep_keeps_the_checkpoints_that_its_trials_go_on_from(sweep: SweepDir, state: str) -> None:
    sweep.update(state=state)
    clear_leftovers(sweep)
    newest = {f"attempt-2/{trial}/checkpoint_000001/{file}" for trial in "abc" for file in FILES}
    assert _left(sweep) == newest | {f"checkpoints/{trial}" for trial in "abc"}
    assert all(Path(path).is_dir() for trial in "abc" for path in sweep.checkpoints(trial))


def test_records_that_mlflow_refused_keep_their_folders(sweep: SweepDir) -> None:
    """They are in the outbox, too: what `.rejected` repeats is sent from these folders."""
    sweep.update(state=FINISHED)
    record = next(line for line in sweep.outbox.read_text().splitlines() if '"b"' in line)
    sweep.outbox.with_name("outbox.jsonl.rejected").write_text(f'{{"error": "no", "record": {record}}}\n')
    clear_leftovers(sweep)
    assert (sweep.path / "attempt-2/b/checkpoint_000001/samples/steps.arrow").exists()


def test_a_draft_is_stale_once_its_process_has_ended(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "sweep.json").write_text("{}")
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    mine, theirs, foreign = (tmp_path / "s" / f".sweep.json.{pid}.tmp" for pid in (os.getpid(), ended.pid, "x"))
    for file in (mine, theirs, foreign):
        file.touch()
    assert list(stale_drafts(tmp_path)) == [theirs]


def test_a_links_target_does_not_count_and_is_not_removed(tmp_path: Path, sweep: SweepDir) -> None:
    sweep.update(state=FINISHED)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x" * 1000)
    link = sweep.path / "attempt-1" / "link"
    link.symlink_to(outside)
    assert size_bytes(link) < 1000
    clear_leftovers(sweep)
    assert (outside / "precious").exists() and not link.is_symlink()
