"""What a worker is told of a trial, and by whom it is hosted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tune.machine.device import DeviceFacts


class HandOver(Exception):
    """Not an error: what a trial needs is on disk now, and its epochs belong into a process that has not made it."""

    def __init__(self, took_s: float) -> None:
        super().__init__(f"rehearsed in {took_s:.1f} s")
        self.took_s = took_s


Report = Callable[[dict[str, Any], Path | None], None]


@dataclass(frozen=True, kw_only=True)
class TrialJob:
    """What a worker is told. Plain values only; paths are absolute."""

    trial_id: str
    config: dict[str, Any]  # TrialConfig.model_dump(mode="json")
    device_type: str  # "cpu" or "cuda"
    data_dir: str
    cache_dir: str
    cpus: int  # threads the trial may use
    exclusive: bool = True  # whether the trial has the device to itself
    data_sha256: str | None = None  # of the source that the sweep was planned on; None: not checked
    gate_dir: str | None = None  # where verdicts of the gate are kept; None: nowhere, every trial measures
    resume_from: Sequence[str] = ()  # checkpoints of earlier runs of this sweep, the newest first
    sweep_id: str | None = None  # goes into the saved model
    packages_sha256: str | None = None  # of the driver's code; None: not checked
    gpu_name: str | None = None  # as the driver of the GPU says it where the plan was made; None: not checked
    compile_dir: str | None = None  # where compiled code is kept (tune.trial.compile_cache); None: where PyTorch likes
    isolate: bool = False  # a process that nothing was prepared in, and an empty cache
    sample_device: bool = True  # whether the GPU's clocks, power and temperature are sampled while it trains
    prepare_next: bool = False  # whether another trial follows on this device: its process is prepared meanwhile
    moved_because: str | None = None  # why the trial does not run on the GPU on which its block began
    rehearse: bool = False  # whether a process that had to measure or compile leaves the epochs to another one
    awaits_answer: bool = True  # whether the driver must have an epoch, and may end the trial, before the next begins
    checkpoint_damaged: str | None = None  # why its newest checkpoint is not gone on from, and where it begins
    templates: Mapping[str, str] = field(default_factory=dict)  # Ray's node id -> socket of the template there

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Host:
    """What a trial is told, and can ask, of the process that hosts it."""

    tags: Mapping[str, str] = field(default_factory=dict)  # beside the trial's own
    settle: Callable[[], Sequence[int]] = lambda: ()
    """Returns once nothing is being prepared beside the trial: the processes of ours that idle on its device."""
    rehearsed_s: float | None = None  # what a process before this one took to measure and compile; None: none did
    scratch: Path | None = None  # where a checkpoint lies until it is stored; None: where the system keeps such things
    waited_s: float = 0.0  # since the trial's actor was given it, for the process


ALONE = Host()


def check_gpu(job: TrialJob, found: DeviceFacts) -> None:
    """Raises RuntimeError on a GPU of another model than the plan's: Ray has one word for several of them."""
    if job.gpu_name not in (None, found.name):
        raise RuntimeError(
            f"this GPU is a {found.name}, the sweep was planned for {job.gpu_name}, and times of two models do not "
            "compare, though Ray may call both the same: take this node out of the cluster, and run with --fresh"
        )
