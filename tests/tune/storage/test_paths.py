"""Paths inside a sweep's folder, however the folder is named when they are read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tune.storage.outbox import Outbox
from tune.storage.paths import found_path, stored_path
from tune.storage.sweep_dir import SweepDir

SWEEP = "custom-20260101-000000-aaaa"
INSIDE = "attempt-1/t/checkpoint_000001"
PLACES = {
    "another name": "b/runs",
    "another user": "home/b/work/runs",
    "another mount point": "mnt/disk/runs",
    "storage of another name": "a/sweeps",
    "a folder named like it": f"{SWEEP}/runs",
}


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize("absolute", [False, True], ids=["stored by this version", "stored absolute by an earlier one"])
def test_a_stored_path_is_found_where_the_sweep_is_now(tmp_path: Path, place: str, absolute: bool) -> None:
    before, now = tmp_path / "a" / "runs" / SWEEP, tmp_path / place / SWEEP
    text = str(before / INSIDE) if absolute else stored_path(before / INSIDE, before)
    assert found_path(text, now) == now / INSIDE


def test_a_path_outside_of_the_sweeps_folder_stays_as_it_is(tmp_path: Path) -> None:
    assert stored_path("/elsewhere/model", tmp_path / SWEEP) == "/elsewhere/model"
    assert found_path("/elsewhere/model", tmp_path / SWEEP) == Path("/elsewhere/model")


@pytest.mark.parametrize("given", ["{}", "{}/", "../{}", "link"], ids=["relative", "slash", "from elsewhere", "a link"])
def test_paths_are_found_however_the_storage_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    folder = tmp_path / "here" / "runs" / SWEEP
    (folder / INSIDE).mkdir(parents=True)
    SweepDir(folder).save_checkpoint("t", str(folder / INSIDE))
    (tmp_path / "here" / "link").symlink_to(folder.parent)
    monkeypatch.chdir(folder.parent if given.startswith("..") else folder.parents[1])
    storage = Path(given.format("runs"))
    (found,) = SweepDir(storage / SWEEP).checkpoints("t")
    assert Path(found).samefile(folder / INSIDE)


def test_a_copys_records_name_the_copys_folders_though_the_original_is_there(tmp_path: Path) -> None:
    original = tmp_path / "a" / SWEEP
    outbox = Outbox(original / "outbox.jsonl")
    folders = {f"{name}_dir": str(original / INSIDE / name) for name in ("model", "samples", "forecasts")}
    outbox.append({"kind": "end", **folders})
    outbox.append({"kind": "end", "model_dir": None, "samples_dir": "/elsewhere/samples"})
    outbox.close()
    assert str(tmp_path) not in (original / "outbox.jsonl").read_text()
    copy = tmp_path / "b" / SWEEP
    shutil.copytree(original, copy)
    copied = Outbox(copy / "outbox.jsonl")
    first, second = (record for record, _ in copied.read())
    copied.close()
    assert first == {"kind": "end", **{name: path.replace(str(original), str(copy)) for name, path in folders.items()}}
    assert second == {"kind": "end", "model_dir": None, "samples_dir": "/elsewhere/samples"}


def test_an_outbox_of_an_earlier_version_with_absolute_paths_names_folders_where_they_are_now(tmp_path: Path) -> None:
    folder = tmp_path / "b" / SWEEP
    folder.mkdir(parents=True)
    line = json.dumps({"kind": "end", "model_dir": f"/home/a/runs/{SWEEP}/{INSIDE}/model"})
    (folder / "outbox.jsonl").write_text(line + "\n")
    outbox = Outbox(folder / "outbox.jsonl")
    ((record, _),) = outbox.read()
    outbox.close()
    assert record["model_dir"] == str(folder / INSIDE / "model")
