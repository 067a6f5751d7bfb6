"""What a trial's process is given: the job, and what its host offers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from tune.config.trial_config import TrialConfig
from tune.machine.device import DeviceFacts


class HandOver(Exception):
    """Not an error: this process filled the caches, and another process must train the trial's epochs."""

    def __init__(self, took_s: float) -> None:
        super().__init__(f"filled the caches in {took_s:.1f} s")
        self.took_s = took_s


GATE, TRAINING = "gate", "training"  # the parts of a warm-up


@dataclass(frozen=True, kw_only=True)
class TrialJob:
    """All that a worker needs to know of one trial. Paths are absolute."""

    trial_id: str
    config: TrialConfig
    device_type: str  # "cpu" or "cuda"
    data_dir: str
    cache_dir: str
    cpus: int  # threads the trial may use
    exclusive: bool = True  # whether the trial has the device to itself
    data_sha256: str | None = None  # of the source file that was planned with; None: not checked
    gate_dir: str | None = None  # where the gate's results are cached; None: every trial measures
    resume_from: Sequence[str] = ()  # checkpoints of earlier runs of this sweep, newest first
    sweep_id: str | None = None  # is stored in the saved model
    packages_sha256: str | None = None  # of the driver's code; None: not checked
    gpu_name: str | None = None  # the GPU model that was planned for, as its driver names it; None: not checked
    compile_dir: str | None = None  # where compiled code is kept (tune.trial.compile_cache); None: PyTorch's own place
    save_forecasts: bool = False  # whether forecasts of the test set are kept
    isolate: bool = False  # whether the trial gets a cold process and empty caches
    sample_device: bool = True  # whether the GPU's clocks, power and temperature are sampled during training
    prepare_next: bool = False  # whether another trial follows on this device, whose process is prepared meanwhile
    moved_because: str | None = None  # why the trial does not run on the GPU on which its block began
    warm_up: str | None = None  # GATE or TRAINING: only fill the caches for it, beside others, and train nothing
    probe_steps: int = 0  # of a probe: about so many steps are timed, and nothing is evaluated; 0: it is a trial
    error_only: bool = False  # whether only the trial's errors count: it runs beside others, and its times mean nothing
    may_hand_over: bool = False  # whether a process that ran the gate or compiled leaves the epochs to a fresh one
    awaits_answer: bool = True  # whether each epoch must be reported before the next begins: the driver may end a trial
    checkpoint_damaged: str | None = None  # why the newest checkpoint was skipped, and where the trial continues
    steps_file: str | None = None  # where it tells how far an epoch is (tune.storage.steps_file); None: nowhere
    fork_servers: Mapping[str, str] = field(default_factory=dict)  # Ray's node id -> socket of that node's fork server

    def as_dict(self) -> dict[str, Any]:
        """In plain values, as Ray Tune takes a trial's configuration."""
        return vars(self) | {"config": self.config.model_dump(mode="json")}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """What `as_dict` gave."""
        return cls(**{**values, "config": TrialConfig.model_validate(values["config"])})


@dataclass(frozen=True, kw_only=True)
class Host:
    """What a trial is told, and may ask, of the process that it runs in."""

    tags: Mapping[str, str] = field(default_factory=dict)  # for the trial's run, beside its own tags
    wait_until_idle: Callable[[], Sequence[int]] = lambda: ()
    """Returns once no process is being prepared beside the trial: the pids of our idle processes on its device."""
    cache_warmup_s: float | None = None  # how long an earlier process took to fill the caches; None: there was none
    scratch: Path | None = None  # where a checkpoint lies until it is stored; None: the system's temporary folder
    waited_s: float = 0.0  # how long the trial waited for its process


ALONE = Host()


def check_gpu(job: TrialJob, facts: DeviceFacts) -> None:
    """Raises RuntimeError if the GPU is not the planned model: Ray has one name for several models."""
    if job.gpu_name not in (None, facts.name):
        raise RuntimeError(
            f"this GPU is a {facts.name}, the sweep was planned for {job.gpu_name}, and times of two models do not "
            "compare, though Ray may call both the same: take this node out of the cluster, and run with --fresh"
        )
