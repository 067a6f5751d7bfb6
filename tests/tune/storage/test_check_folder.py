"""A storage folder is looked at before Ray starts; what it cannot hold goes elsewhere. On real mounts."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from sandbox_kit import bound, environment, need, python, with_mounts

from tune.common.errors import WrongInput
from tune.common.files import make_private
from tune.storage.check_folder import CACHES, LOCKS, cache_note, cache_place, check_storage

# Mounts where chmod changes nothing, or that show one owner
FIXED = {
    "wsl, smb, exfat": ("--perms=a+rwX", "--chmod-ignore", "--chown-ignore"),
    "chmod is refused": ("--perms=a+rwX", "--chmod-deny", "--chown-deny"),
    "group may write": ("--perms=ug+rwX:o-rwx", "--chmod-ignore"),
    "root is squashed": ("--force-user=65534", "--force-group=65534"),
}


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="s", dir="/tmp"))
    monkeypatch.setenv("RAY_TMPDIR", str(path / "t"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(params=FIXED)
def fixed(folder: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A mount that keeps no permissions or owners."""
    with bound(folder / "from", folder / "at", *FIXED[request.param]) as mount:
        yield mount


def test_a_mount_that_keeps_no_permissions_holds_sweeps_but_no_caches(fixed: Path, folder: Path) -> None:
    storage = fixed / "runs"
    check_storage(storage)
    (storage / LOCKS).mkdir(parents=True)
    for name in CACHES:
        (storage / name).mkdir()
    check_storage(storage)  # nor do owners or modes of what is there stop the next sweep
    place = cache_place(storage)
    assert place.is_relative_to(folder / "t")
    make_private(place / "compile", "compiled programs")
    note = cache_note(storage)
    assert note is not None and "keeps no permissions or owners" in note and str(place) in note and "\n" not in note


def test_two_storages_share_no_stand_in_and_each_keeps_its_own(fixed: Path) -> None:
    one, other = (cache_place(fixed / name) for name in ("runs", "more"))
    assert one != other
    assert one == cache_place(fixed / "runs")


def test_what_cannot_be_trusted_says_what_helps_there(fixed: Path) -> None:
    with pytest.raises(RuntimeError, match="can be written by others.*: use a file system that keeps permissions"):
        make_private(fixed / "compile", "compiled programs")


def test_an_ordinary_folder_holds_its_own_caches(folder: Path) -> None:
    assert cache_place(folder / "runs") == folder / "runs"
    assert cache_note(folder / "runs") is None
    assert [path.name for path in folder.iterdir()] == []


@pytest.mark.parametrize("name", CACHES)
def test_a_cache_that_others_can_write_is_refused_before_a_trial_meets_it(folder: Path, name: str) -> None:
    cache = folder / "runs" / name
    cache.mkdir(parents=True)
    cache.chmod(0o777)
    with pytest.raises(WrongInput, match=f"others can write to {cache}, .*: chmod -R go-w {cache}"):
        check_storage(folder / "runs")
    cache.chmod(0o700)
    check_storage(folder / "runs")


ASKED = """
import pathlib
from tune.storage.check_folder import cache_note, check_storage
storage = pathlib.Path(STORAGE)
try:
    check_storage(storage)
    print(cache_note(storage))
except ValueError as error:
    print(error)
"""


def asked(folder: Path, options: str) -> str:
    need()
    (folder / "at").mkdir()
    program = ASKED.replace("STORAGE", repr(str(folder / "at" / "runs")))
    mounts = with_mounts(f"mount -t tmpfs -o {options} tmpfs {folder / 'at'}")
    done = python(program, before=mounts, env=environment(), cwd=folder)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    (line,) = done.stdout.splitlines()
    return line


def test_libraries_are_not_kept_where_nothing_may_be_executed(folder: Path) -> None:
    line = asked(folder, "noexec")
    assert "is mounted noexec, so compiled programs and gate results are kept in" in line and f"{folder}/t" in line


@pytest.mark.parametrize("options", ["ro", "mode=555,nr_inodes=1"])
def test_storage_where_nothing_can_be_made_is_refused_in_one_line(folder: Path, options: str) -> None:
    line = asked(folder, options)
    assert line.startswith(f"--storage-path {folder}/at/runs: ")
    assert line.endswith("; give a folder that can be written or created")


def test_an_own_folder_that_is_missing_is_made_for_its_owner_only(folder: Path) -> None:
    with bound(folder / "from", folder / "at", *FIXED["wsl, smb, exfat"]) as mount:
        place = cache_place(mount)
    assert place.parents[1].stat().st_mode & 0o077 == 0
    assert place.parents[1].name == f"ray-{os.getuid()}"


def test_a_folder_that_cannot_be_written_may_be_read_for_its_caches() -> None:
    assert cache_place(Path("/proc")) == Path("/proc")
