"""Records, or parts of one, that MLflow refused for good: kept beside the outbox, one JSON line each."""

from __future__ import annotations

import json
from pathlib import Path

from tune.common.files import write_atomically
from tune.storage.outbox import Record, beside
from tune.tracking.writer import Rejection


class RejectedFile:
    """`outbox.jsonl.rejected`; `len` counts its lines.

    A replay sends all records again. What it does not refuse leaves the file at its end, and not before: a replay that
    is cut short takes nothing away.
    """

    def __init__(self, outbox: Path, *, replay: bool) -> None:
        self.path = beside(outbox, "rejected")
        self._lines = _read(self.path)
        self._seen: set[str] = set()
        self.replaying = False
        if replay:
            self.begin_replay()

    def __len__(self) -> int:
        return len(self._lines)

    def begin_replay(self) -> None:
        """All records are sent again from here on."""
        self._seen.clear()
        self.replaying = bool(self._lines)

    def end_replay(self) -> None:
        """All records were sent again: keep what was refused again."""
        if not self.replaying:
            return
        self._lines = {key: line for key, line in self._lines.items() if key in self._seen}
        if self._lines:
            write_atomically(self.path, "".join(self._lines.values()))
        else:
            self.path.unlink(missing_ok=True)
        self.replaying = False

    def add(self, rejection: Rejection) -> None:
        """Append a rejection, unless the file has it."""
        key = _key(rejection.record, rejection.part)
        self._seen.add(key)
        if key in self._lines:
            return
        content = {"error": rejection.error, "part": rejection.part, "record": rejection.record}
        line = json.dumps(content) + "\n"
        with self.path.open("a") as stream:
            stream.write(line)
        self._lines[key] = line


def _read(path: Path) -> dict[str, str]:
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return {}
    kept = {}
    for line in lines:
        try:
            content = json.loads(line)
            key = _key(content["record"], content.get("part"))
        except (ValueError, KeyError, TypeError, AttributeError):
            key = line  # cut by a crash
        kept[key] = line + "\n"
    return kept


def _key(record: Record, part: str | None) -> str:
    return json.dumps([record, part], sort_keys=True)
