"""The report's first line: what all trials have in common."""

from __future__ import annotations

from dataclasses import replace

from report_kit import sweep as _sweep
from report_kit import trial as _trial

from tune.report.arms import arm_rows
from tune.report.notes import notes
from tune.tracking.reader import SweepRecord


def _told(record: SweepRecord) -> list[str]:
    return notes(record, arm_rows(record))


def test_what_all_trials_share_comes_first_and_what_differs_or_is_not_known_is_not_in_it() -> None:
    same = {"data.dataset": "ETTm1", "train.precision": "bf16"}
    trials = [_trial("none", 1, params=same | {"train.batch_size": "32", "train.engine": "graph"})]
    trials += [_trial("fast", seed, params=same | {"train.batch_size": "64"}) for seed in (1, 2)]
    assert _told(_sweep(*trials))[0] == "All trials: data ETTm1, 3 epochs, bf16; 2 seeds."
    assert not any(note.startswith("All trials") for note in _told(_sweep(replace(_trial(), params={}))))
