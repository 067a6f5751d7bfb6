"""How a search chooses: the validation error of a trial, and which cells reach the final.

Planning-safe. Everything here uses validation data and training times, never the test set.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from model.pruning import SCORES
from model.pruning.schedules import SCHEDULES
from tune.config.trial_config import TrialConfig
from tune.measure.metrics import all_windows_s
from tune.plan.plan import PlannedTrial, computation
from tune.stats.pairs import MARGIN
from tune.storage.trial_log import TrialLog

FINALISTS = 3
RULE = (
    f"of the finished trials whose validation MSE is at most {MARGIN:.0%} above the baseline's (or the best one's, if "
    "that is higher), the fastest by seconds of an epoch of all training windows; if these are too few, the next "
    "finished ones by validation MSE"
)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A trial of the search that may reach the final."""

    trial_id: str
    computation: Any  # equal for equal computations
    status: str  # done, or stopped early
    val_mse: float  # the best of the epochs with the final number of heads
    epoch_s: float | None  # of all training windows, median of those epochs; None: unknown, or the device was shared


def choose_finalists(candidates: Iterable[Candidate], *, baseline: Any = None) -> list[Candidate]:
    """At most FINALISTS candidates by RULE, no two with the same computation.

    baseline: the baseline's computation. Its trial sets the margin, as in the verdict; it is not chosen, as it is in
        the final anyway. If it has not finished, the best trial sets the margin.

    A trial that was stopped early was behind by more than the margin: it is chosen only if no other trial finished.
    """
    candidates = list(candidates)
    others = [trial for trial in candidates if trial.computation != baseline]
    own = [trial.val_mse for trial in candidates if trial.computation == baseline and trial.status == "done"]
    finished = [trial for trial in others if trial.status == "done"]
    ranked = sorted(finished or others, key=lambda trial: (trial.val_mse, trial.trial_id))
    fast = sorted(
        (trial for trial in _within_margin(ranked, own) if trial.epoch_s is not None),
        key=lambda trial: (trial.epoch_s, trial.val_mse, trial.trial_id),
    )
    chosen: list[Candidate] = []
    for trial in [*fast, *ranked]:
        if all(trial.computation != other.computation for other in chosen):
            chosen.append(trial)
    return chosen[:FINALISTS]


def _within_margin(ranked: Sequence[Candidate], own: Sequence[float]) -> list[Candidate]:
    limit = max([*(trial.val_mse for trial in ranked[:1]), *own], default=math.nan) * (1 + MARGIN)
    return [trial for trial in ranked if trial.val_mse <= limit]


def candidate(trial: PlannedTrial, log: TrialLog) -> Candidate | None:
    """The candidate of an ended trial; None if the trial failed or has no validation error."""
    val_mse = log.metrics.get("final/val_mse", math.nan)
    if log.status not in ("done", "stopped") or not math.isfinite(val_mse):
        return None
    epoch_s = _work(trial, log.metrics.get("final/median_epoch_s")).get("final/epoch_all_windows_s")
    alone = log.tags.get("timing_valid") == "true"
    return Candidate(
        trial_id=trial.trial_id,
        computation=computation(trial.config),
        status=log.status,
        val_mse=val_mse,
        epoch_s=epoch_s if alone else None,
    )


def objective(config: TrialConfig, log: TrialLog) -> float | None:
    """What the search minimises: the best validation MSE of the epochs with the final number of heads.

    If there is no such epoch yet, of all epochs; None if no epoch gave a number.
    """
    counted = _val_mse(log, counted_from(config))
    return min(counted or _val_mse(log, 1), default=None)


def summary(trial: PlannedTrial, log: TrialLog) -> dict[str, float | None]:
    """The final metrics of a stopped trial, from its epochs; no test metrics, as it has not finished."""
    first = counted_from(trial.config)
    best = min(_val_mse(log, first), default=None)
    times = {epoch: metrics["time/train_s"] for epoch, metrics in log.epochs.items() if "time/train_s" in metrics}
    counted = [time_s for epoch, time_s in times.items() if epoch >= first]
    median_s = statistics.median(counted) if counted else None
    return {
        "final/val_mse": best,
        "final/best_epoch": next((e for e, m in sorted(log.epochs.items()) if m.get("loss/val_mse") == best), None),
        "final/median_epoch_s": median_s,
        **_work(trial, median_s),
        "final/train_total_s": sum(times.values()) if times else None,
    }


def _work(trial: PlannedTrial, median_s: float | None) -> dict[str, float | None]:
    """An epoch's windows and steps, and its seconds for all training windows; nothing where the windows are unknown."""
    windows, batch = trial.train_windows, trial.config.train.batch_size
    if windows is None or windows < batch:
        return {}
    steps = windows // batch
    return {
        "final/epoch_all_windows_s": all_windows_s(median_s, windows=windows, trained=steps * batch),
        "final/windows_per_epoch": steps * batch,
        "final/steps_per_epoch": steps,
    }


def _val_mse(log: TrialLog, first: int) -> list[float]:
    errors = [metrics.get("loss/val_mse", math.nan) for epoch, metrics in log.epochs.items() if epoch >= first]
    return [value for value in errors if math.isfinite(value)]


def counted_from(config: TrialConfig) -> int:
    """The first epoch with the final number of heads."""
    pruning = config.pruning
    if pruning.score not in SCORES:  # none and static have no schedule
        return 1
    removed = SCHEDULES[pruning.schedule](pruning.heads_per_layer, config.train.epochs)
    return 1 + removed.index(removed[-1])
