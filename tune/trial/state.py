"""What of a trial survives an interruption, and when it worked."""

from __future__ import annotations

import json
import math
import statistics
from dataclasses import InitVar, asdict, dataclass, field

from tune.common.clock import SteadyClock


@dataclass
class TrialState:
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


@dataclass
class Timeline:
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


def median_after(epoch_train_s: list[float], last_removal_before_epoch: int) -> float | None:
    """Median training time of the epochs in which the model had its final number of heads (design rule 7)."""
    kept = epoch_train_s[max(last_removal_before_epoch - 1, 0) :]
    return statistics.median(kept) if kept else None
