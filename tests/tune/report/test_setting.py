"""The first line of the notes: what all trials share."""

from __future__ import annotations

from dataclasses import replace

from report_kit import sweep as _sweep
from report_kit import trial as _trial

from tune.report.arms import arm_rows
from tune.report.notes import notes
from tune.report.setting import batch_note, untested_note, whether_tested
from tune.report.values import as_json
from tune.tracking.reader import SweepRecord


def _notes(record: SweepRecord) -> list[str]:
    return notes(record, arm_rows(record))


def test_the_first_note_holds_what_all_trials_share_and_nothing_that_differs_or_is_unknown() -> None:
    same = {"data.dataset": "ETTm1", "train.precision": "bf16"}
    trials = [_trial("none", 1, params=same | {"train.batch_size": "32", "train.engine": "graph"})]
    trials += [_trial("fast", seed, params=same | {"train.batch_size": "64"}) for seed in (1, 2)]
    assert _notes(_sweep(*trials))[0] == "All trials: data ETTm1, 3 epochs, bf16; 2 seeds."
    assert not any(note.startswith("All trials") for note in _notes(_sweep(replace(_trial(), params={}))))


def test_a_line_says_the_batch_of_arms_that_name_none_and_none_where_every_arm_names_one() -> None:
    (line,) = batch_note(_sweep(_trial(), default_batch="16"))
    assert line.startswith(
        "Batch 16 is the default, in every arm that names none: the largest power of two, at most 128"
    )
    assert batch_note(_sweep(_trial())) == []


def test_a_sweep_with_no_test_says_that_the_test_set_was_not_read() -> None:
    unread = replace(_trial(), params={"train.read_test": "false"}, metrics={"final/val_mse": 0.3})
    assert as_json(_sweep(unread))["test_set"] == whether_tested(_sweep(unread)) == "not read"
    assert "Test set not read (--no-test): there are no test errors." in _notes(_sweep(unread))
    assert not [note for note in _notes(_sweep(unread)) if "Test MSE" in note]
    for known in (_sweep(_trial()), _sweep(_trial(params={"train.read_test": "true"}))):  # earlier versions read it
        assert whether_tested(known) == "read" and untested_note(known) == []
