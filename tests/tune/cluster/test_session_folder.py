"""What stands in the way of Ray's session is found before Ray starts, and one line says what to set."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from sandbox_kit import AS_BARE_UID, bound, environment, need, python, with_mounts

from tune.cluster.session_folder import LEAST_FREE_MIB, LONGEST_BELOW, LONGEST_SOCKET_BYTES, session_folder
from tune.common.errors import WrongInput

ASKED = """
from tune.common.process_setup import prepare_process
prepare_process()
from tune.cluster.session_folder import session_folder
try:
    print("folder", session_folder())
except ValueError as error:
    print(error)
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="s", dir="/tmp"))  # not below pytest's, whose names are long
    yield path
    shutil.rmtree(path, ignore_errors=True)


def asked(folder: Path, *before: str, **variables: str | None) -> str:
    """The line that a process says of its session's folder."""
    done = python(ASKED, before=before, env=environment(**variables), cwd=folder)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    (line,) = done.stdout.splitlines()
    return line


@pytest.mark.parametrize("variable", ["RAY_TMPDIR", "TMPDIR"])
def test_a_folder_too_long_for_sockets_is_refused_and_ray_tmpdir_named(folder: Path, variable: str) -> None:
    room = LONGEST_SOCKET_BYTES - len(f"/ray-{os.getuid()}/s/{LONGEST_BELOW}") - len(f"{folder}/")
    fits, long = (folder / ("x" * (room + more)) for more in (0, 1))
    for path in (fits, long):
        path.mkdir()
    unset = dict.fromkeys(("RAY_TMPDIR", "TMPDIR"))
    assert asked(folder, **unset | {variable: str(fits)}) == f"folder {fits}/ray-{os.getuid()}/s"
    line = asked(folder, **unset | {variable: str(long)})
    assert line.startswith(f"{variable} {long}: its path is too long for Ray's sockets, at most ")
    assert line.endswith("set RAY_TMPDIR to a short folder such as /tmp")


@pytest.mark.parametrize(("name", "taken"), [("a b", True), ("ü", False), ("it's", False), ('"', False), ("$x", False)])
def test_a_folder_whose_name_ray_does_not_take_is_refused(folder: Path, name: str, taken: bool) -> None:
    (folder / name).mkdir()
    line = asked(folder, TMPDIR=str(folder / name), RAY_TMPDIR=None)
    assert line.startswith("folder ") == taken
    assert taken or ("beyond ASCII" in line and "set RAY_TMPDIR to another folder" in line)


def test_ray_tmpdir_goes_before_a_tmpdir_that_is_too_long(folder: Path) -> None:
    (folder / ("x" * 90)).mkdir()
    line = asked(folder, TMPDIR=str(folder / ("x" * 90)), RAY_TMPDIR=str(folder))
    assert line == f"folder {folder}/ray-{os.getuid()}/s"


# What is mounted at RAY_TMPDIR -> what the line says
MOUNTS = {
    "full": ("size=2m", f"MiB are free, Ray needs {LEAST_FREE_MIB}: make room, or set RAY_TMPDIR"),
    "read-only": ("ro", "Read-only file system.*name another folder in RAY_TMPDIR"),
}


@pytest.mark.parametrize("name", MOUNTS)
def test_a_disk_that_cannot_hold_a_session_is_named(folder: Path, name: str) -> None:
    need()
    options, said = MOUNTS[name]
    place = folder / "t"
    place.mkdir()
    line = asked(folder, *with_mounts(f"mount -t tmpfs -o {options} tmpfs {place}"), RAY_TMPDIR=str(place))
    with pytest.raises(WrongInput, match=said):
        raise WrongInput(line)
    assert str(place) in line


@pytest.mark.parametrize("options", [("--perms=a+rwX", "--chmod-ignore"), ("--force-user=65534",)])
def test_a_mount_that_fixes_modes_or_owners_holds_no_session(folder: Path, options: tuple[str, ...]) -> None:
    need("bindfs")
    with bound(folder / "from", folder / "at", *options) as mount:
        line = asked(folder, RAY_TMPDIR=str(mount))
    assert "can be written by others" in line and "name another folder in RAY_TMPDIR" in line
    assert "chmod" not in line  # it would change nothing


def test_a_machine_without_a_loopback_interface_is_told_how_to_bring_it_up(folder: Path) -> None:
    need()
    line = asked(folder, "unshare", "--user", "--map-root-user", "--net", RAY_TMPDIR=str(folder))
    assert "nothing can connect to 127.0.0.1" in line and line.endswith("ip link set lo up")


STORED = """
from pathlib import Path
from tune.cluster.session_folder import object_store
print(object_store(Path("/tmp/ray-1/s")).get("_plasma_directory", "in /dev/shm"))
"""


@pytest.mark.parametrize(
    ("options", "place"),
    [("size=200m", "in /dev/shm"), ("size=64m", "/tmp/ray-1"), ("ro,size=200m", "/tmp/ray-1")],  # Docker gives 64 MB
)
def test_rays_objects_are_in_shared_memory_where_they_fit(folder: Path, options: str, place: str) -> None:
    need()
    done = python(STORED, before=with_mounts(f"mount -t tmpfs -o {options} s /dev/shm"), env=environment(), cwd=folder)
    assert (done.stdout.strip(), done.stderr) == (place, "")


@pytest.mark.parametrize("home", [None, "/", "/proc"])
def test_a_bare_uid_has_a_session_folder_whatever_its_home_is(folder: Path, home: str | None) -> None:
    need()
    assert asked(folder, *AS_BARE_UID, HOME=home, TMPDIR=str(folder)) == f"folder {folder}/ray-12345/s"


def test_a_session_folder_is_private_and_stays_where_it_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(folder))
    assert session_folder() == session_folder()
    assert (folder / f"ray-{os.getuid()}").stat().st_mode & 0o077 == 0
