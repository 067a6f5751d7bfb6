"""The thread that sends an outbox to MLflow: in batches, remembering its position, waiting while the store is away."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from hashlib import sha256

from tune.common.address import one_line, redacted, settled_uri
from tune.storage.outbox import Outbox, Record, beside
from tune.tracking.position import Position
from tune.tracking.refusals import classify
from tune.tracking.store import TrackingError, check_store
from tune.tracking.writer import MlflowWriter, Rejection

_BATCH_RECORDS = 500
_GATHER_S = 0.2  # so that several trials' epochs share their calls
_PROBE_S = 5.0
_FIRST_DELAY_S, _LONGEST_DELAY_S, _AWAITED_DELAY_S = 1.0, 30.0, 1.0
_UNKNOWN_ATTEMPTS = 3
_SAVE_EVERY_S = 1.0  # the position names every run, and a record sent again after a crash is stored once


class OutboxSender:
    """One daemon thread between an Outbox and an MLflow store. `start` it once, `close` it once.

    The store is probed before each record or batch of epochs. Without that, a call to a dead server would stay in
    MLflow's own 7 HTTP retries for some two minutes; only environment variables shorten them, and those are the
    user's. If the server dies during a call, this thread does wait there, and no other.
    """

    def __init__(self, outbox: Outbox, writer: MlflowWriter, position: Position, *, total: int, sent: int) -> None:
        self.problems: list[str] = []
        self.outage: str | None = None
        self.say: Callable[[str], None] = lambda text: None  # called when an outage begins and ends
        self._outbox, self._writer, self._position = outbox, writer, position
        self._total, self._sent = total, sent
        self._changed = threading.Condition()
        self._closing = self._abandoned = False
        self._waiting = 0
        self._rewound = False
        self._failures = 0
        self._saved_s = 0.0
        self._thread = threading.Thread(target=self._run, name="mlflow-sender", daemon=True)

    @property
    def pending(self) -> int:
        """Records in the outbox that MLflow does not have yet."""
        return max(0, self._total - self._sent)

    def start(self) -> None:
        """Begin with what the outbox already holds.

        MLflow is imported here, on the caller's thread. If our thread and Tune's imported it at once, they could wait
        for each other's modules, which Python ends with an error in one of them.
        """
        import mlflow.tracking  # noqa: F401

        self._thread.start()

    def notify(self) -> None:
        """Say that the outbox has one more record."""
        with self._changed:
            self._total += 1
            self._changed.notify_all()

    def flush(self, timeout_s: float) -> int:
        """Wait until MLflow has every record, at most `timeout_s` s; returns how many it lacks."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            self._waiting += 1
            self._changed.notify_all()
            while self.pending and self._thread.is_alive() and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(left)
            self._waiting -= 1
            return self.pending

    def close(self, timeout_s: float) -> int:
        """Flush, stop and return how many records MLflow lacks. A thread stuck in a call ends with the process."""
        deadline = time.monotonic() + timeout_s
        pending = self.flush(timeout_s)
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(max(0.1, deadline - time.monotonic()))
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
                self._send_batch()
            except Exception as error:
                self._note_outage(error)
                self._pause(delay)
                delay = min(2 * delay, _LONGEST_DELAY_S)
            else:
                if self.outage is not None:
                    self.say("MLflow takes records again")
                self.outage, delay = None, _FIRST_DELAY_S

    def _await_work(self) -> bool:
        with self._changed:
            while not self.pending and not self._closing:
                self._changed.wait()
            if not self._closing and not self._waiting:
                self._changed.wait_for(lambda: self._closing or self._waiting, _GATHER_S)
            return not self._closing

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
        batch = list(self._outbox.read(self._position.offset, _BATCH_RECORDS))
        epochs: list[tuple[Record, int]] = []
        for record, end in batch:
            if self._closing:
                return
            if record["kind"] == "epoch":
                epochs.append((record, end))
                continue
            self._send(epochs)
            epochs = []
            self._send([(record, end)])
        self._send(epochs)

    def _send(self, entries: list[tuple[Record, int]]) -> None:
        if not entries:
            return
        records = [record for record, _ in entries]
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
        self._advance(len(entries), entries[-1][1])

    def _handle(self, error: Exception, entries: list[tuple[Record, int]]) -> None:
        kind = classify(error)
        self._failures += 1
        if kind == "missing" and not self._rewound:
            self._rewind()
        elif kind == "retry" or (kind == "unknown" and self._failures < _UNKNOWN_ATTEMPTS):
            raise error
        elif len(entries) > 1:
            for entry in entries:
                self._send([entry])
        else:
            record, end = entries[0]
            self._writer.rejections.append(Rejection(record, one_line(error)))
            self._advance(1, end)

    def _rewind(self) -> None:
        # The store lost our runs (a new database behind the same address), but the outbox still has every record.
        self._rewound = True
        self._position.rewind()
        self._sent = 0
        self._writer.run_index.forget()
        raise TrackingError("the MLflow store no longer has the runs of this sweep: they are written again")

    def _advance(self, count: int, offset: int) -> None:
        self._failures = 0
        self._set_aside()
        with self._changed:
            if self._abandoned:
                return
            self._position.offset = offset
            self._sent += count
            if not self.pending or time.monotonic() - self._saved_s > _SAVE_EVERY_S:
                self._position.save()
                self._saved_s = time.monotonic()
            self._changed.notify_all()

    def _set_aside(self) -> None:
        rejections, self._writer.rejections = self._writer.rejections, []
        if not rejections:
            return
        path = beside(self._outbox.path, "rejected")
        with path.open("a") as stream:
            for record, error in rejections:
                stream.write(json.dumps({"error": error, "record": record}) + "\n")
                what = record.get("trial_id") or record["kind"]
                self._report(f"MLflow refused a record of {what}: {error} (kept in {path.name})")

    def _note_outage(self, error: Exception) -> None:
        if self.outage is None:
            uri = redacted(self._writer.run_index.tracking_uri)
            problem = f"MLflow store {uri} cannot be written: {one_line(error)}; records wait in {self._outbox.path}"
            self._report(problem)
            self.say(problem)
        self.outage = one_line(error)

    def _report(self, problem: str) -> None:
        if problem not in self.problems:
            self.problems.append(problem)


def store_digest(tracking_uri: str, experiment: str) -> str:
    """Identifies a store and experiment in the position file, which must not hold an address with a password."""
    return sha256(f"{settled_uri(tracking_uri)}\n{experiment}".encode()).hexdigest()[:16]
