"""The report's answer to what a late pruning costs: its error beside the baseline's of the very same epochs.

An arm whose heads leave in the course of training is judged by its best epoch after that. Where the baseline's own best
epoch lies before, the two errors also differ by how long was trained, as where both begin to overfit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tune.pairs import Run, compare_each
from tune.report_pairs import accuracy_text
from tune.tracking import TrialRecord


@dataclass(frozen=True, kw_only=True)
class _Late:
    """An arm that the baseline's best epoch preceded."""

    counted_from: int  # first epoch of the arm that counts
    baseline_best: tuple[int, ...]  # best epochs of the baseline that lie before
    pairs: tuple[list[Run], list[Run]]  # baseline and arm, errors of the best epoch from counted_from


def same_epochs_notes(arms: Mapping[str, Sequence[TrialRecord]], baseline: str | None, margin: float) -> list[str]:
    """One line, or none where every best epoch of the baseline counts for all arms."""
    own = _done(arms.get(baseline or "", ()))
    late = {arm: one for arm, trials in arms.items() if arm != baseline and (one := _late(own, _done(trials)))}
    if not late:
        return []
    found = compare_each({arm: one.pairs for arm, one in late.items()}, margin=margin)
    by_start: dict[int, list[str]] = {}
    for arm, one in late.items():
        by_start.setdefault(one.counted_from, []).append(f"{arm} {accuracy_text(found[arm].accuracy)}")
    told = "; ".join(f"from epoch {start} on {', '.join(texts)}" for start, texts in sorted(by_start.items()))
    best = sorted({epoch for one in late.values() for epoch in one.baseline_best})
    when = f"epoch {best[0]}" if len(best) == 1 else f"epochs {best[0]} to {best[-1]}"
    return [
        f"Heads left after the best epoch of {baseline} ({when}), so 'accuracy' also compares how long was trained. "
        f"Validation MSE beside {baseline}'s best of the same epochs: {told}."
    ]


def _done(trials: Sequence[TrialRecord]) -> dict[str, TrialRecord]:
    """By seed. Trials of a search are in no pairs (`tune.report_pairs`)."""
    return {
        trial.tags["seed"]: trial
        for trial in trials
        if trial.status == "done" and "seed" in trial.tags and trial.tags.get("stage") != "search"
    }


def _late(baseline: Mapping[str, TrialRecord], arm: Mapping[str, TrialRecord]) -> _Late | None:
    """None where no seed's best epoch of the baseline precedes what counts of the arm, or that is not known."""
    starts = [start for trial in arm.values() if (start := _counted_from(trial)) is not None]
    if not starts:
        return None
    start = max(starts)
    best = [int(trial.metrics.get("final/best_epoch", start)) for seed, trial in baseline.items() if seed in arm]
    before = tuple(epoch for epoch in best if epoch < start)
    if not before:
        return None
    both = (
        [_run(seed, trial, start) for seed, trial in baseline.items()],
        [_run(seed, arm[seed], start) for seed in arm],
    )
    return _Late(counted_from=start, baseline_best=before, pairs=both)


def _counted_from(trial: TrialRecord) -> int | None:
    """The first epoch that trained with the heads of the end; None where MLflow does not hold all of them."""
    heads = [(epoch, count) for epoch, count in trial.history.get("model/heads", ()) if epoch > 0]
    if not heads or any(count is None for _, count in heads):
        return None
    return max((epoch for epoch, count in heads if count != heads[-1][1]), default=0) + 1


def _run(seed: str, trial: TrialRecord, start: int) -> Run:
    errors = [mse for epoch, mse in trial.history.get("loss/val_mse", ()) if epoch >= start and mse is not None]
    usable = [mse for mse in errors if 0 < mse < math.inf]
    return Run(seed=seed, unfit="not compared", mse=min(usable, default=None))
