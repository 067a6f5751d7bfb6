"""How a sweep is run, and how that ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to run, as against what to run."""

    storage_path: Path  # absolute; sweeps and the Arrow cache lie here
    tracking_uri: str
    data_dir: Path  # absolute; holds the source files, downloaded into it where missing
    address: str | None = None
    gpu_model: str | None = None  # Ray's name of the one to use in a cluster with several
    gpus_per_trial: float | None = None
    max_concurrent: int | None = None
    wait_for_gpus_s: float = 0.0  # how long the workers of a joined cluster may take to join
    fresh: bool = False
    resume: str | None = None
    isolate: bool = False  # every trial in a process that nothing was prepared in, with empty caches
    quiet: bool = False


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run of a sweep ended."""

    sweep_id: str
    statuses: Mapping[str, str]  # trial_id -> status, for every planned trial that ended
    failures: tuple[str, ...]  # trial ids of those that ended badly, but for arms whose failure is what they show
    interrupted: bool
    pending: int  # records that MLflow does not have yet
