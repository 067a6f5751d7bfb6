"""How far MLflow has caught up with an outbox."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass, field
from pathlib import Path

from tune.storage.outbox import beside


@dataclass(kw_only=True)
class Position:
    """How far MLflow has caught up with an outbox, and the run ids of its trials; saved atomically.

    `store` is a digest of the MLflow store and experiment. A position in another store is ignored, so a new store gets
    the complete outbox.
    """

    path: Path
    store: str
    offset: int = 0
    runs: dict[str, str] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path, *, store: str, size: int) -> Position:
        """Read the position. A missing, broken or foreign one means the beginning: a replay stores nothing twice."""
        position = cls(path=path, store=store)
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            saved = json.loads(path.read_text())
            if saved["store"] == store and 0 <= saved["offset"] <= size:
                position.offset, position.runs = saved["offset"], dict(saved["runs"])
        return position

    def save(self) -> None:
        """Replace the file in one step: a crash leaves the old file or the new one, a full disk the old one.

        An old position does no harm: a record that is sent again is stored once.
        """
        draft = beside(self.path, "new")
        try:
            draft.write_text(json.dumps({"store": self.store, "offset": self.offset, "runs": self.runs}))
            draft.replace(self.path)
        except OSError:
            draft.unlink(missing_ok=True)

    def rewind(self) -> None:
        """Start over: send everything again and look every run up again."""
        self.offset = 0
        self.runs.clear()
