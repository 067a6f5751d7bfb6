"""Files that a killed process has left in a folder of compiled code are found and removed, and no others."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tune.trial import cache_guard
from tune.trial.cache_guard import CacheGuard

ROOT = Path(__file__).resolve().parents[3]
CODE, KERNEL = "inductor/ab/code.py", "triton/KERNEL1"
FILES = {
    CODE: "def call(): ...\n",
    "inductor/cd/code.main.so": "\x7fELF and more",
    f"{KERNEL}/k.cubin": "cubin",
    f"{KERNEL}/__grp__k.json": "{}",
    "triton/KERNEL2/k.cubin": "cubin",
}
CUTS: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "garbage": lambda path: path.write_bytes(b"#" * path.stat().st_size),
    "gone": lambda path: path.unlink(),
}


def guard(folder: Path) -> CacheGuard:
    return CacheGuard(folder, ("inductor", "triton"))


def fill(folder: Path) -> None:
    for name, text in FILES.items():
        write(folder / name, text)


def write(path: Path, text: str = "new") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def files(folder: Path) -> set[str]:
    tops = [folder / "inductor", folder / "triton"]
    return {path.relative_to(folder).as_posix() for top in tops for path in top.rglob("*") if path.is_file()}


def opened(folder: Path) -> set[str]:
    """What is left once a process begins, which then ends in good order."""
    mine = guard(folder)
    mine.begin()
    left = files(folder)
    mine.end()
    return left


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One in which a process has compiled and ended in good order."""
    mine = guard(tmp_path)
    mine.begin()
    fill(tmp_path)
    mine.end()
    return tmp_path


def test_files_of_a_process_that_ended_in_good_order_stay(folder: Path) -> None:
    assert opened(folder) == set(FILES)


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("name", [CODE, "inductor/cd/code.main.so"])
def test_a_cut_file_is_removed_and_the_others_stay(folder: Path, name: str, cut: str) -> None:
    CUTS[cut](folder / name)
    assert opened(folder) == set(FILES) - {name}


@pytest.mark.parametrize("cut", CUTS)
def test_a_kernel_of_which_one_file_is_cut_is_removed_as_a_whole(folder: Path, cut: str) -> None:
    CUTS[cut](folder / KERNEL / "k.cubin")
    assert opened(folder) == {name for name in FILES if not name.startswith(KERNEL)}
    assert not (folder / KERNEL).exists()


@pytest.mark.parametrize("name", ["inductor/ab/.12.34.tmp", "inductor/ab/new.so", "triton/tmp.x/k.cubin"])
def test_what_nobody_vouched_for_is_removed(folder: Path, name: str) -> None:
    write(folder / name)
    assert opened(folder) == set(FILES)


def test_a_kernels_folder_without_files_is_removed(folder: Path) -> None:
    (folder / "triton" / "KERNEL3" / "tmp.pid_1").mkdir(parents=True)
    opened(folder)
    assert not (folder / "triton" / "KERNEL3").exists()


def test_lock_files_stay(folder: Path) -> None:
    write(folder / "inductor/locks/a.lock", "")
    assert opened(folder) == {*FILES, "inductor/locks/a.lock"}


@pytest.mark.parametrize("manifest", ["", "{", "[]", '{"files": {"a": 1}}', '{"files": []}', "gone"])
def test_without_a_readable_manifest_nothing_is_trusted(folder: Path, manifest: str) -> None:
    path = folder / cache_guard.MANIFEST
    path.unlink() if manifest == "gone" else path.write_text(manifest)
    assert opened(folder) == set()


def test_a_process_that_is_killed_while_it_compiles_leaves_nothing_new(folder: Path) -> None:
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from tune.trial.cache_guard import CacheGuard\n"
        f"folder = Path({str(folder)!r})\n"
        "CacheGuard(folder, ('inductor', 'triton')).begin()\n"
        "(folder / 'inductor' / 'cut.so').write_bytes(b'')\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == -9
    assert len(list((folder / cache_guard.MARKS).iterdir())) == 1
    assert opened(folder) == set(FILES)
    assert not list((folder / cache_guard.MARKS).iterdir())


def test_files_of_one_who_compiles_stay_and_the_last_to_end_vouches_for_all(folder: Path) -> None:
    first, second = guard(folder), guard(folder)
    first.begin()
    write(folder / "inductor/first.so")
    second.begin()
    assert files(folder) == {*FILES, "inductor/first.so"}
    write(folder / "inductor/second.so")
    second.end()
    known = json.loads((folder / cache_guard.MANIFEST).read_text())["files"]
    assert set(known) == set(FILES)  # the first may still be writing
    first.end()
    assert opened(folder) == {*FILES, "inductor/first.so", "inductor/second.so"}


def test_nobody_vouches_beside_the_files_of_a_killed_process(folder: Path) -> None:
    lives, killed = guard(folder), guard(folder)
    lives.begin()
    killed.begin()
    write(folder / "inductor/cut.so")
    killed.abandon()
    lives.end()
    assert opened(folder) == set(FILES)


def test_a_newcomer_waits_where_one_was_killed_and_another_compiles(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_guard, "LOOK_EVERY_S", 0.01)
    lives, killed, newcomer = guard(folder), guard(folder), guard(folder)
    lives.begin()
    killed.begin()
    write(folder / "inductor/cut.so")
    killed.abandon()
    thread = threading.Thread(target=newcomer.begin)
    thread.start()
    time.sleep(0.2)
    assert thread.is_alive() and (folder / "inductor/cut.so").exists()
    lives.end()
    thread.join(timeout=30)
    assert files(folder) == set(FILES)


def test_a_newcomer_goes_on_after_the_longest_wait(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_guard, "LONGEST_WAIT_S", 0.0)
    lives, killed = guard(folder), guard(folder)
    lives.begin()
    killed.begin()
    killed.abandon()
    guard(folder).begin()
    assert files(folder) == set(FILES)


def test_after_a_failure_all_is_compiled_anew(folder: Path) -> None:
    failed = guard(folder)
    failed.begin()
    failed.distrust()
    assert opened(folder) == set()


def test_a_process_may_begin_and_end_again_and_again(folder: Path) -> None:
    mine = guard(folder)
    for number in range(3):
        mine.begin()
        mine.begin()
        write(folder / f"inductor/{number}.so")
        mine.end()
        mine.end()
    assert opened(folder) == {*FILES, *(f"inductor/{number}.so" for number in range(3))}


def test_a_rewritten_file_is_vouched_for_anew(folder: Path) -> None:
    mine = guard(folder)
    mine.begin()
    write(folder / CODE, "def call(): return 1\n")
    mine.end()
    assert opened(folder) == set(FILES)


def test_a_process_looks_through_the_files_again_only_after_somebody_was_killed(folder: Path) -> None:
    mine = guard(folder)
    mine.begin()
    mine.end()
    write(folder / "inductor/foreign.so")
    mine.begin()
    assert files(folder) == {*FILES, "inductor/foreign.so"}
    mine.end()
    killed = guard(folder)
    killed.begin()
    write(folder / "inductor/cut.so")
    killed.abandon()
    mine.begin()
    assert files(folder) == {*FILES, "inductor/foreign.so"}
    mine.end()
