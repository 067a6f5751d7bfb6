"""What libraries want of a process is there in each of the surroundings that containers have. Real processes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from sandbox_kit import AS_BARE_UID, UID, environment, need, python

from tune.common.surroundings import CACHES, LONGEST_TMPDIR
from tune.common.temporary import own_folder

TOLD = """
import getpass, json, os, pathlib, sys, tempfile
from tune.common.process_setup import prepare_process
prepare_process()
caches = {name: os.environ.get(name) for name in sys.argv[1].split()}
for folder in caches.values():
    if folder is not None:
        pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
names = ("HOME", "TMPDIR")
said = {"user": getpass.getuser(), "home": str(pathlib.Path.home()), "temporary": tempfile.gettempdir()}
print(json.dumps(said | {"caches": caches} | {name: os.environ.get(name) for name in names}))
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="s", dir="/tmp"))  # not below pytest's, whose names are long
    yield path
    shutil.rmtree(path, ignore_errors=True)


def told(folder: Path, *before: str, **variables: str | None) -> dict[str, object]:
    done = subprocess.run(
        [*before, sys.executable, "-c", TOLD, " ".join(CACHES)],
        env=environment(**variables) | {"PYTHONPATH": str(Path(__file__).resolve().parents[3])},
        cwd=folder, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


@pytest.mark.parametrize("home", [None, "/", "/proc", "/nowhere/at/all", "", "~", "not/absolute"])
def test_a_uid_without_account_has_a_name_and_folders_whatever_its_home_is(folder: Path, home: str | None) -> None:
    need()
    said = told(folder, *AS_BARE_UID, HOME=home, TMPDIR=str(folder))
    assert said["user"] == f"uid{UID}"
    assert Path(str(said["home"])).is_dir()
    caches = said["caches"]
    assert isinstance(caches, dict)
    ours = folder / f"ray-{UID}"
    assert all(Path(cache).is_relative_to(ours) for cache in caches.values())
    assert ours.stat().st_mode & 0o077 == 0


def test_a_home_that_cannot_be_written_stays_and_its_caches_go_elsewhere(folder: Path) -> None:
    said = told(folder, HOME="/proc", TMPDIR=str(folder), USER="ann")
    assert said["HOME"] == "/proc" and said["user"] == "ann"
    assert isinstance(said["caches"], dict) and None not in said["caches"].values()


@pytest.mark.parametrize("name", CACHES)
def test_a_cache_that_the_user_names_stays(folder: Path, name: str) -> None:
    chosen = str(folder / "chosen")
    said = told(folder, HOME="/proc", TMPDIR=str(folder), USER="ann", **{name: chosen})
    assert isinstance(said["caches"], dict) and said["caches"][name] == chosen


def test_nothing_changes_where_nothing_is_missing(folder: Path) -> None:
    said = told(folder, HOME=str(folder), TMPDIR=str(folder), USER="ann", **dict.fromkeys(CACHES))
    assert said["caches"] == dict.fromkeys(CACHES)
    assert (said["HOME"], said["TMPDIR"], list(folder.iterdir())) == (str(folder), str(folder), [])


@pytest.mark.parametrize("given", ["/nowhere/at/all", "/proc", "/dev/null", ""])
def test_a_tmpdir_that_cannot_be_used_is_none_for_ray_either(folder: Path, given: str) -> None:
    said = told(folder, HOME=str(folder), TMPDIR=given)
    assert said["TMPDIR"] == said["temporary"] != given
    assert not Path("/nowhere").exists()


def test_rays_short_folder_is_for_other_sockets_too_where_tmpdir_is_long(folder: Path) -> None:
    long = folder / ("x" * LONGEST_TMPDIR)
    long.mkdir()
    assert told(folder, HOME=str(folder), TMPDIR=str(long))["temporary"] == str(long)
    assert told(folder, HOME=str(folder), TMPDIR=str(long), RAY_TMPDIR=str(folder))["temporary"] == str(folder)


NOTHING = "import tempfile; tempfile._candidate_tempdir_list = lambda: ['/proc', '/nowhere']; "


def test_without_any_temporary_folder_there_is_one_line_that_names_tmpdir(folder: Path) -> None:
    said = "\ntry: own_folder()\nexcept ValueError as error: print(error)"
    program = f"{NOTHING}\nfrom tune.common.process_setup import prepare_process; prepare_process()"
    done = python(f"{program}\nfrom tune.common.temporary import own_folder{said}", env=environment(), cwd=folder)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert "No usable temporary directory" in line and "set TMPDIR to a folder that can be written" in line


def test_torch_is_imported_under_a_uid_without_account(folder: Path) -> None:
    need()
    program = "from tune.common.process_setup import prepare_process; prepare_process(); import torch._dynamo"
    variables = {"HOME": None, "TMPDIR": str(folder), "TORCHINDUCTOR_CACHE_DIR": None}
    done = python(program, before=AS_BARE_UID, env=environment(**variables), cwd=folder)
    assert done.returncode == 0, done.stderr


def test_our_folder_lies_where_ray_is_told_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "new"))
    assert own_folder() == tmp_path / "new" / f"ray-{os.getuid()}"
