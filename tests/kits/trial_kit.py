"""A trial without Ray, small enough for a CPU, and what it reported."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from model.patchtst import load_model
from tune.config.sweeps import Arm, SweepConfig
from tune.config.trial_config import TrialConfig
from tune.machine.device import DeviceFacts
from tune.plan.plan import make_plan
from tune.storage.checksums import MANIFEST, write_manifest
from tune.trial.job import TrialJob
from tune.trial.report import EpochReport, Report, as_result
from tune.trial.run import run_trial

CPU = DeviceFacts(device_type="cpu", name="some CPU")
SMALL = {
    "data.dataset": "demo",
    "data.context_length": 48,
    "data.prediction_length": 24,
    "model.d_model": 16,
    "model.num_heads": 4,
    "model.ffn_dim": 16,
    "train.batch_size": 256,
}


GRADUAL = {"pruning__score": "taylor", "pruning__schedule": "gradual", "pruning__heads_per_layer": 2}
ONE_CYCLE = {"train__schedule": "one_cycle", "train__pct_start": 0.4}


class Recorder:
    """Stands in for Tune: keeps the reports, in plain values as Tune gets them, and the folders that came with them."""

    def __init__(self, folder: Path, stop_after: int | None = None) -> None:
        self.folder, self.stop_after = folder, stop_after
        self.reports: list[dict[str, Any]] = []
        self.had_manifest: list[bool] = []  # whether each folder came with a manifest

    def __call__(self, report: Report, folder: Path | None) -> None:
        self.reports.append(as_result(report))
        if folder is not None:
            kept = self.folder / f"report-{len(self.reports)}"
            shutil.copytree(folder, kept)
            self.had_manifest.append((kept / MANIFEST).exists())
            if isinstance(report, EpochReport):
                write_manifest(kept)  # as the actor does between the trial's process and Tune
        if self.stop_after == len(self.reports):
            raise KeyboardInterrupt  # not an Exception: it leaves the trial as a killed process would

    @property
    def epochs(self) -> list[dict[str, Any]]:
        return [report for report in self.reports if "epoch" in report]

    @property
    def final(self) -> dict[str, Any]:
        return self.reports[-1]

    def weights(self, number: int) -> dict[str, torch.Tensor]:
        return load_model(self.folder / f"report-{number}" / "model").state_dict()


def small_config(**fields: Any) -> TrialConfig:
    sweep = SweepConfig(name="one", question="?", baseline="a", arms=(Arm(label="a", changes={}),))
    return make_plan(sweep, overrides={**SMALL, **fields}, repeats=1, seed=1, device=CPU).trials[0].config


def run_small(
    folder: Path,
    checkpoint: Path | None = None,
    stop_after: int | None = None,
    exclusive: bool = True,
    data_sha256: str | None = None,
    gate_dir: Path | None = None,
    packages_sha256: str | None = None,
    compile_dir: Path | None = None,
    **fields: Any,
) -> Recorder:
    folder.mkdir(exist_ok=True)
    job = replace(
        small_job(folder, **fields),
        gate_dir=None if gate_dir is None else str(gate_dir), exclusive=exclusive, data_sha256=data_sha256,
        packages_sha256=packages_sha256, compile_dir=None if compile_dir is None else str(compile_dir),
    )  # fmt: skip
    recorder = Recorder(folder, stop_after)
    run_trial(job, recorder, checkpoint)
    return recorder


def small_job(folder: Path, **fields: Any) -> TrialJob:
    config = small_config(**{name.replace("__", "."): value for name, value in fields.items()})
    return TrialJob(
        trial_id="t", config=config, device_type="cpu", data_dir=str(folder),
        cache_dir=str(folder.parent / "arrow"), cpus=1,
    )  # fmt: skip
