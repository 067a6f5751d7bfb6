"""How long a search will take: stage by stage, from earlier searches of the same data on this device. Never a guess."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from tune.plan.history import MOST_SWEEPS, device_of, records_of
from tune.storage import open_sweep
from tune.storage.sweep_dir import SweepDir

SEARCH, PROBE, FINAL = "search", "probe", "final"  # values of the tag stage
# Two searches compare if their trials agree in these.
ALIKE = ("data.dataset", "data.context_length", "model.d_model", "model.num_layers", "train.epochs", "train.precision")


@dataclass(frozen=True, kw_only=True)
class SearchTimes:
    """Seconds of each stage of a search, its warm-ups included."""

    trial_s: float  # of the search, for each trial that it trained
    probes_s: float  # of all probes; with what the polish trained
    block_s: float  # of the final


@dataclass(kw_only=True)
class _Stages:
    """Seconds between one record and the next, by the stage of the later one's trial."""

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    ended: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    seeds: set[str] = field(default_factory=set)  # of the final's trials that ended
    _stage: dict[str, str] = field(default_factory=dict)  # trial -> its stage
    _seed: dict[str, str] = field(default_factory=dict)
    _before_ms: float | None = None

    def absorb(self, record: Mapping[str, Any]) -> None:
        kind, trial_id = record["kind"], record.get("trial_id", "")
        if kind == "plan":
            polish = record["tags"].get("polish") == "true"
            self._stage[trial_id] = PROBE if polish else record["tags"].get("stage", "")
            self._seed[trial_id] = record["tags"].get("seed", "")
        if kind == "begin_sweep":  # maybe by another run of the command, much later
            self._before_ms = record["time_ms"]
        if kind not in ("epoch", "end") or self._before_ms is None:
            return
        stage = self._stage.get(trial_id, "")
        self.seconds[stage] += (record["time_ms"] - self._before_ms) / 1e3
        self._before_ms = record["time_ms"]
        if kind == "end":
            self.ended[stage] += 1
            if stage == FINAL:
                self.seeds.add(self._seed[trial_id])


def search_times(storage: Path, device: str, params: Mapping[str, Any]) -> SearchTimes | None:
    """What finished searches of such trials took on the device of this name; None if there was none.

    params: of a trial of the search that is planned, by field name.
    """
    found: list[SearchTimes] = []
    for folder in reversed(open_sweep.every(storage)):
        if device_of(folder) == device and (times := _times(folder, params)) is not None:
            found.append(times)
    if not (latest := found[:MOST_SWEEPS]):
        return None
    return SearchTimes(
        trial_s=median(times.trial_s for times in latest),
        probes_s=median(times.probes_s for times in latest),
        block_s=median(times.block_s for times in latest),
    )


def _times(folder: SweepDir, params: Mapping[str, Any]) -> SearchTimes | None:
    stages, alike = _Stages(), False
    try:
        for record in records_of(folder):
            stages.absorb(record)
            if record["kind"] == "plan" and record["tags"].get("stage") == SEARCH:
                alike = alike or all(record["params"].get(name) == params.get(name) for name in ALIKE)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # half a line, or another version's
        return None
    if not alike or not stages.ended[SEARCH] or not stages.seeds:
        return None
    return SearchTimes(
        trial_s=stages.seconds[SEARCH] / stages.ended[SEARCH],
        probes_s=stages.seconds[PROBE],
        block_s=stages.seconds[FINAL] / len(stages.seeds),
    )
