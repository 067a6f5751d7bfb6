"""The record of a sweep on disk: an append-only JSONL file, which counts until MLflow has everything.

One record is one line, fsynced before `append` returns. A kill may cut the last line short. The next opening removes
that line, as its `append` never returned. One process at a time may have an outbox open.
Files beside `outbox.jsonl`: `.lock` and `.holder` (the process that has it open), `.position` (how far MLflow has it),
`.rejected`.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from tune.common.process import ProcessInfo, this_process
from tune.storage.paths import as_found, as_stored

Record = dict[str, Any]
_BLOCK = 1 << 16
_CLAIM_S = 1.0  # `in_use_by` holds the lock for a moment; opening waits for that


def beside(path: Path, suffix: str) -> Path:
    """The companion file of an outbox: `outbox.jsonl` -> `outbox.jsonl.<suffix>`."""
    return path.with_name(f"{path.name}.{suffix}")


class Outbox:
    """An append-only file of JSON records, open in one process from construction to `close`.

    Raises:
        ValueError: another process (or another Outbox of this one) has the file open; the message names its pid if
            known.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file_lock = _claim(self.path)
        self._mutex = threading.Lock()
        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        self.size = _cut_torn_line(self._fd)

    def append(self, record: Record) -> int:
        """Store one record durably; returns the size of the file after it, in bytes.

        Raises:
            OSError: the disk refused it (full, gone); no part of the record stays in the file.
        """
        line = json.dumps(as_stored(record, self.path.parent), separators=(",", ":")).encode() + b"\n"
        with self._mutex:
            try:
                written = 0
                while written < len(line):
                    written += os.write(self._fd, line[written:])
                os.fsync(self._fd)
            except OSError as error:
                with contextlib.suppress(OSError):
                    os.ftruncate(self._fd, self.size)
                raise OSError(error.errno, error.strerror, str(self.path)) from error
            self.size += len(line)
            return self.size

    def read(self, start: int = 0, limit: int | None = None) -> Iterator[tuple[Record, int]]:
        """Yield (record, offset of the byte after it) from byte `start`; a broken line has the kind `unreadable`."""
        with self.path.open("rb") as stream:
            stream.seek(start)
            end = start
            while end < self.size and limit != 0:
                line = stream.readline()
                end += len(line)
                yield as_found(_parse(line), self.path.parent), end
                limit = None if limit is None else limit - 1

    def close(self) -> None:
        """Release the file; closing twice is harmless."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            beside(self.path, "holder").unlink(missing_ok=True)
            self._file_lock.release()


def _claim(path: Path) -> FileLock:
    # thread_local=False, as another thread may close the tracker than the one that opened it.
    lock = FileLock(beside(path, "lock"), thread_local=False)
    owner = beside(path, "holder")
    try:
        lock.acquire(timeout=_CLAIM_S)
    except Timeout:
        raise ValueError(
            f"{path} is in use by {_owner(path)}: one process at a time may record a sweep; wait for it or stop it"
        ) from None
    draft = beside(path, "holder.new")
    draft.write_text(this_process().as_json())
    draft.replace(owner)
    return lock


def in_use_by(path: Path) -> str | None:
    """The process that has the outbox at `path` open, in words; None if there is none."""
    if not beside(path, "lock").exists():
        return None
    try:
        with FileLock(beside(path, "lock"), timeout=0):
            return None
    except Timeout:
        return _owner(path)


def _owner(path: Path) -> str:
    try:
        text = beside(path, "holder").read_text(errors="replace")
    except OSError:  # the process has just begun or just ended
        text = ""
    return str(ProcessInfo.from_json(text))


def _cut_torn_line(fd: int) -> int:
    size = end = os.fstat(fd).st_size
    while end > 0:
        start = max(0, end - _BLOCK)
        newline = os.pread(fd, end - start, start).rfind(b"\n")
        if newline >= 0:
            end = start + newline + 1
            break
        end = start
    if end != size:
        os.ftruncate(fd, end)
        os.fsync(fd)
    return end


def _parse(line: bytes) -> Record:
    try:
        record = json.loads(line)
    except ValueError:
        record = None
    if isinstance(record, dict) and "kind" in record:
        return record
    return {"kind": "unreadable", "text": line[:200].decode(errors="replace")}
