"""How far MLflow has caught up with an outbox."""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from tune.common.address import settled_uri
from tune.storage.outbox import beside


@dataclass(frozen=True, kw_only=True)
class Upload:
    """Files of one record that the artifact store lacks, while the record itself is in MLflow."""

    start: int  # byte of the outbox where the record begins
    kind: str  # of the record
    trial_id: str  # "" for the sweep
    part: str  # "files", "samples", "forecasts" or "model"

    def replaces(self, other: Upload) -> bool:
        """Whether `other` is an earlier state of the same files."""
        return (self.kind, self.trial_id, self.part) == (other.kind, other.trial_id, other.part)


@dataclass(kw_only=True)
class Position:
    """How far MLflow has caught up with an outbox, and the run ids of its trials; saved atomically.

    `store` is a digest of the MLflow store and experiment. Each store has a position of its own, so a new store gets
    the complete outbox.
    """

    path: Path
    store: str
    offset: int = 0
    runs: dict[str, str] = field(default_factory=dict)
    uploads: list[Upload] = field(default_factory=list)  # of records before `offset`
    refused_noted: int = 0  # how many refused records the sweep's run says there are

    @classmethod
    def load(cls, outbox: Path, *, store: str, size: int) -> Position:
        """Read the position. A missing or broken one means the beginning: a replay stores nothing twice.

        The first store's position lies in `outbox.jsonl.position`, that of another in `outbox.jsonl.position-STORE`.
        """
        first, own = beside(outbox, "position"), beside(outbox, f"position-{store}")
        saved = _read(first)
        path = first if not own.exists() and saved.get("store") in (None, store) else own
        saved = saved if path == first else _read(own)
        position = cls(path=path, store=store)
        with contextlib.suppress(ValueError, KeyError, TypeError):
            if saved["store"] == store and 0 <= saved["offset"] <= size:
                uploads = [Upload(**fields) for fields in saved.get("uploads", [])]
                position.runs, position.uploads = dict(saved["runs"]), uploads
                position.refused_noted, position.offset = int(saved.get("refused_noted", 0)), saved["offset"]
        return position

    def save(self) -> None:
        """Replace the file in one step: a crash leaves the old file or the new one, a full disk the old one.

        An old position does no harm: a record that is sent again is stored once.
        """
        draft = beside(self.path, "new")
        content = {
            "store": self.store,
            "offset": self.offset,
            "runs": self.runs,
            "uploads": [asdict(upload) for upload in self.uploads],
            "refused_noted": self.refused_noted,
        }
        try:
            draft.write_text(json.dumps(content))
            draft.replace(self.path)
        except OSError:
            draft.unlink(missing_ok=True)

    def rewind(self) -> None:
        """Start over: send everything again and look every run up again."""
        self.offset = 0
        self.runs.clear()
        self.uploads.clear()


def store_digest(tracking_uri: str, experiment: str) -> str:
    """Identifies a store and experiment in the position file, which must not hold an address with a password."""
    return sha256(f"{settled_uri(tracking_uri)}\n{experiment}".encode()).hexdigest()[:16]


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
