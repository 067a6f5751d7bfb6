"""How a sweep is run, and how that ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tune.driver.budget import Budget


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to run a sweep; what to run is the Planner's."""

    storage_path: Path  # absolute; the folder of sweeps and of converted data
    tracking_uri: str
    data_dir: Path  # absolute; the folder of source files; missing ones are downloaded into it
    address: str | None = None
    gpu_model: str | None = None  # Ray's name of the model to use, in a cluster with several
    gpus_per_trial: float | None = None
    max_concurrent: int | None = None
    wait_for_gpus_s: float = 0.0  # how long a cluster's workers may take to join
    fresh: bool = False
    resume: str | None = None
    budget: Budget = field(default_factory=Budget)  # the time of this command
    isolate: bool = False  # each trial in a new, unprepared process with empty caches
    save_forecasts: bool = False  # whether each trial's forecasts of the test set become artifacts
    quiet: bool = False
    began_ms: int | None = None  # when the command began, in ms of the wall clock; None: with `run_sweep`


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run of a sweep ended."""

    sweep_id: str
    statuses: Mapping[str, str]  # trial_id -> status, of every trial that ended
    failures: tuple[str, ...]  # trial ids, without arms whose failure is their result
    interrupted: bool  # whether trials are left
    pending: int  # records that MLflow lacks
    unsent: int  # of these, those that lack more than their files
    blocked: str | None = None  # what somebody has to mend before more can be sent
    refused: int = 0  # records that MLflow refused for good
    stopped: str | None = None  # what there is, where trials are left because the command's time is used up
