"""The report's answer to what a late pruning costs: its error beside the baseline's of the very same epochs.

An arm whose heads leave in the course of training is judged by its best epoch after that. Where the baseline's own best
epoch lies before, the two errors also differ by how long was trained, as where both begin to overfit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tune.report.comparisons import accuracy_text
from tune.stats.pairs import Accuracy, Run, compare_each
from tune.tracking.reader import TrialRecord


@dataclass(frozen=True, kw_only=True)
class SameEpochs:
    """An arm whose heads left after the baseline's best epoch, beside the baseline's best of the epochs that count."""

    counted_from: int  # first of them
    baseline_best: tuple[int, ...]  # best epochs of the baseline that lie before
    accuracy: Accuracy | None  # None without a pair whose errors are known


def same_epochs(trials: Iterable[TrialRecord], baseline: str | None, margin: float) -> dict[str, SameEpochs]:
    """By arm; arms for which every best epoch of the baseline counts are not in it. `margin` as in `tune.stats.pairs`."""
    arms: dict[str, dict[str, TrialRecord]] = {}
    for trial in trials:
        if trial.status == "done" and {"arm", "seed"} <= trial.tags.keys() and trial.tags.get("stage") != "search":
            arms.setdefault(trial.tags["arm"], {})[trial.tags["seed"]] = trial
    own = arms.pop(baseline or "", {})
    late = {arm: found for arm, done in arms.items() if (found := _late(own, done))}
    compared = compare_each({arm: _runs(own, arms[arm], start) for arm, (start, _) in late.items()}, margin=margin)
    return {
        arm: SameEpochs(counted_from=start, baseline_best=best, accuracy=compared[arm].accuracy)
        for arm, (start, best) in late.items()
    }


def same_epochs_note(found: Mapping[str, SameEpochs], baseline: str | None) -> list[str]:
    """One line, or none where there is nothing to tell."""
    if not found:
        return []
    by_start: dict[int, list[str]] = {}
    for arm, one in found.items():
        by_start.setdefault(one.counted_from, []).append(f"{arm} {accuracy_text(one.accuracy)}")
    told = "; ".join(f"from epoch {start} on {', '.join(texts)}" for start, texts in sorted(by_start.items()))
    best = sorted({epoch for one in found.values() for epoch in one.baseline_best})
    when = f"epoch {best[0]}" if len(best) == 1 else f"epochs {best[0]} to {best[-1]}"
    return [
        f"Heads left after the best epoch of {baseline} ({when}), so 'accuracy' also compares how long was trained. "
        f"Validation MSE beside {baseline}'s best of the same epochs: {told}."
    ]


def _late(baseline: Mapping[str, TrialRecord], arm: Mapping[str, TrialRecord]) -> tuple[int, tuple[int, ...]] | None:
    """From which epoch on the arm counts, and the baseline's best epochs before; None where there are none."""
    starts = [start for trial in arm.values() if (start := _counted_from(trial)) is not None]
    if not starts:
        return None
    start = max(starts)
    best = [int(trial.metrics.get("final/best_epoch", start)) for seed, trial in baseline.items() if seed in arm]
    before = tuple(epoch for epoch in best if epoch < start)
    return (start, before) if before else None


def _counted_from(trial: TrialRecord) -> int | None:
    """The first epoch that trained with the heads of the end; None where MLflow does not hold all of them."""
    heads = [(epoch, count) for epoch, count in trial.history.get("model/heads", ()) if epoch > 0]
    if not heads or any(count is None for _, count in heads):
        return None
    return max((epoch for epoch, count in heads if count != heads[-1][1]), default=0) + 1


def _runs(
    baseline: Mapping[str, TrialRecord], arm: Mapping[str, TrialRecord], start: int
) -> tuple[list[Run], list[Run]]:
    """Both sides of each seed's pair, over the epochs from `start` on that both have: one may have stopped early."""
    both: tuple[list[Run], list[Run]] = [], []
    for seed in sorted(baseline.keys() & arm.keys()):
        errors = [_errors(side[seed], start) for side in (baseline, arm)]
        common = errors[0].keys() & errors[1].keys()
        for runs, of_epoch in zip(both, errors, strict=True):
            least = min((of_epoch[epoch] for epoch in common), default=None)
            runs.append(Run(seed=seed, unfit="not compared", mse=least))
    return both


def _errors(trial: TrialRecord, start: int) -> dict[int, float]:
    """By epoch; one whose error is no number is as if it had not been."""
    history = trial.history.get("loss/val_mse", ())
    return {epoch: error for epoch, error in history if epoch >= start and error is not None and 0 < error < math.inf}
