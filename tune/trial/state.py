"""What of one trial survives an interruption, and when the trial worked."""

from __future__ import annotations

import json
import math
import statistics
from dataclasses import InitVar, asdict, dataclass, field
from typing import TYPE_CHECKING

from tune.common.clock import SteadyClock

if TYPE_CHECKING:  # torch takes seconds to import, and a trial's clock starts before that
    import torch
    from torch import Tensor

    from tune.measure.raw_samples import RawSamples
    from tune.trial.host_copy import HostCopy


@dataclass
class TrialProgress:
    """How far a trial is, what it took so far, and where it ran. Checkpoints store it by these field names."""

    epoch: int = 0  # completed epochs
    best_epoch: int = 0  # 0: none yet
    best_val_mse: float = math.inf
    epoch_train_s: list[float] = field(default_factory=list)  # raw training time of each epoch
    compile_s: float = 0.0  # compilation and warm-up, apart from the epochs
    gate_s: float = 0.0  # gate and kernel check, before and after the epochs
    prune_s: float = 0.0  # scoring and removing heads, apart from the epochs
    shared: bool | None = False  # whether another process computed on the device in any epoch; None: unknown
    not_finite: str | None = None  # which loss became NaN or infinite, with the remedy
    accounts: list[dict[str, float | None]] = field(default_factory=list)  # of each epoch, what a diagnosis reads
    gpus: list[str] = field(default_factory=list)  # UUIDs of the GPUs it ran on, in order

    def note_gpu(self, uuid: str | None) -> None:
        """From now on the trial runs on this GPU; None where the UUID is unknown."""
        if uuid is not None and uuid not in self.gpus[-1:]:
            self.gpus.append(uuid)


@dataclass
class Timeline:
    """When a trial began and worked, in ms of the wall clock. The gaps between trials are computed from these."""

    waited_s: InitVar[float] = 0.0  # how long the trial has waited for its process
    started_ms: int = field(init=False)
    first_epoch_ms: int | None = None  # the first training work in this process
    work_ended_ms: int | None = None  # the device's last work: training, validation or the test set
    earlier_ms: int | None = 0  # what earlier processes took until the checkpoint restored here; None: unknown

    def __post_init__(self, waited_s: float) -> None:
        self._clock = SteadyClock()
        self.started_ms = self._clock.now_ms() - round(1e3 * waited_s)

    def epoch_began(self) -> None:
        self.first_epoch_ms = self.first_epoch_ms or self._clock.now_ms()

    def work_ended(self) -> None:
        self.work_ended_ms = self._clock.now_ms()

    def spent_ms(self) -> int | None:
        """All the time that the trial took until now; None if an earlier part is unknown."""
        return None if self.earlier_ms is None else self.earlier_ms + self._clock.now_ms() - self.started_ms

    def as_tag(self) -> str:
        return json.dumps(asdict(self))


@dataclass(kw_only=True)
class TrialState:
    """What a checkpoint stores of a trial (`tune.trial.checkpoint`), and where its tensors are."""

    device: torch.device
    host_copy: HostCopy  # the host memory that checkpoints are copied through
    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler | None  # fp16 only
    samples: RawSamples
    timeline: Timeline
    progress: TrialProgress = field(default_factory=TrialProgress)
    best_weights: dict[str, Tensor] | None = None  # None: no epoch counts yet

    def keep_best(self, val_mse: float) -> None:
        """The epoch just completed is the best one: keep a copy of its weights."""
        self.progress.best_val_mse, self.progress.best_epoch = val_mse, self.progress.epoch
        self.best_weights = {name: value.detach().clone() for name, value in self.model.state_dict().items()}

    def load_best(self) -> None:
        """Give the model the weights of the best epoch, if there is one."""
        if self.best_weights is not None:
            self.model.load_state_dict(self.best_weights)


def median_after(epoch_train_s: list[float], last_removal_before_epoch: int) -> float | None:
    """Median training time of the epochs in which the model had its final number of heads (design rule 7)."""
    kept = epoch_train_s[max(last_removal_before_epoch - 1, 0) :]
    return statistics.median(kept) if kept else None
