"""The thread that sends an outbox to MLflow: in batches, remembering its position, waiting while the store is away."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from tune.common.address import one_line, redacted
from tune.storage.outbox import Outbox, Record
from tune.tracking.position import Position
from tune.tracking.refusals import classify
from tune.tracking.rejected import RejectedFile
from tune.tracking.store import TrackingError, check_store
from tune.tracking.upload_sender import WAITING, UploadSender
from tune.tracking.uploads import Uploader, uploads_of
from tune.tracking.writer import MlflowWriter, Rejection

_BATCH_RECORDS = 500
_GATHER_S = 0.2  # so that several trials' epochs share their calls
_PROBE_S = 5.0
_FIRST_DELAY_S, _LONGEST_DELAY_S, _AWAITED_DELAY_S = 1.0, 30.0, 1.0
_UNKNOWN_ATTEMPTS = 3
_SAVE_EVERY_S = 1.0  # the position names every run, and a record sent again after a crash is stored once


class RunsLost(TrackingError):
    """The store has lost the runs of the sweep, as a new database behind the same address."""


class _Entry(NamedTuple):
    record: Record
    start: int  # byte of the outbox
    end: int


class OutboxSender:
    """One daemon thread between an Outbox and an MLflow store. `start` it once, `close` it once.

    Records go in order. Another thread sends their files: what cannot be stored for now holds up nothing else.

    The store is probed before each record or batch of epochs. Without that, a call to a dead server would stay in
    MLflow's own 7 HTTP retries for some two minutes; only environment variables shorten them, and those are the
    user's. If the server dies during a call, this thread does wait there, and no other.
    """

    def __init__(
        self, outbox: Outbox, writer: MlflowWriter, uploader: Uploader, position: Position, *, total: int, sent: int
    ) -> None:
        self._problems: list[str] = []
        self.outage: str | None = None
        self.say: Callable[[str], None] = lambda text: None  # called when an outage begins and ends
        self._outbox, self._writer, self._position = outbox, writer, position
        self._rejected = RejectedFile(outbox.path, replay=position.offset == 0)
        self._total, self._sent = total, sent
        self._changed = threading.Condition()  # its lock is held to change what both threads share
        self._files = UploadSender(
            outbox, uploader, position, self._changed,
            report=self._report, say=lambda text: self.say(text), refuse=self._refuse,
            away=lambda: self.outage is not None,
        )  # fmt: skip
        self._closing = self._abandoned = False
        self._waiting = 0
        self._rewound: set[int] = set()  # offsets at which runs were missing
        self._failures = 0
        self._saved_s = 0.0
        self._thread = threading.Thread(target=self._run, name="mlflow-sender", daemon=True)

    @property
    def problems(self) -> list[str]:
        """What went wrong so far, a line each, without what has passed."""
        files_wait = bool(self._files.queue.entries)
        return [text for text in self._problems if files_wait or not text.startswith(WAITING)]

    @property
    def unsent(self) -> int:
        """Records of the outbox that MLflow does not have, whether it has their files or not."""
        return max(0, self._total - self._sent)

    @property
    def pending(self) -> int:
        """Records that MLflow does not have, or not with all of their files."""
        return self.unsent + len(self._files.queue.entries) + self._note_is_due

    @property
    def refused(self) -> int:
        """Records, or parts of one, that MLflow refused for good."""
        return len(self._rejected)

    @property
    def blocked(self) -> str | None:
        """Why the files that wait cannot be stored before somebody mends it; None if waiting may be enough."""
        return None if self.unsent else self._files.queue.stuck

    def start(self) -> None:
        """Begin with what the outbox already holds.

        MLflow is imported here, on the caller's thread. If our thread and Tune's imported it at once, they could wait
        for each other's modules, which Python ends with an error in one of them.
        """
        import mlflow.artifacts
        import mlflow.models
        import mlflow.tracking  # noqa: F401

        self._thread.start()
        self._files.start()

    def notify(self) -> None:
        """Say that the outbox has one more record."""
        with self._changed:
            self._total += 1
            self._changed.notify_all()

    def flush(self, timeout_s: float) -> int:
        """Wait until MLflow has every record and its files, at most `timeout_s` s; returns how many it lacks.

        Where only files are left that somebody must help, each is tried once more and no longer waited for.
        """
        deadline = time.monotonic() + timeout_s
        with self._changed:
            self._waiting += 1
            self._files.queue.hurry(time.monotonic(), _AWAITED_DELAY_S)
            tried = self._files.queue.rounds
            self._changed.notify_all()
            while self.pending and self._thread.is_alive() and (left := deadline - time.monotonic()) > 0:
                if self.blocked and self._files.queue.rounds > tried:
                    break
                self._changed.wait(left)
            self._waiting -= 1
            return self.pending

    def close(self, timeout_s: float) -> int:
        """Flush, stop and return how many records MLflow lacks. A thread stuck in a call ends with the process."""
        deadline = time.monotonic() + timeout_s
        pending = self.flush(timeout_s) if timeout_s > 0 and not self.blocked else self.pending
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(max(0.1, deadline - time.monotonic()))
        self._files.close(deadline - time.monotonic())
        with self._changed:
            self._abandoned = True
        return pending

    def _run(self) -> None:
        self._send_until_closed()
        with self._changed:
            if not self._abandoned:
                self._position.save()

    def _send_until_closed(self) -> None:
        delay = _FIRST_DELAY_S
        while self._await_work():
            try:
                if self._files.missing is not None:
                    self._rewind(self._files.missing)
                if self.unsent:
                    self._send_batch()
                self._note_refused()
            except Exception as error:
                self._note_outage(error)
                self._pause(delay)
                delay = min(2 * delay, _LONGEST_DELAY_S)
            else:
                self._note_return()
                delay = _FIRST_DELAY_S

    def _await_work(self) -> bool:
        with self._changed:
            while not self._has_work() and not self._closing:
                self._changed.wait()
            if not self._closing and not self._waiting:
                self._changed.wait_for(lambda: self._closing or self._waiting, _GATHER_S)
            return not self._closing

    def _has_work(self) -> bool:
        return bool(self.unsent) or self._files.missing is not None or self._can_note_refused

    def _pause(self, delay: float) -> None:
        # A caller of flush must not wait for a complete back-off.
        until = time.monotonic() + delay
        with self._changed:
            while not self._closing:
                left = until - time.monotonic()
                if self._waiting:
                    left = min(left, until - delay + _AWAITED_DELAY_S - time.monotonic())
                if left <= 0:
                    return
                self._changed.wait(left)

    def _send_batch(self) -> None:
        start, epochs = self._position.offset, list[_Entry]()
        for record, end in list(self._outbox.read(start, _BATCH_RECORDS)):
            if self._closing:
                return
            entry, start = _Entry(record, start, end), end
            if record["kind"] == "epoch":
                epochs.append(entry)
                continue
            self._send(epochs)
            epochs = []
            self._send([entry])
        self._send(epochs)

    def _send(self, entries: list[_Entry]) -> None:
        if not entries:
            return
        records = [entry.record for entry in entries]
        self._writer.rejections.clear()
        check_store(self._writer.run_index.tracking_uri, _PROBE_S)
        try:
            if records[0]["kind"] == "epoch":
                self._writer.log_epochs(records)
            else:
                self._writer.apply(records[0])
        except Exception as error:
            self._handle(error, entries)
            return
        self._advance(entries)

    def _handle(self, error: Exception, entries: list[_Entry]) -> None:
        kind = classify(error)
        self._failures += 1
        if kind == "missing" and entries[0].start not in self._rewound:
            self._rewind(entries[0].start)
        elif kind in ("retry", "blocked") or (kind == "unknown" and self._failures < _UNKNOWN_ATTEMPTS):
            raise error
        elif len(entries) > 1:
            for entry in entries:
                self._send([entry])
        else:
            self._writer.rejections.append(Rejection(entries[0].record, one_line(error)))
            self._advance(entries)

    def _rewind(self, offset: int) -> None:
        # The store lost our runs (a new database behind the same address), but the outbox still has every record.
        with self._changed:
            self._rewound.add(offset)
            self._files.looked_up.add(offset)
            self._files.missing = None
            self._files.queue.clear()
            self._position.rewind()
            self._sent = 0
            self._rejected.begin_replay()
            self._writer.run_index.forget()
        raise RunsLost("it no longer had the runs of this sweep: they are written again")

    def _advance(self, entries: list[_Entry]) -> None:
        self._failures = 0
        self._set_aside()
        with self._changed:
            if self._abandoned:
                return
            for entry in entries:
                self._files.queue.add(uploads_of(entry.record, entry.start))
            self._position.offset = entries[-1].end
            self._sent += len(entries)
            if not self.unsent or time.monotonic() - self._saved_s > _SAVE_EVERY_S:
                self._position.save()
                self._saved_s = time.monotonic()
            self._changed.notify_all()

    def _set_aside(self) -> None:
        rejections, self._writer.rejections = self._writer.rejections, []
        with self._changed:
            for rejection in rejections:
                self._refuse(rejection)

    def _refuse(self, rejection: Rejection) -> None:
        self._rejected.add(rejection)
        what = rejection.record.get("trial_id") or rejection.record["kind"]
        name = self._rejected.path.name
        self._report(f"MLflow refused a record of {what}: {rejection.error} (kept in {name})")

    @property
    def _note_is_due(self) -> bool:
        return self._rejected.replaying or self.refused != self._position.refused_noted

    @property
    def _can_note_refused(self) -> bool:
        """Once everything else was tried: until then, more may be refused."""
        tried = not self._files.queue.entries or self._files.queue.rounds > 0
        return self._note_is_due and not self.unsent and tried

    def _note_refused(self) -> None:
        """Let the sweep's run say how many of its records were refused."""
        if not self._can_note_refused or self._closing:
            return
        with self._changed:
            self._rejected.end_replay()
            refused = self.refused
        for record, _ in self._outbox.read(0, 1):
            try:
                self._writer.note_refused(record["sweep_id"], refused)
            except Exception as error:
                if classify(error) != "reject":  # as without a run of the sweep, where nothing can be noted
                    raise
        with self._changed:
            self._position.refused_noted = refused
            self._position.save()
            self._changed.notify_all()

    def _note_outage(self, error: Exception) -> None:
        uri = redacted(self._writer.run_index.tracking_uri)
        problem = f"MLflow store {uri} cannot be written: {one_line(error)}{self._waits}"
        if isinstance(error, RunsLost):
            problem = f"MLflow store {uri}: {error}"
        with self._changed:
            begins, self.outage = self.outage is None, one_line(error)
            if begins:
                self._report(problem)
        if begins:
            self.say(problem)

    def _note_return(self) -> None:
        with self._changed:
            ends, self.outage = self.outage is not None, None
            self._problems = [text.replace(self._waits, "; it takes them again") for text in self._problems]
            self._changed.notify_all()
        if ends:
            self.say("MLflow takes records again")

    @property
    def _waits(self) -> str:
        return f"; records wait in {self._outbox.path}"

    def _report(self, problem: str) -> bool:
        """Whether it is a new one."""
        if problem in self._problems:
            return False
        self._problems.append(problem)
        return True
