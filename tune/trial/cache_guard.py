"""Keeps cut files of killed processes out of a folder of compiled code.

Which writes can be cut, in PyTorch 2.11 and Triton 3.6:

- g++ and nvcc write libraries (.so), objects and precompiled headers (.gch) in place. SIGKILL leaves them empty or cut.
- Inductor (.py, .cpp, FX graphs, AOTAutograd entries, tuning results) and Triton (.cubin, .json, IR) write a temporary
  file and rename it. SIGKILL leaves temporary files only. A crash of the machine can leave any file empty or cut, as
  nothing is flushed to the disk.

A file that exists is never written again, so a cut .py, .so or .gch fails its arm for good (tried; half a .so kills the
process by SIGBUS). PyTorch notices only a cut FX graph or AOTAutograd entry. Triton needs all files of a kernel.

A process marks the folder while it may compile, by a file that it holds locked. When it is through and nobody else
compiles, it flushes all files and writes their sizes and times into a manifest. A newcomer that finds nobody compiling
removes each file that is not as the manifest says. An unlocked mark is a killed process's. Until it is cleared away,
nothing enters the manifest, and newcomers wait for those who compile.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from tune.common.files import make_private, write_atomically

MANIFEST, LOCK, MARKS = "intact.json", "intact.lock", "compiling"
LONGEST_WAIT_S = 600.0  # for others that compile beside a killed process's files; then this process goes on with them
LOOK_EVERY_S = 0.5
KERNELS = "triton"  # in here, each folder is one kernel and is kept or removed as a whole

Stamp = tuple[int, int]  # a file's size in bytes and its time of change in ns


class CacheGuard:
    """Guards the subfolders `covers` of `folder` for this process, which calls `begin` before it compiles."""

    def __init__(self, folder: Path, covers: Sequence[str]) -> None:
        self.folder, self.covers = folder, covers
        self._mark: FileLock | None = None
        self._checked = False  # whether this process has looked at every file

    def begin(self) -> None:
        """This process may compile from now on. Removes the files of killed processes first."""
        if self._mark is not None:
            return
        make_private(self.folder / MARKS, "compiled programs")
        until_s = time.monotonic() + LONGEST_WAIT_S
        while not self._began(last_try=time.monotonic() > until_s):
            time.sleep(LOOK_EVERY_S)

    def _began(self, *, last_try: bool) -> bool:
        with FileLock(self.folder / LOCK):
            held, left = self._marks()
            if not held and (left or not self._checked):
                self._remove_unvouched()
                self._checked = True
                for mark in left:
                    mark.unlink()
            elif left and not last_try:
                return False
            self._mark = FileLock(self.folder / MARKS / uuid.uuid4().hex, thread_local=False)
            self._mark.acquire()
        return True

    def end(self) -> None:
        """This process is through. What lies here is vouched for, unless others compile or were killed meanwhile."""
        if self._mark is None:
            return
        with FileLock(self.folder / LOCK):
            if self._marks() == ([], []):
                self._vouch()
            Path(self._mark.lock_file).unlink()
            self.abandon()

    def abandon(self) -> None:
        """This process may have left cut files: its mark stays, so that nobody vouches for them."""
        if self._mark is not None:
            self._mark.release()
            self._mark = None

    def distrust(self) -> None:
        """This process failed, maybe by what lies here: all of it is compiled anew."""
        (self.folder / MANIFEST).unlink(missing_ok=True)
        self.abandon()

    def _marks(self) -> tuple[list[Path], list[Path]]:
        """The marks of other processes: those that are held, and those that killed ones left."""
        held, left = [], []
        own = None if self._mark is None else Path(self._mark.lock_file)
        for mark in (self.folder / MARKS).iterdir():
            if mark == own:
                continue
            try:
                with FileLock(mark, timeout=0):
                    left.append(mark)
            except Timeout:
                held.append(mark)
        return held, left

    def _vouch(self) -> None:
        if self._files() == self._manifest():
            return
        os.sync()  # once for all: to flush 15,000 files one by one took 17 s
        files = self._files()  # some file systems set a file's time when it is flushed
        write_atomically(self.folder / MANIFEST, json.dumps({"files": files}))

    def _remove_unvouched(self) -> None:
        known, files = self._manifest(), self._files()
        broken = {_unit(name) for name in known.keys() | files.keys() if known.get(name) != files.get(name)}
        kernels = {f"{KERNELS}/{kernel.name}" for kernel in self.folder.glob(f"{KERNELS}/*") if kernel.is_dir()}
        broken |= kernels - {_unit(name) for name in known}  # also those that hold no file
        there = [path for name in sorted(broken) if (path := self.folder / name).exists()]
        for path in there:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if there:
            text = f"removed {len(there)} entries of {self.folder}, left by a process that did not end its compiling"
            print(text, file=sys.stderr, flush=True)

    def _manifest(self) -> dict[str, Stamp]:
        """What was vouched for; nothing where there is no manifest, or none that can be read."""
        try:
            files = json.loads((self.folder / MANIFEST).read_text())["files"]
            return {name: (int(size), int(time_ns)) for name, (size, time_ns) in files.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}

    def _files(self) -> dict[str, Stamp]:
        """Each file by its path from the folder. Lock files are left out: they are empty, and others may hold them.

        A folder may hold thousands of files, and each trial looks at them twice: hence no Path for each.
        """
        files: dict[str, Stamp] = {}
        folders = list(self.covers)
        while folders:
            within = folders.pop()
            with contextlib.suppress(FileNotFoundError), os.scandir(self.folder / within) as entries:
                for entry in entries:
                    name = f"{within}/{entry.name}"
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(name)
                    elif not name.endswith(".lock"):
                        with contextlib.suppress(FileNotFoundError):  # a temporary file of somebody who compiles
                            status = entry.stat()
                            files[name] = (status.st_size, status.st_mtime_ns)
        return files


def _unit(name: str) -> str:
    """What is removed together with a file."""
    parts = name.split("/")
    return "/".join(parts[:2]) if parts[0] == KERNELS else name
