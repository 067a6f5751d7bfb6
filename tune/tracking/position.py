"""How far MLflow has caught up with an outbox."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass, field
from pathlib import Path

from tune.storage.outbox import beside


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
