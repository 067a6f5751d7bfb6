"""Trials that compute nothing, on simulated GPUs. Ray and Tune are real, and so is which trial runs where and when."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from report_kit import timed

from tune.cluster.share import Share
from tune.config.repeats import Repeats
from tune.config.sweeps import Arm, SweepConfig
from tune.console.progress import Progress
from tune.driver.auto import Needed, run_needed
from tune.driver.collector import Collector
from tune.driver.gpu_leases import GpuLocation, enter
from tune.driver.launcher import Launcher
from tune.machine.device import DeviceFacts, nvml, visible_gpus
from tune.plan.plan import Plan, PlannedTrial, make_plan
from tune.storage import open_sweep
from tune.storage.trial_log import TrialLog
from tune.trial.job import TrialJob
from tune.trial.report import EpochReport, TrialEnd, as_result

KITS = Path(__file__).resolve().parent
CPU = DeviceFacts(device_type="cpu", name="some CPU")
LOG = "fake-trials.jsonl"
EPOCHS = 3
MEET_S = 60.0  # a trial waits at most this long for one on another GPU


class Ends:
    """Stands in for a Tracker: keeps what the trials reported."""

    def __init__(self) -> None:
        self.ended: dict[str, str] = {}
        self.ends: dict[str, dict[str, Any]] = {}
        self.epochs: list[tuple[str, int]] = []
        self.trials: dict[str, TrialLog] = {}

    def now_ms(self) -> int:
        return 1

    def log_epoch(self, *, trial_id: str, epoch: int, **rest: Any) -> bool:
        self.epochs.append((trial_id, epoch))
        return True

    def status_of(self, trial_id: str) -> str | None:
        return self.ended.get(trial_id)

    def end_trial(self, *, trial_id: str, status: str, **rest: Any) -> bool:
        self.ended[trial_id], self.ends[trial_id] = status, {"status": status, **rest}
        log = self.trials.setdefault(trial_id, TrialLog())
        log.status, log.metrics = status, rest["metrics"]
        log.tags |= rest["tags"]
        return True

    def announce(self, trials: Sequence[PlannedTrial]) -> None:
        for trial in trials:
            assert trial.trial_id not in self.ended
            log = self.trials.setdefault(trial.trial_id, TrialLog())
            log.tags |= {"arm": trial.arm, "seed": str(trial.seed)}


def fake_entry(config: dict[str, Any]) -> None:
    """As `entry.trial_entry`, with epochs of `epoch_s` seconds in this very process; `faults` says what goes wrong.

    It logs beside the sweep when the trial began and ended, and on which GPU.
    """
    from ray import tune as ray_tune

    if "location" in config:
        enter(GpuLocation(**config["location"]))
    job = TrialJob.from_dict(config["job"])
    faults = json.loads((Path(job.data_dir) / "faults.json").read_text())
    with nvml() as lib:
        (gpu,) = (lib.nvmlDeviceGetUUID(handle) for handle in visible_gpus(lib))
    retried = ray_tune.get_checkpoint()
    checkpoint = retried.path if retried is not None else next(iter(job.resume_from), None)
    done = int((Path(checkpoint) / "epoch").read_text()) if checkpoint else 0
    began_s = time.time()
    _log(job, gpu, "begin", done, began_s)
    while len({line["gpu"] for line in log(Path(job.data_dir))}) < faults["meet"] and time.time() < began_s + MEET_S:
        time.sleep(0.02)
    for epoch in range(done + 1, EPOCHS + 1):
        time.sleep(faults["epoch_s"])
        folder = Path(os.getcwd()) / f"epoch-{epoch}"
        folder.mkdir()
        (folder / "epoch").write_text(str(epoch))
        _log(job, gpu, "epoch", epoch, began_s)
        metrics = {"loss/val_mse": 1.0, "time/train_s": 1.0, "speed/windows_per_s": 1.0}
        report = EpochReport(epoch=epoch, metrics=metrics, tags={})
        ray_tune.report(as_result(report), checkpoint=ray_tune.Checkpoint.from_directory(str(folder)))
        if job.trial_id in faults["dies"] and (faults["ever_again"] or (epoch == 2 and not done)):
            os.kill(os.getpid(), 9)
    _log(job, gpu, "end", EPOCHS, began_s)
    tags = {"timing_valid": "true", "gpu_uuid": gpu}
    if job.moved_because is not None:
        tags["moved_because"] = job.moved_because
    final = {**timed(1.0), "final/val_mse": 1.0}
    ray_tune.report(as_result(TrialEnd(status="done", metrics=final, tags=tags)))


def _log(job: TrialJob, gpu: str, kind: str, epoch: int, began_s: float) -> None:
    record = {"trial_id": job.trial_id, "seed": job.config.train.seed, "gpu": gpu, "kind": kind, "epoch": epoch,
              "began_s": began_s, "at_s": time.time(), "pid": os.getpid(), "attempt_from": job.resume_from}  # fmt: skip
    with open(Path(job.data_dir) / LOG, "a") as file:
        file.write(json.dumps(record) + "\n")


def log(folder: Path) -> list[dict[str, Any]]:
    """What the trials wrote so far."""
    file = folder / LOG
    lines = file.read_text().splitlines() if file.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def plan_of(arms: int, repeats: Repeats) -> Plan:
    """A sweep with this many arms, the baseline `a0` among them."""
    changes = ({"train.learning_rate": 1e-3 * (number + 1)} for number in range(arms))
    listed = tuple(Arm(label=f"a{number}", changes=change) for number, change in enumerate(changes))
    sweep = SweepConfig(name="s", question="?", baseline="a0", arms=listed)
    return make_plan(sweep, overrides={"data.dataset": "demo"}, repeats=repeats, seed=1, device=CPU)


class Sweep:
    """A sweep's folder, its launcher, and its results."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        self.plan, self.data, self.ends = plan, folder, Ends()
        self.folder = open_sweep.create(folder / "runs", "s", {"key": "k", "created_s": 1.0, "code": {}})
        self.launcher = Launcher(
            folder=self.folder, share=Share(cpus=1, gpus=1, at_a_time=2), device_type="cuda", gpu_name=None,
            data_dir=folder, cache_dir=folder, data_sha256="d", entry=fake_entry,
        )  # fmt: skip

    def run(self, *, epoch_s: float, dies: str = "", ever_again: bool = False, meet: int = 2) -> Sweep:
        """Run it. A trial waits until one has begun on each of `meet` GPUs. The trial `dies` is killed after its second
        epoch; with `ever_again` after every epoch."""
        faults = {"epoch_s": epoch_s, "dies": [dies], "ever_again": ever_again, "meet": meet}
        (self.data / "faults.json").write_text(json.dumps(faults))
        needed = Needed(self.plan, self.ends)  # type: ignore[arg-type]
        run_needed(self.launcher, needed, self.collector, self.ends.announce)
        return self

    @property
    def collector(self) -> Collector:
        progress = Progress(total=0, epochs=EPOCHS, quiet=True)
        return Collector(self.folder, self.ends, progress)  # type: ignore[arg-type]

    @property
    def log(self) -> list[dict[str, Any]]:
        return log(self.data)

    def gpus(self) -> dict[int, set[str]]:
        """The GPUs of each seed."""
        gpus: dict[int, set[str]] = {}
        for line in self.log:
            gpus.setdefault(line["seed"], set()).add(line["gpu"])
        return gpus


def fake_gpus(patch: pytest.MonkeyPatch) -> None:
    """Call before Ray starts: its workers then import the fake NVML."""
    patch.setenv("PYTHONPATH", os.pathsep.join([str(KITS / "fake_gpus"), str(KITS), str(KITS.parents[1])]))
    patch.setenv("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    patch.setenv("RAY_AIR_NEW_OUTPUT", "0")
    patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
