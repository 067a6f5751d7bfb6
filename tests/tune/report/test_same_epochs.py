"""What the report says of arms whose heads left after the baseline's best epoch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
from report_kit import timed

from tune.report.answer import sweep_answer
from tune.report.arms import arm_rows
from tune.report.notes import notes
from tune.report.same_epochs import same_epochs, same_epochs_note
from tune.tracking.reader import SweepRecord, TrialRecord

OVERFITS = (0.30, 0.20, 0.40, 0.50)  # best in epoch 2


def _trial(
    arm: str, errors: Sequence[float], *, heads: Sequence[float] = (), seed: int = 1, status: str = "done",
    s: float = 1.0, **tags: str,
) -> TrialRecord:  # fmt: skip
    heads = heads or [4.0] * len(errors)
    start = max((epoch for epoch, count in enumerate(heads, 1) if count != heads[-1]), default=0) + 1
    best = min(range(start, len(errors) + 1), key=lambda epoch: errors[epoch - 1])
    history = {"loss/val_mse": list(enumerate(errors, 1)), "model/heads": list(enumerate(heads, 1))}
    return TrialRecord(
        trial_id=f"{arm}-s{seed}", run_id="r", name="n", status=status, reason="", params={},
        tags={"arm": arm, "seed": str(seed), "timing_valid": "true", **tags},
        metrics={"final/best_epoch": float(best), "final/val_mse": errors[best - 1], **timed(s)},
        history=history,
    )  # fmt: skip


def _lines(*trials: TrialRecord) -> list[str]:
    return same_epochs_note(same_epochs(trials, "none", 0.01), "none")


def _seeds(arm: str, errors: Sequence[float], **more: Any) -> list[TrialRecord]:
    return [_trial(arm, [error * (1 + seed / 10) for error in errors], seed=seed, **more) for seed in (1, 2, 3)]


def test_an_arm_pruned_after_the_baselines_best_epoch_is_compared_in_the_same_epochs() -> None:
    [line] = _lines(*_seeds("none", OVERFITS), *_seeds("late", (0.30, 0.20, 0.40, 0.50), heads=(4, 4, 3, 3)))
    assert line.startswith("Heads left after the best epoch of none (epoch 2), so 'accuracy' also compares how long")
    assert line.endswith("best of the same epochs: from epoch 3 on late not worse (+0 %, at most +0 %).")


def test_the_note_groups_arms_by_the_first_epoch_that_counts() -> None:
    late = _seeds("late", (0.30, 0.20, 0.44, 0.50), heads=(4, 4, 3, 3))
    later = _seeds("later", (0.30, 0.20, 0.40, 0.55), heads=(4, 4, 3, 2))
    [line] = _lines(*_seeds("none", OVERFITS), *later, *late)
    assert "from epoch 3 on late worse (+10 %, at least +10 %); from epoch 4 on later worse (+10 %" in line


def test_under_three_pairs_the_difference_has_no_verdict() -> None:
    [line] = _lines(_trial("none", OVERFITS), _trial("late", (0.3, 0.2, 0.42, 0.5), heads=(4, 4, 3, 3)))
    assert "late too few pairs (+5 %)" in line


@pytest.mark.parametrize(
    "trials",
    [
        [_trial("none", OVERFITS), _trial("from-the-start", OVERFITS, heads=(3, 3, 3, 3))],
        [_trial("none", (0.4, 0.3, 0.2, 0.1)), _trial("late", (0.4, 0.3, 0.2, 0.1), heads=(4, 4, 3, 3))],
        [_trial("none", OVERFITS), _trial("late", OVERFITS, heads=(4, 4, 3, 3), seed=2)],
        [_trial("none", OVERFITS), _trial("late", OVERFITS, heads=(4, 4, 3, 3), status="stopped")],
        [_trial("none", OVERFITS), _trial("late", OVERFITS, heads=(4, 4, 3, 3), stage="search")],
        [_trial("late", OVERFITS, heads=(4, 4, 3, 3))],
    ],
    ids=["pruned at the start", "best epoch later", "no pair", "not done", "of a search", "no baseline"],
)
def test_there_is_no_note_where_the_baselines_best_epoch_counts_or_no_pair_exists(trials: list[TrialRecord]) -> None:
    assert _lines(*trials) == []


def test_epochs_that_only_one_of_the_two_has_are_left_out() -> None:
    patient = _seeds("late", (0.30, 0.20, 0.44, 0.30), heads=(4, 4, 3, 3))
    [line] = _lines(*_seeds("none", OVERFITS[:3]), *patient)
    assert "from epoch 3 on late worse (+10 %" in line


def test_epochs_that_diverged_are_in_no_comparison() -> None:
    [line] = _lines(_trial("none", OVERFITS), _trial("late", (0.3, 0.2, math.inf, math.inf), heads=(4, 4, 3, 3)))
    assert "late -" in line


def _record(*trials: TrialRecord) -> SweepRecord:
    tags = {"sweep": "pruning", "baseline": "none", "environment": "{}"}
    return SweepRecord(
        sweep_id="s", run_id="p", name="n", status="done", tags=tags, params={}, metrics={}, trials=trials
    )


def test_the_notes_hold_the_comparison_of_the_same_epochs() -> None:
    record = _record(*_seeds("none", OVERFITS), *_seeds("late", OVERFITS, heads=(4, 4, 3, 3)))
    assert any(line.startswith("Heads left after the best epoch of none") for line in notes(record, arm_rows(record)))


def test_the_answer_holds_both_errors_of_an_arm_that_is_faster() -> None:
    record = _record(*_seeds("none", OVERFITS, s=2.0), *_seeds("late", OVERFITS, heads=(4, 4, 3, 3), s=1.0))
    line = sweep_answer(record, arm_rows(record))
    assert line is not None and line.endswith(
        "Faster, but not shown to keep the error: late 2.00x (2.00-2.00), worse (+100 %, at least +100 %) "
        "and in the same epochs not worse (+0 %, at most +0 %)."
    )
