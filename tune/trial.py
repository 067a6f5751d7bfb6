"""One trial: data, model, engine, pruning, timing and evaluation joined; reports once an epoch.

`run_trial` knows nothing of Ray: it is given a job and a function to report to. It never raises for what can go wrong
inside a trial (no memory, NaN, a failure): it reports the status with its reason, so that one trial never ends a sweep.
"""

from __future__ import annotations

import json
import math
import statistics
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import InitVar, asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from tune.clock import SteadyClock
from tune.config import TrialConfig
from tune.errors import BeginAnew, GateFailed, PublishedFault, Unsupported, disk_full
from tune.hardware import DeviceFacts, package_dir, packages_sha256
from tune.memory import REMEDY, KernelKills, is_out_of_memory, lost_a_worker, peak_memory_gib

Report = Callable[[dict[str, Any], Path | None], None]

PEAKS = {"final/peak_memory_gib": "GPU memory", "final/host_peak_memory_gib": "process memory"}


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
    compile_dir: str | None = None  # where compiled code is kept (tune.compile_cache); None: where PyTorch likes
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


@dataclass
class Progress:
    """What has to survive an interruption beside weights and moments."""

    epoch: int = 0  # epochs done
    best_epoch: int = 0
    best_val_mse: float = math.inf
    epoch_train_s: list[float] = field(default_factory=list)  # raw training time of each epoch
    compile_s: float = 0.0  # compiling and warming up, apart from the epochs
    gate_s: float = 0.0  # proving the arm, before and after the epochs
    prune_s: float = 0.0  # scoring and surgery, apart from the epochs
    shared: bool | None = False  # whether another process computed on the device in any epoch; None: not known
    not_finite: str | None = None  # what stopped being a number
    accounts: list[dict[str, float | None]] = field(default_factory=list)  # of each epoch, what a diagnosis reads
    gpus: list[str] = field(default_factory=list)  # UUIDs of the GPUs it ran on before an interruption, in their order

    def ran_on(self, uuid: str | None) -> list[str]:
        """The GPUs it has run on, with the present one."""
        return self.gpus if uuid is None or uuid in self.gpus[-1:] else [*self.gpus, uuid]


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


@dataclass
class Spans:
    """When a trial began and worked, by the wall clock in ms: the gaps between trials are read from these."""

    waited_s: InitVar[float] = 0.0  # already, for its process
    started_ms: int = field(init=False)
    first_epoch_ms: int | None = None  # the first training work in this process
    work_ended_ms: int | None = None  # the device's last work: training, validation or the test set
    earlier_ms: int | None = 0  # what earlier processes took up to the checkpoint gone on from; None: not known

    def __post_init__(self, waited_s: float) -> None:
        self._clock = SteadyClock()
        self.started_ms = self._clock.now_ms() - round(1e3 * waited_s)

    def epoch_began(self) -> None:
        self.first_epoch_ms = self.first_epoch_ms or self._clock.now_ms()

    def work_ended(self) -> None:
        self.work_ended_ms = self._clock.now_ms()

    def spent_ms(self) -> int | None:
        """All that the trial has taken until now."""
        return None if self.earlier_ms is None else self.earlier_ms + self._clock.now_ms() - self.started_ms

    def as_tag(self) -> str:
        return json.dumps(asdict(self))


def run_trial(job: TrialJob, report: Report, checkpoint: Path | None = None, host: Host = ALONE) -> None:
    """Train, evaluate and report one trial; go on from `checkpoint` if there is one.

    Reports after each epoch {"epoch", "metrics", "tags"} with a checkpoint folder, and at the end
    {"status", "reason", "metrics", "tags"} with a folder holding the best model under `model/` and the
    raw samples under `samples/`; an epoch's folder has those so far. `report` owns the folder that it is given, and may
    return before it is through with an epoch's, but not with the end's. Raises BeginAnew before the first epoch where
    the job says `rehearse` and this process had to measure the gate or to compile.
    """
    spans, kills = Spans(host.waited_s), KernelKills()

    def tell(result: dict[str, Any], folder: Path | None) -> None:
        report(result, folder)
        kills.restart()

    with tempfile.TemporaryDirectory(dir=host.scratch) as tmp:  # until the end was reported: all epochs were by then
        try:
            _run(job, tell, checkpoint, spans, host, Path(tmp))
        except BeginAnew:
            raise
        except Exception as error:  # reported with its reason, never hidden
            spans.work_ended()
            failure = _failure(error, kills)
            failure["tags"] |= {"spans": spans.as_tag()}  # what failed has its cost, too
            report(failure, None)


