"""Which sweep a command continues whose storage, store or data file is not where it was."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tune.common.errors import WrongInput
from tune.storage import open_sweep
from tune.storage.moved import EARLIER_STORES, Command, own_store, store_name
from tune.storage.sweep_dir import FINISHED, SweepDir

CODE = {"git_commit": "a" * 40, "git_dirty": False, "code_sha256": "1" * 64}
Place = Callable[[Path], Any]


def _key(store: str, paths: Mapping[str, Any]) -> str:
    """As a plan makes it: of the store's address and the data's path, beside what stays the same."""
    return f"{store} {paths.get('dataset')}"


def _uri(file: Path) -> str:
    return f"sqlite:///{file}"


def _command(store: Path | str, data: Path, holds: Callable[[str], bool] = lambda sweep_id: False) -> Command:
    uri = store if isinstance(store, str) else _uri(store)
    paths = {"dataset": str(data)}

    def key_of(store: str, paths: Mapping[str, str]) -> str:
        return _key(store, paths)

    return Command(key=_key(uri, paths), tracking_uri=uri, key_of=key_of, holds=holds, paths=paths)


def _begin(storage: Path, store: Path | str, data: Path, *, earlier: bool = False) -> SweepDir:
    """A new sweep. earlier: as versions wrote it that did not record where the storage and the data were."""
    command = _command(store, data)
    if isinstance(store, Path):
        store.parent.mkdir(parents=True, exist_ok=True)
        store.touch()
    recorded = {} if earlier else {"storage": str(storage), "paths": command.paths}
    trials = [{"params": {"data.dataset": str(data)}}]
    content = {"key": command.key, "created_s": 1.0, "code": CODE, "tracking_uri": command.tracking_uri}
    return open_sweep.create(storage, "custom", {**content, **recorded, "trials": trials})


def _choose(storage: Path, command: Command, **given: Any) -> tuple[SweepDir | None, str]:
    how = {"environment": CODE, "fresh": False, "resume": None, **given}
    return open_sweep.choose_sweep(storage, command=command, **how)


@pytest.mark.parametrize("data", ["a/small.csv", "elsewhere/small.csv"])
@pytest.mark.parametrize("store", ["a/mlflow.db", "a/runs/mlflow.db", "a/stores/deep/mlflow.db"])
@pytest.mark.parametrize("target", ["b", "home/b/a", "a/a"])
def test_a_moved_project_goes_on_with_its_sweep_and_says_what_has_moved(
    tmp_path: Path, store: str, data: str, target: str
) -> None:
    begun = _begin(tmp_path / "a" / "runs", tmp_path / store, tmp_path / data)
    shutil.move(tmp_path / "a", tmp_path / "moving")
    (tmp_path / target).parent.mkdir(parents=True, exist_ok=True)
    shutil.move(tmp_path / "moving", tmp_path / target)

    def now(path: str) -> Path:
        return tmp_path / target / Path(path).relative_to("a") if path.startswith("a/") else tmp_path / path

    storage, command = now("a/runs"), _command(now(store), now(data))
    chosen, why = _choose(storage, command)
    assert chosen == SweepDir(storage / begun.sweep_id), why
    line = command.move(chosen)
    assert line is not None and "\n" not in line
    assert f"its storage {tmp_path}/a/runs is now {storage}" in line
    assert ("dataset" in line) == data.startswith("a/")
    assert command.move(chosen) is None  # from now on it is at home
    assert _choose(storage, command)[0] == chosen
    assert _choose(storage, command, resume=begun.sweep_id)[0] == chosen


def test_a_project_that_moves_twice_goes_on_each_time(tmp_path: Path) -> None:
    begun = _begin(tmp_path / "a" / "runs", tmp_path / "a" / "mlflow.db", tmp_path / "a" / "small.csv")
    for before, now in (("a", "b"), ("b", "c")):
        shutil.move(tmp_path / before, tmp_path / now)
        place = tmp_path / now
        command = _command(place / "mlflow.db", place / "small.csv")
        chosen, _ = _choose(place / "runs", command)
        assert chosen is not None and chosen.sweep_id == begun.sweep_id
        command.move(chosen)


def test_data_that_moved_alone_are_the_same_data(tmp_path: Path) -> None:
    storage, store = tmp_path / "runs", tmp_path / "mlflow.db"
    begun = _begin(storage, store, tmp_path / "old.csv")
    command = _command(store, tmp_path / "new.csv")
    assert _choose(storage, command)[0] == begun
    assert f"its dataset {tmp_path}/old.csv is now {tmp_path}/new.csv" in str(command.move(begun))


@pytest.mark.parametrize("earlier", [False, True], ids=["this version", "an earlier version"])
def test_a_store_that_moved_away_from_its_storage_is_known_by_the_sweep_in_it(tmp_path: Path, earlier: bool) -> None:
    storage, store, data = tmp_path / "big" / "runs", tmp_path / "a" / "mlflow.db", tmp_path / "small.csv"
    begun = _begin(storage, store, data, earlier=earlier)
    shutil.move(tmp_path / "a", tmp_path / "b")
    moved = tmp_path / "b" / "mlflow.db"
    assert _choose(storage, _command(moved, data, holds=lambda sweep_id: sweep_id == begun.sweep_id))[0] == begun
    chosen, why = _choose(storage, _command(moved, data))
    assert chosen is None
    assert begun.sweep_id in why and f"--tracking-uri {_uri(store)} goes on there" in why
    assert _choose(storage, _command(moved, data), resume=begun.sweep_id)[0] == begun


def test_a_sweep_resumed_by_name_with_another_store_is_moved_to_it(tmp_path: Path) -> None:
    storage, store, data = tmp_path / "runs", tmp_path / "mlflow.db", tmp_path / "small.csv"
    begun = _begin(storage, store, data)
    command = _command("http://mlflow:5000", data)
    assert _choose(storage, command)[0] is None
    chosen, _ = _choose(storage, command, resume=begun.sweep_id)
    assert chosen == begun
    assert f"its store {_uri(store)} is now http://mlflow:5000" in str(command.move(begun))
    assert begun.read()[EARLIER_STORES] == [_uri(store)]
    assert _choose(storage, command)[0] == begun  # the same command without --resume


def test_the_command_with_the_store_that_flush_moved_a_sweep_to_goes_on_with_it(tmp_path: Path) -> None:
    storage, data = tmp_path / "runs", tmp_path / "small.csv"
    begun = _begin(storage, tmp_path / "mlflow.db", data)
    begun.update(tracking_uri="http://mlflow:5000", **{EARLIER_STORES: [_uri(tmp_path / "mlflow.db")]})
    assert _choose(storage, _command("http://mlflow:5000", data))[0] == begun
    assert _choose(storage, _command(tmp_path / "mlflow.db", data))[0] is None  # it is no longer there


def test_a_link_to_the_project_is_the_project(tmp_path: Path) -> None:
    begun = _begin(tmp_path / "a" / "runs", tmp_path / "a" / "mlflow.db", tmp_path / "a" / "small.csv")
    (tmp_path / "a" / "small.csv").touch()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    link = tmp_path / "link"
    command = _command(link / "mlflow.db", link / "small.csv")
    chosen, _ = _choose(link / "runs", command)
    assert chosen is not None and chosen.sweep_id == begun.sweep_id
    assert command.move(chosen) is None  # nothing has moved


def test_a_copy_with_a_store_of_its_own_goes_on_beside_the_original(tmp_path: Path) -> None:
    begun = _begin(tmp_path / "a" / "runs", tmp_path / "a" / "mlflow.db", tmp_path / "a" / "small.csv")
    before = (begun.path / "sweep.json").read_bytes()
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    copy = tmp_path / "b"
    command = _command(copy / "mlflow.db", copy / "small.csv")
    chosen, _ = _choose(copy / "runs", command)
    assert chosen == SweepDir(copy / "runs" / begun.sweep_id)
    assert "is now" in str(command.move(chosen))
    assert own_store(chosen) == _uri(copy / "mlflow.db")
    assert (begun.path / "sweep.json").read_bytes() == before
    assert own_store(begun) == _uri(tmp_path / "a" / "mlflow.db")


@pytest.mark.parametrize("store", ["http://mlflow:5000", "sqlite:////shared/mlflow.db"])
def test_a_copy_that_would_write_into_the_originals_store_is_refused(tmp_path: Path, store: str) -> None:
    begun = _begin(tmp_path / "a" / "runs", store, tmp_path / "small.csv")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    command = _command(store, tmp_path / "small.csv")
    chosen, _ = _choose(tmp_path / "b" / "runs", command)
    assert chosen is not None
    with pytest.raises(WrongInput, match=f"{chosen.path} is a copy of {begun.path}.*--fresh"):
        command.move(chosen)
    shutil.rmtree(tmp_path / "a")
    assert "has moved" in str(command.move(chosen))


def test_a_moved_sweep_that_is_finished_is_not_trained_again(tmp_path: Path) -> None:
    begun = _begin(tmp_path / "a" / "runs", tmp_path / "a" / "mlflow.db", tmp_path / "small.csv")
    begun.update(state=FINISHED)
    shutil.move(tmp_path / "a", tmp_path / "b")
    chosen, why = _choose(tmp_path / "b" / "runs", _command(tmp_path / "b" / "mlflow.db", tmp_path / "small.csv"))
    assert chosen is None and f"{begun.sweep_id} ran this same plan to its end" in why


@pytest.mark.parametrize("earlier", [False, True], ids=["this version", "an earlier version"])
def test_flush_finds_the_store_that_moved_with_the_sweep(tmp_path: Path, earlier: bool) -> None:
    begun = _begin(tmp_path / "a" / "runs", tmp_path / "a" / "mlflow.db", tmp_path / "small.csv", earlier=earlier)
    shutil.move(tmp_path / "a", tmp_path / "b")
    moved = SweepDir(tmp_path / "b" / "runs" / begun.sweep_id)
    assert own_store(moved) == _uri(tmp_path / "b" / "mlflow.db")
    (tmp_path / "b" / "mlflow.db").unlink()
    assert own_store(moved) == _uri(tmp_path / "a" / "mlflow.db")  # where it was last seen, for the message


@pytest.mark.parametrize("store", ["sqlite:///{}/mlflow.db", "sqlite:////fixed/mlflow.db", "http://mlflow:5000"])
def test_a_store_keeps_its_name_if_it_moves_with_the_project_or_stays_where_it_is(store: str) -> None:
    names = {store_name(store.format(place), Path(place, "runs", "s")) for place in ("/a", "/home/b/a")}
    assert len(names) == 1
