"""The folder of one sweep on disk: its plan, the code that ran it, and the checkpoints of its trials.

STORAGE/SWEEP_ID/sweep.json         plan, key, code and environment, state (running | ended | finished)
STORAGE/SWEEP_ID/checkpoints/T      paths inside this folder: the newest checkpoint of the trial T, the one before
STORAGE/SWEEP_ID/blocks.json        seed -> the GPU that runs its block of trials, if there are several GPUs
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
from tune.storage.paths import found_path, stored_path

RUNNING, ENDED, FINISHED = "running", "ended", "finished"  # ended: all trials have ended, but MLflow lacks records
# The newest and the one before it: Tune uses the older one until it knows the new one, and we do if the new one is
# damaged.
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
        """Record where the sweep continues. If environments differ, `environments` lists all, the oldest first."""
        content, environment = self.read(), json.loads(json.dumps(environment))
        if environment != (before := content.get("environment")):
            every = [*content.get("environments", [before]), environment]
            code = {name: environment[name] for name in CODE_FIELDS}
            self.update(environment=environment, environments=every, code=code)

    def checkpoints(self, trial_id: str) -> list[str]:
        """The kept checkpoints of a trial, the newest first, where they are now."""
        file = self.path / "checkpoints" / trial_id
        stored = file.read_text(errors="replace").splitlines() if file.exists() else []
        return [str(found_path(text, self.path)) for text in stored]

    def save_checkpoint(self, trial_id: str, checkpoint: str) -> None:
        """Record the newest checkpoint, in a file of this trial: one file of all would be rewritten each time."""
        file = self.path / "checkpoints" / trial_id
        file.parent.mkdir(exist_ok=True)
        kept = [checkpoint, *self.checkpoints(trial_id)][:KEPT_CHECKPOINTS]
        write_atomically(file, "\n".join(stored_path(path, self.path) for path in kept))

    def kept_samples(self, trial_id: str) -> Path | None:
        """The raw samples in a trial's newest checkpoint; None if it has no checkpoint."""
        newest = self.checkpoints(trial_id)[:1]
        return Path(newest[0]) / "samples" if newest else None

    def blocks(self) -> dict[str, str]:
        """The GPU of each started block, by the block's seed. A damaged file counts as empty, with a line on stderr."""
        file = self.path / "blocks.json"
        if not file.exists():
            return {}
        try:
            gpus = json.loads(file.read_text())
            if not isinstance(gpus, dict):
                raise ValueError("it has no fields")
        except ValueError as error:
            effect = "the other trials of a seed may run on another GPU, and then make no pairs with those that ran"
            print(f"{file} is damaged ({error}): {effect}", file=sys.stderr)
            return {}
        return {str(seed): str(gpu) for seed, gpu in gpus.items()}

    def save_blocks(self, gpus: dict[str, str]) -> None:
        write_atomically(self.path / "blocks.json", json.dumps(gpus, indent=1))

    def next_attempt(self) -> str:
        """The name of a new folder for Tune, which no earlier run of this sweep has used."""
        return f"attempt-{1 + len(list(self.path.glob('attempt-*')))}"