def _run(job: TrialJob, report: Report, checkpoint: Path | None, spans: Spans, host: Host, tmp: Path) -> None:
    started_s = time.perf_counter() - host.waited_s
    from tune.session import Session

    config = TrialConfig.model_validate(job.config)
    if job.compile_dir is not None:
        host = _with_cache(host, job, config)
    if job.packages_sha256 not in (None, packages_sha256()):
        raise RuntimeError(
            f"this node imports other code than the driver ({package_dir('tune')}): one sweep's results come from one "
            "program; update that copy, or start the sweep anew"
        )
    with Session(job, config, started_s, host) as session:
        session.spans = spans
        if checkpoint is not None:
            session.restore(checkpoint)
        if host.rehearsed_s is not None and spans.earlier_ms is not None:
            spans.earlier_ms += round(1e3 * host.rehearsed_s)
        session.pass_gate()
        while session.progress.not_finite is None and not session.finished:
            metrics = session.run_epoch()
            session.progress.not_finite = _not_finite(metrics)
            folder = tmp / f"epoch-{session.progress.epoch}"
            session.save(folder)
            epoch = {"epoch": session.progress.epoch, "metrics": metrics, "tags": session.tags()}  # may be its last
            report(epoch, folder)
        reason = session.progress.not_finite
        final = {"status": "nan", "reason": reason, "metrics": {}} if reason else _finish(session)
        folder = tmp / "final"
        folder.mkdir()
        if config.as_published is None:  # another function than a loaded model would compute, or none to use
            session.save_best(folder / "model")
        session.samples.write(folder / "samples")
        report(final | {"tags": session.tags()}, folder)


def check_gpu(job: TrialJob, found: DeviceFacts) -> None:
    """Raises RuntimeError on a GPU of another model than the plan's: Ray has one word for several of them."""
    if job.gpu_name not in (None, found.name):
        raise RuntimeError(
            f"this GPU is a {found.name}, the sweep was planned for {job.gpu_name}, and times of two models do not "
            "compare, though Ray may call both the same: take this node out of the cluster, and run with --fresh"
        )


def _with_cache(host: Host, job: TrialJob, config: TrialConfig) -> Host:
    import torch

    from tune import compile_cache

    assert job.compile_dir is not None
    used = compile_cache.use(Path(job.compile_dir), config, torch.device(job.device_type), isolated=job.isolate)
    return replace(host, tags={**host.tags, "compile_cache": used})


def _finish(session: Any) -> dict[str, Any]:
    session.prove_kernels()
    return {"status": "done", "reason": None, "metrics": session.final_metrics()}


def _not_finite(metrics: dict[str, float | None]) -> str | None:
    for name in ("loss/train_mse", "loss/val_mse"):
        value = metrics[name]
        if value is None or not math.isfinite(value):
            return f"{name} became {value}; try a smaller train.learning_rate"
    return None


def _failure(error: Exception, kills: KernelKills) -> dict[str, Any]:
    if isinstance(error, Unsupported):
        return {"status": "unsupported", "reason": str(error), "metrics": {}, "tags": {}}
    if isinstance(error, GateFailed):
        return {"status": "failed_gate", "reason": str(error), "metrics": error.metrics, "tags": {"gate": "failed"}}
    if isinstance(error, PublishedFault):
        reason = f"{error} (the replaced study's own error, expected: its arm never ran)"
        return {"status": "failed", "reason": reason, "metrics": {}, "tags": {"expected_failure": "true"}}
    reason = f"{type(error).__name__}: {_first_words(error)}"
    tags = {"traceback": traceback.format_exc()[-4000:]}
    killed = kills.told() if lost_a_worker(error) else None
    if killed or is_out_of_memory(error):
        peaks = peak_memory_gib()
        told = "; ".join([reason, *(f"{PEAKS[name]} peak {value:.2f} GiB" for name, value in peaks.items())])
        return {"status": "oom", "reason": f"{told}; {killed or REMEDY}", "metrics": peaks, "tags": tags}
    if disk_full(error):  # nothing is wrong with the trial: the driver stops the sweep and leaves it to do
        tags |= {"disk_full": "true"}
    return {"status": "failed", "reason": reason, "metrics": {}, "tags": tags}


def _first_words(error: Exception) -> str:
    """The error's first line, with the second where the first only announces it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    return " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]


def median_after(epoch_train_s: list[float], last_removal_before_epoch: int) -> float | None:
    """Median training time of the epochs in which the model had its final number of heads (design rule 7)."""
    kept = epoch_train_s[max(last_removal_before_epoch - 1, 0) :]
    return statistics.median(kept) if kept else None
