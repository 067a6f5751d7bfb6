"""One line on what bounds a trial's training time: a pure function of where its epochs' time went.

The rules, in this order. Shares are of the training time, over the epochs after the first with the final number of
heads.

0. Epochs that stalled for more than STALLED_PCT of their time are mentioned. They are left out if there are others:
   a few slow steps come from outside more often than from the arm.
1. If the parts are more than OFF_PCT away from the epoch's time, there is no diagnosis.
2. Time that the device waits: for data, for copies, for the host's launches, and at the epoch's head and tail. Launches
   count between steps and, if a profiled step shows how long the GPU worked, within them. The largest of these bounds
   the trial if it is at least LOST_PCT.
3. Otherwise the kernels do. The trial is memory-bound or compute-bound, whichever limit is nearer, if a step reaches at
   least NEAR_PCT of the bandwidth or of the peak; below that it is kernel-bound. Without a peak the line says so.

On a CPU the line only separates waiting for data from computing: steps are timed on the host, which shows no more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

OFF_PCT = 2.0
LOST_PCT = 20.0
NEAR_PCT = 40.0
STALLED_PCT = 5.0
STALLED = "time/stalled_pct"
PARTS = ("step", "h2d", "data_wait", "launch", "other")  # time/NAME_s
STEP_BUSY = "final/step_busy_ms"  # time within one profiled step in which any kernel or copy ran
# Metrics of an epoch that a diagnosis reads
NEEDED = (
    *(f"time/{part}_s" for part in PARTS),
    "time/train_s",
    "time/median_step_ms",
    STALLED,
    "speed/peak_pct",
    "speed/bandwidth_pct",
    "gpu/energy_j",
    "model/heads",
)
Epoch = Mapping[str, float | None]  # an epoch's metrics by MLflow name


@dataclass(frozen=True, kw_only=True)
class TimeShares:
    """Where training time went, as shares of it; None: unknown."""

    on_gpu: bool
    step_pct: float
    h2d_pct: float
    data_wait_pct: float
    launch_pct: float
    other_pct: float
    busy_in_step_pct: float | None = None  # share of a step in which any kernel ran, from a profiled step
    peak_pct: float | None = None  # of the GPU's peak FLOP/s, during steps
    bandwidth_pct: float | None = None  # of its memory bandwidth, if steps moved only what they must
    energy_j: float | None = None  # for one epoch

    @property
    def unexplained_pct(self) -> float:
        parts = self.step_pct + self.h2d_pct + self.data_wait_pct + self.launch_pct + self.other_pct
        return abs(parts - 100)


def settled(epochs: Sequence[Epoch]) -> list[Epoch]:
    """The epochs with the last epoch's number of heads, without the trial's first epoch if there are others."""
    kept = [epoch for epoch in epochs if epoch.get("model/heads") == epochs[-1].get("model/heads")]
    return kept[1:] if len(kept) > 1 and kept[0] is epochs[0] else kept


def time_shares(epochs: Sequence[Epoch], *, on_gpu: bool, step_busy_ms: float | None) -> TimeShares | None:
    """The shares of `epochs` taken together; None without an epoch, or if a part is unknown."""
    train_s = mean_of(epochs, "time/train_s")
    parts = {part: mean for part in PARTS if (mean := mean_of(epochs, f"time/{part}_s")) is not None}
    if not train_s or len(parts) < len(PARTS):
        return None
    shares = {f"{part}_pct": 100 * mean / train_s for part, mean in parts.items()}
    step_ms = mean_of(epochs, "time/median_step_ms")
    return TimeShares(
        on_gpu=on_gpu,
        busy_in_step_pct=min(100.0, 100 * step_busy_ms / step_ms) if step_busy_ms is not None and step_ms else None,
        peak_pct=mean_of(epochs, "speed/peak_pct"),
        bandwidth_pct=mean_of(epochs, "speed/bandwidth_pct"),
        energy_j=mean_of(epochs, "gpu/energy_j"),
        **shares,
    )


def mean_of(epochs: Sequence[Epoch], name: str) -> float | None:
    """Mean of a metric; None without an epoch, or if one of them has no finite value."""
    values = [value for epoch in epochs if (value := epoch.get(name)) is not None and math.isfinite(value)]
    return fmean(values) if values and len(values) == len(epochs) else None


def diagnose(shares: TimeShares) -> str:
    """The diagnosis by this module's rules, as one line."""
    energy = "" if shares.energy_j is None else f"; {shares.energy_j:,.0f} J an epoch"
    if shares.unexplained_pct > OFF_PCT:
        return f"not diagnosed: the parts are {shares.unexplained_pct:.0f} % away from the epoch's time{energy}"
    return (_on_gpu(shares) if shares.on_gpu else _on_cpu(shares)) + energy


