"""Files of records on their way to the artifact store: which there are, what stores them, and which is next.

They have a queue of their own. A store that takes no files, for want of access, space or a package, must not hold up
metrics, nor the files of others.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from tune.common.errors import WrongInput
from tune.storage.outbox import Record
from tune.tracking.model_package import find_logged_model, publish
from tune.tracking.position import Upload
from tune.tracking.refusals import NotThere, drafting, drafts, storing
from tune.tracking.runs import RunIndex

FOLDERS = {"samples": "the raw samples", "forecasts": "the forecasts of the test set", "model": "the model"}
_FIRST_DELAY_S, _LONGEST_DELAY_S = 1.0, 30.0


def uploads_of(record: Record, start: int) -> list[Upload]:
    """The uploads of a record that begins at byte `start` of the outbox."""
    parts = ["files"] if record.get("files") else []
    parts += [name for name in FOLDERS if record.get(f"{name}_dir") is not None]
    trial_id = record.get("trial_id", "")
    # What opens and what closes a sweep are different files of one run.
    return [Upload(start=start, kind=record["kind"], trial_id=trial_id, part=part) for part in parts]


class Uploader:
    """Stores the files of records. Repeating an upload stores nothing twice.

    fetch: puts the folder that was `part` of a trial's record into the empty folder that it gets, from another place
        than the record names; False if it cannot.
    make: the text of a file that a record names without one, from what the store has. It may raise WrongInput.
    """

    def __init__(
        self,
        run_index: RunIndex,
        fetch: Callable[[Record, str, Path], bool] | None = None,
        make: Callable[[str], str] | None = None,
    ) -> None:
        self.run_index, self._fetch, self._make = run_index, fetch, make

    def store(self, record: Record, part: str) -> None:
        """Store one part of a record's files.

        Raises CannotStore if that is impossible for now, NotThere if the files are gone, and the errors of MLflow.
        """
        run_id = self.run_index.find(record["sweep_id"], record.get("trial_id", ""))
        if part == "files":
            self._store_texts(run_id, record["files"])
            return
        folder = Path(record[f"{part}_dir"])
        if folder.is_dir():
            self._store_folder(run_id, record, part, folder)
        elif not self._has(run_id, part):
            self._store_fetched(run_id, record, part)

    def _made(self, name: str) -> str:
        if self._make is None:
            raise NotThere(f"nothing here makes {name}")
        try:
            return self._make(name)
        except WrongInput as error:
            raise NotThere(f"{name} cannot be made: {error}") from None

    def _store_texts(self, run_id: str, texts: dict[str, str | None]) -> None:
        client, place = self.run_index.client, self.run_index.artifact_place
        for name, given in texts.items():
            text = self._made(name) if given is None else given
            with drafts("mlflow-files-") as temporary:
                file = temporary / Path(name).name
                with drafting():
                    file.write_text(text, encoding="utf-8")
                parent = Path(name).parent.as_posix()
                with storing(place):
                    client.log_artifact(run_id, str(file), None if parent == "." else parent)

    def _store_folder(self, run_id: str, record: Record, part: str, folder: Path) -> None:
        client = self.run_index.client
        if part == "model":
            publish(client, run_id, folder, metrics=record["metrics"], timestamp_ms=record["time_ms"])
            return
        with storing(self.run_index.artifact_place):
            client.log_artifacts(run_id, str(folder), part)

    def _has(self, run_id: str, part: str) -> bool:
        client = self.run_index.client
        if part == "model":
            logged = find_logged_model(client, client.get_run(run_id))
            return logged is not None and str(logged.status) == "READY"
        with storing(self.run_index.artifact_place):
            return bool(client.list_artifacts(run_id, part))

    def _store_fetched(self, run_id: str, record: Record, part: str) -> None:
        gone = NotThere(f"{record[f'{part}_dir']} with {FOLDERS[part]} is not there")
        if self._fetch is None:
            raise gone
        with ExitStack() as stack:
            target = stack.enter_context(drafts("mlflow-fetched-")) / part
            if not self._fetch(record, part, target):
                raise gone
            self._store_folder(run_id, record, part, target)


class UploadQueue:
    """Uploads that wait, oldest first: each is tried once a round, and a round that failed is repeated ever later.

    entries: the caller's list, which it may save; it changes in place.
    """

    def __init__(self, entries: list[Upload]) -> None:
        self.entries = entries
        self.rounds = 0  # that ended with an upload left
        self.blocked: dict[Upload, str] = {}  # those that somebody must help, and the cause
        self._left = list(entries)  # of this round
        self._due_s, self._delay_s = 0.0, _FIRST_DELAY_S

    def add(self, uploads: list[Upload]) -> None:
        """Append uploads. A waiting earlier state of the same files is dropped."""
        for upload in uploads:
            for other in [entry for entry in self.entries if upload.replaces(entry)]:
                self._drop(other)
            self.entries.append(upload)
            self._left.append(upload)

    def next(self, now_s: float) -> Upload | None:
        """The upload to try now; None if there is none, or if the next round is not due."""
        if not self._left and self.entries and now_s >= self._due_s:
            self._left = list(self.entries)
        return self._left[0] if self._left else None

    def due_in(self, now_s: float) -> float | None:
        """Seconds until `next` gives one; None if it never will."""
        return None if not self.entries else 0.0 if self._left else max(0.0, self._due_s - now_s)

    def hurry(self, now_s: float, within_s: float) -> None:
        """Somebody waits: begin the next round within this many seconds."""
        self._due_s = min(self._due_s, now_s + within_s)

    def stored(self, upload: Upload) -> None:
        """The upload has ended, well or for good."""
        self._drop(upload)
        self._delay_s = _FIRST_DELAY_S
        self._end_round(0.0)

    def failed(self, upload: Upload, cause: str, now_s: float, *, passes: bool) -> None:
        """Try it again in the next round. passes: whether the cause may pass by itself."""
        self._left.remove(upload)
        self.blocked.pop(upload, None)
        if not passes:
            self.blocked[upload] = cause
        self._end_round(now_s)

    @property
    def stuck(self) -> str | None:
        """The cause why no upload can be stored before somebody mends it; None if one may still succeed."""
        causes = [self.blocked.get(upload) for upload in self.entries]
        return causes[0] if causes and None not in causes else None

    def clear(self) -> None:
        """Forget all uploads, because all records are sent again."""
        for upload in list(self.entries):
            self._drop(upload)

    def _drop(self, upload: Upload) -> None:
        self.entries.remove(upload)
        self.blocked.pop(upload, None)
        if upload in self._left:
            self._left.remove(upload)

    def _end_round(self, now_s: float) -> None:
        if not self._left and self.entries:
            self.rounds += 1
            self._due_s = now_s + self._delay_s
            self._delay_s = min(2 * self._delay_s, _LONGEST_DELAY_S)
