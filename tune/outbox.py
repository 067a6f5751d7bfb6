"""The tracker's diary on disk: an append-only JSONL file, the truth until MLflow has it.

One record is one line, written with one system call and fsynced before `append` returns. A line that a kill cut short
is removed on the next opening: its writer was never told that it was stored. One process at a time may hold an outbox.
Files beside `outbox.jsonl`: `.lock` and `.holder` (who has it), `.position` (what MLflow already has), `.rejected`.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from tune.holder import Holder, this_process

Record = dict[str, Any]

_BLOCK = 1 << 16
_CLAIM_S = 1.0  # a glance at the lock (`in_use_by`) holds it for a moment, which is no reason to give up


def beside(path: Path, suffix: str) -> Path:
    """The companion file of an outbox: `outbox.jsonl` -> `outbox.jsonl.<suffix>`."""
    return path.with_name(f"{path.name}.{suffix}")


class Outbox:
    """An append-only file of JSON records, held by one process from construction to `close`.

    Raises:
        ValueError: another process (or another Outbox of this one) holds the file; the message names its pid if known.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file_lock = _claim(self.path)
        self._mutex = threading.Lock()
        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        self.size = _cut_torn_line(self._fd)

    def append(self, record: Record) -> int:
        """Store one record durably and return the size of the file after it, in bytes.

        Raises:
            OSError: the disk refused it (full, gone); nothing of the record stays behind.
        """
        line = json.dumps(record, separators=(",", ":")).encode() + b"\n"
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
        """Yield (record, offset of the byte after it) from byte `start`; a broken line has kind `unreadable`."""
        with self.path.open("rb") as stream:
            stream.seek(start)
            end = start
            while end < self.size and limit != 0:
                line = stream.readline()
                end += len(line)
                yield _parse(line), end
                limit = None if limit is None else limit - 1

    def close(self) -> None:
        """Give the file back; closing twice is harmless."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            beside(self.path, "holder").unlink(missing_ok=True)
            self._file_lock.release()


def _claim(path: Path) -> FileLock:
    # thread_local=False: the tracker may be closed by another thread than the one that opened it.
    lock = FileLock(beside(path, "lock"), thread_local=False)
    holder = beside(path, "holder")
    try:
        lock.acquire(timeout=_CLAIM_S)
    except Timeout:
        raise ValueError(
            f"{path} is in use by {_who(path)}: one process at a time may record a sweep; wait for it or stop it"
        ) from None
    draft = beside(path, "holder.new")
    draft.write_text(this_process().as_json())
    draft.replace(holder)
    return lock


def in_use_by(path: Path) -> str | None:
    """Who holds the outbox at `path`, in words; None if nobody does."""
    if not beside(path, "lock").exists():
        return None
    try:
        with FileLock(beside(path, "lock"), timeout=0):
            return None
    except Timeout:
        return _who(path)


def _who(path: Path) -> str:
    try:
        text = beside(path, "holder").read_text(errors="replace")
    except OSError:  # it has just begun, or just ended
        text = ""
    return str(Holder.from_json(text))


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


KEPT = ("loss/val_mse", "time/train_s")  # of an epoch's metrics: what a search chooses by


@dataclass(kw_only=True)
class TrialLog:
    """What an outbox holds of one trial."""

    tags: dict[str, str] = field(default_factory=dict)  # as planned, and as it ended
    epochs: dict[int, dict[str, float]] = field(default_factory=dict)  # epoch from 1 -> its metrics in KEPT
    reported: dict[str, str] = field(default_factory=dict)  # the tags that it sent with its latest epoch
    recorded: dict[int, int] = field(default_factory=dict)  # epoch -> number of its record in the outbox, from 1
    status: str | None = None  # None: it has not ended
    reason: str = ""
    metrics: dict[str, float] = field(default_factory=dict)  # of its end


@dataclass(kw_only=True)
class Index:
    """What an outbox already holds, rebuilt from its records on opening.

    `trials` maps a trial id to `planned`, `running` or `ended`.
    """

    sweep_id: str | None = None
    sweep_status: str | None = None  # as the sweep was closed last; None: it is open
    summary: dict[str, float] = field(default_factory=dict)  # the parent run's metrics, as the sweep was closed last
    epochs: set[tuple[str, int]] = field(default_factory=set)
    trials: dict[str, str] = field(default_factory=dict)
    statuses: dict[str, str] = field(default_factory=dict)  # how each ended trial ended
    logs: dict[str, TrialLog] = field(default_factory=dict)
    records: int = 0
    latest_ms: int = 0  # when the latest record was stored

    def absorb(self, record: Record) -> None:
        """Take one record into account."""
        self.records += 1
        self.latest_ms = max(self.latest_ms, record.get("time_ms", 0))
        kind = record["kind"]
        if kind == "begin_sweep":
            self.sweep_id, self.sweep_status = record["sweep_id"], None
        elif kind == "plan":
            self.trials[record["trial_id"]] = "running" if record["tags"]["status"] == "running" else "planned"
            log = self.logs.setdefault(record["trial_id"], TrialLog())
            log.tags.update(record["tags"])
            log.status = None
        elif kind == "epoch":
            self.epochs.add((record["trial_id"], record["epoch"]))
            kept = {name: value for name, value in record.get("metrics", {}).items() if name in KEPT}
            log = self.logs.setdefault(record["trial_id"], TrialLog())
            log.epochs[record["epoch"]], log.recorded[record["epoch"]] = kept, self.records
            told = log.reported | record.get("tags", {})
            log.reported = {name: value for name, value in told.items() if value is not None}
            if record["starts"]:
                self.trials[record["trial_id"]] = "running"
        elif kind == "end":
            self.trials[record["trial_id"]] = "ended"
            self.statuses[record["trial_id"]] = record["status"]
            log = self.logs.setdefault(record["trial_id"], TrialLog())
            log.tags.update(record.get("tags", {}))
            log.status, log.reason = record["status"], record.get("reason", "")
            log.metrics = record.get("metrics", {})
        elif kind == "end_sweep":
            self.sweep_status = record.get("status")
            self.summary.update(record.get("metrics", {}))
            self.trials.update(dict.fromkeys(record["open_trials"], "planned"))


@dataclass(kw_only=True)
class Position:
    """How far MLflow has caught up with an outbox, and the run ids found on the way; saved atomically.

    `store` is a digest of the MLflow store and experiment: a position in another store counts for nothing, so an
    outbox pointed at a new store is replayed whole.
    """

    path: Path
    store: str
    offset: int = 0
    runs: dict[str, str] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path, *, store: str, size: int) -> Position:
        """Read the position; a missing, broken or foreign one is the beginning (replay stores nothing twice)."""
        position = cls(path=path, store=store)
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            saved = json.loads(path.read_text())
            if saved["store"] == store and 0 <= saved["offset"] <= size:
                position.offset, position.runs = saved["offset"], dict(saved["runs"])
        return position

    def save(self) -> None:
        """Replace the file in one step; a crash leaves the old or the new one, a full disk the old one.

        An old one is no fault: what is sent again is stored once.
        """
        draft = beside(self.path, "new")
        try:
            draft.write_text(json.dumps({"store": self.store, "offset": self.offset, "runs": self.runs}))
            draft.replace(self.path)
        except OSError:
            draft.unlink(missing_ok=True)

    def rewind(self) -> None:
        """Start over: everything is sent again and every run looked up again."""
        self.offset = 0
        self.runs.clear()
