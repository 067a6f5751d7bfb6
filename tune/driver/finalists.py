"""How a search chooses by error: which shapes may go on, and what a stopped trial's error is.

Planning-safe. Everything here uses validation data, never the test set.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from model.pruning import SCORES
from model.pruning.schedules import SCHEDULES
from tune.config.trial_config import TrialConfig
from tune.measure.metrics import all_windows_s
from tune.plan.cells import Labels
from tune.plan.plan import PlannedTrial
from tune.plan.shapes import effort
from tune.stats.pairs import MARGIN
from tune.storage.trial_log import TrialLog


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A shape with a validation error."""

    trial_id: str  # of the trial that gave it
    shape: Labels
    status: str  # done, or stopped early
    val_mse: float  # the best of the epochs with the final number of heads
    effort: tuple[int, ...]  # what a window costs (tune.plan.shapes.effort)


@dataclass(frozen=True, kw_only=True)
class Limit:
    """The largest validation error that counts as not worse."""

    val_mse: float
    why: str


def candidate(trial: PlannedTrial, shape: Labels, log: TrialLog) -> Candidate | None:
    """The candidate of an ended trial; None if the trial failed or has no validation error."""
    val_mse = log.metrics.get("final/val_mse", math.nan)
    if log.status not in ("done", "stopped") or not math.isfinite(val_mse):
        return None
    return Candidate(
        trial_id=trial.trial_id, shape=shape, status=log.status, val_mse=val_mse, effort=effort(trial.config)
    )


def reached(candidates: Iterable[Candidate], target: float | None) -> bool:
    """Whether a finished trial has a validation error of at most `target`; False without a target."""
    return target is not None and any(each.status == "done" and each.val_mse <= target for each in candidates)


def error_limit(candidates: Collection[Candidate], *, baseline: Labels | None, target: float | None) -> Limit | None:
    """The limit: the target if it is reached, else MARGIN above the baseline's error or the best one's, if higher.

    baseline: the baseline's shape. A trial that ASHA stopped sets no limit unless no other trial finished. None if
    there is no candidate.
    """
    if target is not None and reached(candidates, target):
        return Limit(val_mse=target, why="the target")
    finished = [each for each in candidates if each.status == "done"] or list(candidates)
    if not finished:
        return None
    best = min(each.val_mse for each in finished)
    own = [each.val_mse for each in finished if each.shape == baseline]
    whose = "the baseline's" if own and own[0] > best else "the best one's"
    return Limit(val_mse=max([best, *own]) * (1 + MARGIN), why=f"{MARGIN:.0%} above {whose}")


def able(candidates: Collection[Candidate], limit: Limit | None) -> list[Candidate]:
    """The finished candidates within the limit by error; stopped ones only if no trial finished.

    A trial that was stopped early was behind by more than the margin.
    """
    finished = [each for each in candidates if each.status == "done"] or list(candidates)
    within = [each for each in finished if limit is not None and each.val_mse <= limit.val_mse]
    return sorted(within, key=lambda each: (each.val_mse, each.trial_id))


def likely_fastest_first(candidates: Iterable[Candidate]) -> list[Candidate]:
    """In layers: first those beside which no other costs less in every part of the effort; in a layer by error."""
    left = sorted(candidates, key=lambda each: (each.val_mse, each.trial_id))
    ordered: list[Candidate] = []
    while left:
        layer = [each for each in left if not any(_costs_less(other, each) for other in left)]
        ordered += layer
        left = [each for each in left if each not in layer]
    return ordered


def _costs_less(one: Candidate, other: Candidate) -> bool:
    pairs = list(zip(one.effort, other.effort, strict=True))
    return all(mine <= theirs for mine, theirs in pairs) and one.effort != other.effort


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
