"""Files that a crash leaves cut at a random byte, empty or full of zeros: noticed, told, and never taken for whole."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fault_kit import Faults
from trial_kit import run_small

from tune.storage import open_sweep, sweep_dir
from tune.storage.checksums import MANIFEST, find_damage, first_intact
from tune.storage.moved import Command
from tune.storage.sweep_dir import SweepDir

EPOCHS = 3
CODE = {"code_sha256": "c", "git_commit": None, "git_dirty": None}


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trial that was killed after two of three epochs: report-1 and report-2 are its checkpoints."""
    folder = tmp_path_factory.mktemp("interrupted") / "a"
    with pytest.raises(KeyboardInterrupt):
        run_small(folder, stop_after=2, train__epochs=EPOCHS)
    return folder


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file())


def _cut(file: Path, faults: Faults) -> None:
    with file.open("r+b") as stream:
        stream.truncate(faults.moments.randrange(file.stat().st_size))


def _zero_the_end(file: Path, faults: Faults) -> None:
    size = file.stat().st_size
    kept = faults.moments.randrange(size - 1)
    file.write_bytes(file.read_bytes()[:kept] + bytes(size - kept))


def _remove(file: Path, faults: Faults) -> None:
    file.unlink()


@pytest.mark.parametrize("harm", [_cut, _zero_the_end, _remove])
def test_harm_to_any_file_of_a_checkpoint_is_noticed_and_the_one_before_is_taken(
    interrupted: Path, tmp_path: Path, faults: Faults, harm: Callable[[Path, Faults], None]
) -> None:
    newest, before = interrupted / "report-2", interrupted / "report-1"
    assert first_intact([str(newest), str(before)]) == (str(newest), None)
    names = [file.relative_to(newest) for file in _files(newest)]
    assert len(names) >= 5 and Path(MANIFEST) in names
    unnoticed = 0
    for at, name in enumerate(names):
        copy = Path(shutil.copytree(newest, tmp_path / str(at)))
        harm(copy / name, faults)
        chosen, wrong = first_intact([str(copy), str(before)])
        unnoticed += chosen != str(before) or not wrong or str(copy) not in wrong
    faults.injected(f"a checkpoint's file: {harm.__name__.strip('_')}", times=len(names), lost=unnoticed)
    assert unnoticed == 0


@pytest.mark.parametrize("from_start", [False, True])
def test_a_trial_that_goes_on_from_an_earlier_checkpoint_ends_bit_identical(
    interrupted: Path, tmp_path: Path, faults: Faults, from_start: bool
) -> None:
    harmed = [Path(shutil.copytree(interrupted / f"report-{epoch}", tmp_path / f"c{epoch}")) for epoch in (2, 1)]
    for folder in harmed if from_start else harmed[:1]:
        _cut(faults.moments.choice(_files(folder)), faults)
    chosen, _ = first_intact(str(folder) for folder in harmed)
    assert (chosen is None) == from_start
    rest = run_small(tmp_path / "rest", checkpoint=Path(chosen) if chosen else None, train__epochs=EPOCHS)
    whole = run_small(tmp_path / "whole", train__epochs=EPOCHS)
    assert rest.final["metrics"]["final/test_mse"] == whole.final["metrics"]["final/test_mse"]
    mine, theirs = rest.weights(len(rest.reports)), whole.weights(len(whole.reports))
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


def test_a_checkpoint_that_is_gone_or_was_never_sealed_is_not_whole(tmp_path: Path) -> None:
    assert find_damage(tmp_path / "gone") == "the folder is missing"
    assert find_damage(tmp_path) == f"{MANIFEST} cannot be read (FileNotFoundError)"
    assert first_intact([]) == (None, None)


def test_a_cut_list_of_checkpoints_leads_to_no_wrong_folder(tmp_path: Path, faults: Faults) -> None:
    sweep = SweepDir(tmp_path)
    for number in (1, 2):
        sweep.save_checkpoint("t", str(tmp_path / f"checkpoint_{number}"))
    whole = sweep.checkpoints("t")
    _cut(tmp_path / "checkpoints" / "t", faults)
    assert first_intact(sweep.checkpoints("t"))[0] is None
    assert set(sweep.checkpoints("t")[:-1]) <= set(whole)


def test_a_cut_blocks_json_is_told_and_no_block_is_taken_for_begun(
    tmp_path: Path, faults: Faults, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = SweepDir(tmp_path)
    sweep.save_blocks({"1": "GPU-a", "2": "GPU-b"})
    assert sweep.blocks() == {"1": "GPU-a", "2": "GPU-b"}
    _cut(tmp_path / "blocks.json", faults)
    assert sweep.blocks() == {}
    assert "blocks.json is damaged" in capsys.readouterr().err


def test_a_cut_sweep_json_is_named_and_its_results_stay_where_they_are(
    tmp_path: Path, faults: Faults, capsys: pytest.CaptureFixture[str]
) -> None:
    content = {"key": "k", "created_s": 1.0, "code": CODE}
    sweep = open_sweep.create(tmp_path, "pruning", content)
    sweep.outbox.write_text(json.dumps({"kind": "begin_sweep"}) + "\n")
    _cut(sweep.path / "sweep.json", faults)
    chosen, _ = open_sweep.choose_sweep(tmp_path, command=Command(key="k"), environment=CODE, fresh=False, resume=None)
    assert chosen is None
    assert f"{sweep.path / 'sweep.json'} is left out" in capsys.readouterr().err
    open_sweep.create(tmp_path, "pruning", content)
    assert sweep.outbox.read_text()


def test_a_sweep_made_after_the_clock_was_set_back_is_still_the_latest(tmp_path: Path) -> None:
    content = {"key": "k", "code": CODE}
    first = open_sweep.create(tmp_path, "pruning", content | {"created_s": 7200.0})
    first.update(state=sweep_dir.FINISHED)
    second = open_sweep.create(tmp_path, "pruning", content | {"created_s": 3600.0})
    chosen, _ = open_sweep.choose_sweep(tmp_path, command=Command(key="k"), environment=CODE, fresh=False, resume=None)
    assert chosen == second