def _on_cpu(shares: TimeShares) -> str:
    wait = shares.data_wait_pct
    if wait >= LOST_PCT:
        return f"data-bound: the CPU waits for data {wait:.0f} % of the epoch"
    return f"on a CPU: {shares.step_pct:.0f} % of the epoch in training steps, {wait:.0f} % waiting for data"


def _on_gpu(shares: TimeShares) -> str:
    busy_in_step = shares.busy_in_step_pct
    known = busy_in_step is not None
    busy_pct = shares.step_pct * (100.0 if busy_in_step is None else busy_in_step) / 100
    busy = f"GPU busy {'' if known else 'at most '}{busy_pct:.0f} %"
    lost = {
        f"data-bound: the GPU waits for data {shares.data_wait_pct:.0f} % of the epoch": shares.data_wait_pct,
        f"copy-bound: the GPU waits for copies {shares.h2d_pct:.0f} % of the epoch": shares.h2d_pct,
        f"launch-bound: {busy}": shares.launch_pct + shares.step_pct - busy_pct,
        f"overhead-bound: {shares.other_pct:.0f} % of the epoch before its first step and after its last": (
            shares.other_pct
        ),
    }
    worst = max(lost, key=lambda line: lost[line])
    return worst if lost[worst] >= LOST_PCT else _kernels(shares, busy)


def _kernels(shares: TimeShares, busy: str) -> str:
    peak, bandwidth = shares.peak_pct, shares.bandwidth_pct
    if peak is None or bandwidth is None:
        return f"{busy}; how near its limits is not known: no peak of this GPU in this precision is on record"
    if max(peak, bandwidth) < NEAR_PCT:
        return f"kernel-bound: {busy}, far from both roofs ({bandwidth:.0f} % of bandwidth, {peak:.0f} % of peak)"
    if bandwidth > peak:
        return f"memory-bound at {bandwidth:.0f} % of bandwidth"
    return f"compute-bound at {peak:.0f} % of peak"


def diagnose_epochs(epochs: Sequence[Epoch], *, on_gpu: bool, step_busy_ms: float | None) -> str | None:
    """The diagnosis of a trial with these epochs; None if too little is known."""
    return diagnose_settled(settled(epochs) if epochs else [], on_gpu=on_gpu, step_busy_ms=step_busy_ms)


def diagnose_settled(epochs: Sequence[Epoch], *, on_gpu: bool, step_busy_ms: float | None) -> str | None:
    """The same for epochs from `settled`, of one trial or of several trials of an arm."""
    steady = [epoch for epoch in epochs if (epoch.get(STALLED) or 0.0) <= STALLED_PCT]
    shares = time_shares(steady or epochs, on_gpu=on_gpu, step_busy_ms=step_busy_ms)
    return None if shares is None else diagnose(shares) + _stalls(epochs)


def _stalls(epochs: Sequence[Epoch]) -> str:
    stalled_pct = [share for epoch in epochs if (share := epoch.get(STALLED) or 0.0) > STALLED_PCT]
    if not stalled_pct:
        return ""
    return f"; {len(stalled_pct)} of {len(epochs)} epochs stalled, for up to {max(stalled_pct):.0f} % of their time"
