"""How long a plan will take, from earlier trials on the same device that did the same work. Never a guess.

Only sweeps under the storage folder are read. Two trials are alike if they agree in every field that decides an epoch's
work; the heads that leave during training are ignored.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any

from data_pipeline.options import OPTION_NAMES
from tune.console.eta import makespan
from tune.plan.plan import Plan, PlannedTrial
from tune.plan.space import SearchPlan
from tune.storage import open_sweep
from tune.storage.sweep_dir import SweepDir

ONCE = ("final/startup_s", "final/gate_s", "final/compile_s", "final/prune_s")  # seconds of a trial outside its epochs
LIKE = "as earlier ones like them took; starting and saving a trial is not in it"
MOST_SWEEPS = 20  # the latest ones on this device
# Fields that change neither the amount nor the kind of an epoch's work.
NO_WORK = frozenset(
    {"model.preset", "train.epochs", "train.learning_rate", "train.schedule",
     "train.pct_start", "train.patience", "train.seed", *(f"data.{name}" for name in OPTION_NAMES)}
)  # fmt: skip


def time_line(plan: Plan, storage: Path, *, at_a_time: int = 1) -> str:
    """One line: how long the trials of a plan take, as far as known. at_a_time: the number of GPUs to run them on."""
    if isinstance(plan, SearchPlan):
        return "not known (its trials are drawn while it runs)"
    known = _seconds(plan, storage)
    if not known:
        return "not known (no earlier trial like these here)"
    total_s = sum(seconds for _, seconds in known)
    share = f"{len(known)} of {len(plan.runnable)} trials"
    if at_a_time == 1:
        return f"about {_words(total_s)} for {share}, one after another, {LIKE}"
    blocks: dict[int, float] = defaultdict(float)  # without pairs, each trial is a block of its own
    for number, (trial, seconds) in enumerate(known):
        blocks[trial.seed if plan.in_blocks else number] += seconds
    how = f"{at_a_time} GPUs{', those of one seed on one' if plan.in_blocks else ''}"
    line = f"about {_words(makespan(blocks.values(), at_a_time))} for {share} on {how}, {LIKE}"
    return f"{line} ({_words(total_s)} one after another)"


def _seconds(plan: Plan, storage: Path) -> list[tuple[PlannedTrial, float]]:
    """Each trial that can run and is like an earlier one, with its expected seconds, without its process's start."""
    measured: dict[str, list[tuple[float, float]]] = defaultdict(list)
    sweeps = [folder for folder in reversed(open_sweep.every(storage)) if _device(folder) == plan.device.name]
    for folder in sweeps[:MOST_SWEEPS]:
        for key, once_s, epoch_s in _measured(folder):
            measured[key].append((once_s, epoch_s))
    expected = []
    for trial in plan.runnable:
        if alike := measured.get(_work(trial.config.flat())):
            once_s, epoch_s = (median(values) for values in zip(*alike, strict=True))
            expected.append((trial, once_s + epoch_s * trial.config.train.epochs))
    return expected


def _device(folder: SweepDir) -> str | None:
    environment = folder.read().get("environment")
    device = environment.get("device") if isinstance(environment, dict) else None
    return device.get("name") if isinstance(device, dict) else None


def _measured(folder: SweepDir) -> Iterator[tuple[str, float, float]]:
    """(work, seconds once, seconds an epoch) of each done trial; nothing for a folder that is not ours."""
    try:
        params = {
            row["trial_id"]: row["params"] for row in folder.read()["trials"]
        }  # a search's trials are not among them
        epochs: dict[str, list[float]] = defaultdict(list)
        with folder.outbox.open() as file:
            for line in file:
                record = json.loads(line)
                trial_id = record.get("trial_id")
                if record["kind"] == "epoch" and "time/epoch_s" in record["metrics"]:
                    epochs[trial_id].append(record["metrics"]["time/epoch_s"])
                elif record["kind"] == "end" and record["status"] == "done" and epochs[trial_id] and trial_id in params:
                    once = (record["metrics"].get(name, 0.0) for name in ONCE)
                    yield _work(params[trial_id]), sum(once), median(epochs[trial_id])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # half a line, or another version's
        return


def _work(params: Mapping[str, Any]) -> str:
    work = {name: value for name, value in params.items() if name not in NO_WORK and not name.startswith("pruning.")}
    return json.dumps(work, sort_keys=True)


def _words(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
