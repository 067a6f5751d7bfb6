"""The folder of one sweep on disk: what was planned, by which code, and where each trial can go on from.

STORAGE/SWEEP_ID/sweep.json         plan, key, code and environment, state (running | ended | finished)
STORAGE/SWEEP_ID/checkpoints/T      where the newest checkpoint of the trial T lies, and the one before it
STORAGE/SWEEP_ID/blocks.json        seed -> the GPU on which its block of trials runs, where there are several
STORAGE/SWEEP_ID/outbox.jsonl       every result on its way to MLflow (tune.storage.outbox)
STORAGE/SWEEP_ID/attempt-N/         Ray Tune's folder of the N-th run of this sweep
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tune.common.files import write_atomically
from tune.machine.environment import CODE_FIELDS
from tune.storage.params import format_of

RUNNING, ENDED, FINISHED = "running", "ended", "finished"  # ended: all trials are, and MLflow lacks records
# The newest, and the one before it: Tune goes by that one while it hears of the new one, and we do where the new one
# is damaged.
KEPT_CHECKPOINTS = 2


@dataclass(frozen=True)
class SweepDir:
    """One sweep's folder."""

    path: Path

    @property
    def sweep_id(self) -> str:
        return self.path.name

    @property
    def outbox(self) -> Path:
        return self.path / "outbox.jsonl"

    @property
    def format(self) -> int:
        """The format of its stored parameters (tune.storage.params)."""
        return format_of(self.read())

    def read(self) -> dict[str, Any]:
        """What sweep.json holds."""
        return json.loads((self.path / "sweep.json").read_text())

    def update(self, **changes: Any) -> None:
        """Change fields of sweep.json."""
        write_atomically(self.path / "sweep.json", json.dumps(self.read() | changes, indent=1))

    def run_on(self, environment: dict[str, Any]) -> None:
        """Remember what the sweep goes on in; `environments` lists all of them where they differ, the oldest first."""
        content, environment = self.read(), json.loads(json.dumps(environment))
        if environment != (before := content.get("environment")):
            every = [*content.get("environments", [before]), environment]
            code = {name: environment[name] for name in CODE_FIELDS}
            self.update(environment=environment, environments=every, code=code)

    def checkpoints(self, trial_id: str) -> list[str]:
        """The checkpoints of a trial that are kept, the newest first."""
        file = self.path / "checkpoints" / trial_id
        return file.read_text(errors="replace").splitlines() if file.exists() else []

    def save_checkpoint(self, trial_id: str, checkpoint: str) -> None:
        """Remember it as the newest: one file a trial, or a sweep would write all of them with each."""
        file = self.path / "checkpoints" / trial_id
        file.parent.mkdir(exist_ok=True)
        write_atomically(file, "\n".join([checkpoint, *self.checkpoints(trial_id)][:KEPT_CHECKPOINTS]))

    def kept_samples(self, trial_id: str) -> Path | None:
        """The raw samples in a trial's newest checkpoint; None where it has none."""
        newest = self.checkpoints(trial_id)[:1]
        return Path(newest[0]) / "samples" if newest else None

    def blocks(self) -> dict[str, str]:
        """The GPU of each block that has begun, by the block's seed. A damaged file is told: none has."""
        file = self.path / "blocks.json"
        if not file.exists():
            return {}
        try:
            found = json.loads(file.read_text())
            if not isinstance(found, dict):
                raise ValueError("it holds no fields")
        except ValueError as error:
            told = "what is left of each seed may run on another GPU, and then makes no pair with what ran before"
            print(f"{file} is damaged ({error}): {told}", file=sys.stderr)
            return {}
        return {str(seed): str(gpu) for seed, gpu in found.items()}

    def save_blocks(self, gpus: dict[str, str]) -> None:
        write_atomically(self.path / "blocks.json", json.dumps(gpus, indent=1))

    def next_attempt(self) -> str:
        """Name of a Tune folder that no earlier run of this sweep used."""
        return f"attempt-{1 + len(list(self.path.glob('attempt-*')))}"
