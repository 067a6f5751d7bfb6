"""What earlier sweeps of a storage folder took on this device. Read from their records; what they lack is None.

Two trials do the same work if they agree in every field that decides an epoch's work. The heads that leave during
training are ignored.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from data_pipeline.options import OPTION_NAMES
from tune.config.trial_config import UNSAID
from tune.console.eta import compiled_s
from tune.storage import open_sweep
from tune.storage.sweep_dir import SweepDir
from tune.storage.trial_log import DRIVER
from tune.tracking.spans import WARM_UP

MOST_SWEEPS = 20  # the latest ones on this device
ONCE = ("final/startup_s", "final/gate_s", "final/compile_s", "final/prune_s")  # seconds of a trial outside its epochs
# Fields that change neither the amount nor the kind of an epoch's work.
NO_WORK = frozenset(
    {"model.preset", "model.init", "train.epochs", "train.learning_rate", "train.schedule", "train.pct_start",
     "train.patience", "train.seed", "train.read_test", *(f"data.{name}" for name in OPTION_NAMES)}
)  # fmt: skip
# Only trials that agree in these are compared with each other where the work differs.
KIND = ("train.engine", "train.precision", "data.feed", "data.num_workers", "model.layers")


@dataclass(frozen=True, kw_only=True)
class PastTrial:
    """One trial that was done."""

    arm: str
    params: Mapping[str, Any]  # by field name
    epoch_s: float  # of the median epoch, with validation and what lies between two epochs
    between_s: float  # of the trial, outside its epochs: the gap before it, start, end
    compiled_s: float  # what later trials of its arm did not need; not in `between_s`
    epoch_flops: float | None  # of an epoch's training


@dataclass(frozen=True, kw_only=True)
class History:
    """What is known. `around_s`: of a command, before its first trial or warm-up and after its last trial."""

    trials: tuple[PastTrial, ...] = ()
    warm_ups: tuple[tuple[int, float], ...] = ()  # (arms of the sweep, seconds) of warm-ups of all arms together
    around_s: float | None = None
    compiled: frozenset[str] = frozenset()  # `compiles` of each trial that this very code has run

    def like(self, params: Mapping[str, Any]) -> list[PastTrial]:
        """The trials that did the same work."""
        wanted = work(params)
        return [trial for trial in self.trials if work(trial.params) == wanted]


def work(params: Mapping[str, Any]) -> str:
    """Equal for two trials that do the same work in an epoch."""
    kept = {name: value for name, value in params.items() if name not in NO_WORK and not name.startswith("pruning.")}
    if kept.get("model.recompute") == "auto":  # earlier versions computed nothing again
        del kept["model.recompute"]
    kept = {name: value for name, value in kept.items() if UNSAID.get(name, ...) != value}
    return json.dumps(kept, sort_keys=True)


def compiles(params: Mapping[str, Any]) -> str:
    """Equal for two trials that compile the same and pass the same gate."""
    pruning = {name: value for name, value in params.items() if name.startswith("pruning.")}
    return work(params) + json.dumps(pruning, sort_keys=True, default=str)


def read_history(storage: Path, device: str, code_sha256: str | None) -> History:
    """What the latest sweeps in `storage` on the device of this name took. code_sha256: of the code that would run."""
    folders = [folder for folder in reversed(open_sweep.every(storage)) if device_of(folder) == device][:MOST_SWEEPS]
    sweeps = [_Sweep.of(folder) for folder in folders]
    known = {compiles(trial.params) for sweep in sweeps if sweep.code == code_sha256 for trial in sweep.trials}
    around_s = [sweep.around_s for sweep in sweeps if sweep.around_s is not None]
    return History(
        trials=tuple(trial for sweep in sweeps for trial in sweep.trials),
        warm_ups=tuple((sweep.arms, seconds) for sweep in sweeps for seconds in sweep.warm_ups_s),
        around_s=median(around_s) if around_s else None,
        compiled=frozenset(known) if code_sha256 is not None else frozenset(),
    )


def device_of(folder: SweepDir) -> str | None:
    """The name of the device that a sweep ran on; None where its record does not say."""
    environment = folder.read().get("environment")
    device = environment.get("device") if isinstance(environment, dict) else None
    return device.get("name") if isinstance(device, dict) else None


@dataclass(kw_only=True)
class _Sweep:
    """What one sweep's records say, as far as they can be read."""

    code: str | None = None
    params: dict[str, Mapping[str, Any]] = field(default_factory=dict)  # by trial
    named: dict[str, str] = field(default_factory=dict)  # trial -> its arm
    trials: list[PastTrial] = field(default_factory=list)
    warm_ups_s: list[float] = field(default_factory=list)
    around_s: float | None = None
    _epochs: dict[str, list[Mapping[str, float]]] = field(default_factory=lambda: defaultdict(list))
    _ended_ms: dict[str, float] = field(default_factory=dict)  # device -> the end of its latest trial
    _first_ms: float | None = None  # of what the driver did for trials, and of the first trial
    _last_ms: float | None = None

    @classmethod
    def of(cls, folder: SweepDir) -> _Sweep:
        """Nothing more than it holds, for half a line or another version's record."""
        sweep = cls()
        try:
            content = folder.read()
            sweep.code = (content.get("code") or {}).get("code_sha256")
            sweep.params = {row["trial_id"]: row["params"] for row in content["trials"]}
            sweep.named = {row["trial_id"]: row["arm"] for row in content["trials"]}
            for record in records_of(folder):
                sweep._absorb(record)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            pass
        return sweep

    @property
    def arms(self) -> int:
        """How many configurations it has that differ in more than their seed."""
        return max(1, len({compiles(params) for params in self.params.values()}))

    def _absorb(self, record: Mapping[str, Any]) -> None:
        trial_id, metrics = record.get("trial_id", ""), record.get("metrics", {})
        if record["kind"] == "epoch" and "time/epoch_s" in metrics:
            self._epochs[trial_id].append(metrics)
        elif record["kind"] == "plan" and isinstance(record.get("params"), dict):
            if record.get("tags", {}).get("stage") == "search":  # the plan of a sweep does not have them
                self.params.setdefault(trial_id, record["params"])
                self.named.setdefault(trial_id, record["tags"].get("arm", trial_id))
        elif record["kind"] == "span":
            self._absorb_span(record)
        elif record["kind"] == "begin_sweep":  # maybe by another run of the command, much later
            self._ended_ms.clear()
        elif record["kind"] == "end" and record["status"] == "done" and self._epochs[trial_id]:  # no probe
            self._absorb_end(trial_id, record)

    def _absorb_span(self, record: Mapping[str, Any]) -> None:
        began_ms, ended_ms = record["began_ms"], record["ended_ms"]
        if record["part"] == WARM_UP:
            self.warm_ups_s.append((ended_ms - began_ms) / 1e3)
            self._first_ms = min(self._first_ms or began_ms, began_ms)
        elif record["part"] == DRIVER and self.around_s is None and None not in (self._first_ms, self._last_ms):
            assert self._first_ms is not None and self._last_ms is not None
            self.around_s = max(0.0, self._first_ms - began_ms + ended_ms - self._last_ms) / 1e3

    def _absorb_end(self, trial_id: str, record: Mapping[str, Any]) -> None:
        metrics, tags = record["metrics"], record.get("tags", {})
        if trial_id not in self.params or tags.get("timing_valid") == "false":  # it had a neighbour on its GPU
            return
        epochs, own_s = self._epochs[trial_id], compiled_s(metrics, tags)
        epoch_s = median(epoch["time/epoch_s"] for epoch in epochs)
        pauses_s = [epoch["time/between_s"] for epoch in epochs if "time/between_s" in epoch]
        spans = json.loads(tags.get("spans", "{}"))
        if "started_ms" in spans and spans.get("earlier_ms") == 0:
            began_ms = spans["started_ms"] - 1e3 * metrics.get("final/rehearsal_s", 0.0)
            device = tags.get("gpu_uuid") or tags.get("hostname", "")
            since_ms = self._ended_ms.get(device, began_ms)
            self._ended_ms[device] = self._last_ms = record["time_ms"]
            self._first_ms = min(self._first_ms or began_ms, began_ms)
            epochs_s = sum(epoch["time/epoch_s"] + epoch.get("time/between_s", 0.0) for epoch in epochs)
            between_s = max(0.0, (record["time_ms"] - since_ms) / 1e3 - epochs_s - own_s)
        else:  # an earlier version's: what it says of itself
            between_s = sum(metrics.get(name, 0.0) for name in ONCE)
        flops = [1e12 * epoch["speed/tflops"] * epoch["time/train_s"] for epoch in epochs if "speed/tflops" in epoch]
        self.trials.append(
            PastTrial(
                arm=self.named[trial_id],
                params=self.params[trial_id],
                epoch_s=epoch_s + (median(pauses_s) if pauses_s else 0.0),
                between_s=between_s,
                compiled_s=own_s,
                epoch_flops=median(flops) if flops else None,
            )
        )


def records_of(folder: SweepDir) -> Iterator[Mapping[str, Any]]:
    """The records of a sweep's outbox. Raises OSError, and ValueError at a line that is cut."""
    with folder.outbox.open() as file:
        for line in file:
            yield json.loads(line)
