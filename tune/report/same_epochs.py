"""What a late pruning costs: the arm's error relative to the baseline's in the very same epochs.

An arm whose heads leave during training counts by its best epoch after that. Where the baseline's own best epoch lies
before, the two errors also differ by how long was trained, for example because both begin to overfit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tune.report.arms import has_arm_and_seed
from tune.report.comparisons import accuracy_text, is_of_search
from tune.stats.pairs import Accuracy, TrialResult, compare_each
from tune.tracking.reader import TrialRecord

TrialBySeed = Mapping[str, TrialRecord]


@dataclass(frozen=True, kw_only=True)
class SameEpochs:
    """An arm whose heads left after the baseline's best epoch, and the baseline's best of the epochs that count."""

    counted_from: int  # the first epoch that counts
    baseline_best: tuple[int, ...]  # best epochs of the baseline that lie before
    accuracy: Accuracy | None  # None without a pair whose errors are known


def same_epochs(trials: Iterable[TrialRecord], baseline: str | None, margin: float) -> dict[str, SameEpochs]:
    """By arm, without the arms for which every best epoch of the baseline counts. `margin` as in `tune.stats.pairs`."""
    arms: dict[str, dict[str, TrialRecord]] = {}
    for trial in trials:
        if trial.status == "done" and has_arm_and_seed(trial) and not is_of_search(trial):
            arms.setdefault(trial.tags["arm"], {})[trial.tags["seed"]] = trial
    reference = arms.pop(baseline or "", {})
    late = {arm: starts for arm, by_seed in arms.items() if (starts := _late(reference, by_seed))}
    sides = {arm: _results(reference, arms[arm], start) for arm, (start, _) in late.items()}
    compared = compare_each(sides, margin=margin)
    return {
        arm: SameEpochs(counted_from=start, baseline_best=best, accuracy=compared[arm].accuracy)
        for arm, (start, best) in late.items()
    }


def same_epochs_note(by_arm: Mapping[str, SameEpochs], baseline: str | None) -> list[str]:
    """One line, or none where no arm has such epochs."""
    if not by_arm:
        return []
    by_start: dict[int, list[str]] = {}
    for arm, same in by_arm.items():
        by_start.setdefault(same.counted_from, []).append(f"{arm} {accuracy_text(same.accuracy)}")
    errors = "; ".join(f"from epoch {start} on {', '.join(texts)}" for start, texts in sorted(by_start.items()))
    best = sorted({epoch for same in by_arm.values() for epoch in same.baseline_best})
    when = f"epoch {best[0]}" if len(best) == 1 else f"epochs {best[0]} to {best[-1]}"
    return [
        f"Heads left after the best epoch of {baseline} ({when}), so 'accuracy' also compares how long was trained. "
        f"Validation MSE relative to {baseline}'s best of the same epochs: {errors}."
    ]


def _late(baseline: TrialBySeed, arm: TrialBySeed) -> tuple[int, tuple[int, ...]] | None:
    """The first epoch that counts for the arm, and the baseline's best epochs before it; None without such epochs."""
    starts = [start for trial in arm.values() if (start := _counted_from(trial)) is not None]
    if not starts:
        return None
    start = max(starts)
    best = [int(trial.metrics.get("final/best_epoch", start)) for seed, trial in baseline.items() if seed in arm]
    before = tuple(epoch for epoch in best if epoch < start)
    return (start, before) if before else None


def _counted_from(trial: TrialRecord) -> int | None:
    """The first epoch that trained with the final heads; None where MLflow does not hold the heads of all epochs."""
    heads = [(epoch, count) for epoch, count in trial.history.get("model/heads", ()) if epoch > 0]
    if not heads or any(count is None for _, count in heads):
        return None
    return max((epoch for epoch, count in heads if count != heads[-1][1]), default=0) + 1


def _results(baseline: TrialBySeed, arm: TrialBySeed, start: int) -> tuple[list[TrialResult], list[TrialResult]]:
    """Both sides of each seed's pair, over the epochs from `start` on that both have: one may have stopped early."""
    sides: tuple[list[TrialResult], list[TrialResult]] = [], []
    for seed in sorted(baseline.keys() & arm.keys()):
        errors = [_errors(trials[seed], start) for trials in (baseline, arm)]
        common = errors[0].keys() & errors[1].keys()
        for results, by_epoch in zip(sides, errors, strict=True):
            least = min((by_epoch[epoch] for epoch in common), default=None)
            results.append(TrialResult(seed=seed, unfit="not compared", mse=least))
    return sides


def _errors(trial: TrialRecord, start: int) -> dict[int, float]:
    """Validation MSE by epoch, without the epochs whose error is no positive finite number."""
    history = trial.history.get("loss/val_mse", ())
    return {epoch: error for epoch, error in history if epoch >= start and error is not None and 0 < error < math.inf}
