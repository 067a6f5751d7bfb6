"""The thread that sends files of records to the artifact store, so that a slow or broken one holds up no record."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from tune.common.address import one_line
from tune.storage.outbox import Outbox, Record
from tune.tracking.position import Position, Upload
from tune.tracking.refusals import CannotStore, cause_of, classify
from tune.tracking.store import check_store
from tune.tracking.uploads import Uploader, UploadQueue
from tune.tracking.writer import Rejection

_PROBE_S = 5.0
WAITING = "files cannot be stored: "  # begins what is reported of them


class UploadSender:
    """One daemon thread beside the one that sends records; both hold `changed` while they change what they share.

    Args:
        report: takes a line about files that wait, and gives whether it is a new one; called with `changed` held.
        say: shows a new line.
        refuse: takes what is refused for good; called with `changed` held.
        away: whether the store is away, as the records' thread has found.
    """

    def __init__(
        self,
        outbox: Outbox,
        uploader: Uploader,
        position: Position,
        changed: threading.Condition,
        *,
        report: Callable[[str], bool],
        say: Callable[[str], None],
        refuse: Callable[[Rejection], None],
        away: Callable[[], bool],
    ) -> None:
        self.queue = UploadQueue(position.uploads)
        self.missing: int | None = None  # the byte of a record whose run the store does not have
        self.looked_up: set[int] = set()  # such bytes, whose records were sent again already
        self._outbox, self._uploader, self._position = outbox, uploader, position
        self._changed, self._report, self._say, self._refuse, self._away = changed, report, say, refuse, away
        self._closing = self._abandoned = False
        self._thread = threading.Thread(target=self._run, name="mlflow-files", daemon=True)

    def start(self) -> None:
        """Begin with what already waits."""
        self._thread.start()

    def close(self, timeout_s: float) -> None:
        """Stop. A thread that is stuck in a call ends with the process, and what it still does counts no longer."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(max(0.1, timeout_s))
        with self._changed:
            self._abandoned = True

    def _run(self) -> None:
        while (upload := self._await_upload()) is not None:
            record: Record | None = None
            try:
                ((record, _),) = self._outbox.read(upload.start, 1)
                check_store(self._uploader.run_index.tracking_uri, _PROBE_S)
                self._uploader.store(record, upload.part)
            except Exception as error:
                self._end(upload, error, record)
            else:
                self._end(upload, None, record)

    def _await_upload(self) -> Upload | None:
        with self._changed:
            while not self._closing:
                now_s = time.monotonic()
                if self._away() or self.missing is not None:
                    self._changed.wait()
                elif (upload := self.queue.next(now_s)) is not None:
                    return upload
                else:
                    self._changed.wait(self.queue.due_in(now_s))
            return None

    def _end(self, upload: Upload, error: Exception | None, record: Record | None) -> None:
        kind = None if error is None else classify(error)
        new: str | None = None
        with self._changed:
            if self._abandoned or upload not in self.queue.entries:  # replaced, or all is sent again
                return
            if error is None:
                self._stored(upload)
            elif kind == "missing" and upload.start not in self.looked_up:
                self.missing = upload.start
            elif kind == "reject" and record is not None:
                self._refuse(Rejection(record, one_line(error), upload.part))
                self._stored(upload)
            else:
                cause = str(error) if isinstance(error, CannotStore) else cause_of(error, upload.part)
                self.queue.failed(upload, cause, time.monotonic(), passes=kind == "retry")
                problem = f"{WAITING}{cause}; they wait, and all else goes on"
                new = problem if self._report(problem) else None
            self._changed.notify_all()
        if new is not None:
            self._say(new)

    def _stored(self, upload: Upload) -> None:
        self.queue.stored(upload)
        self._position.save()
