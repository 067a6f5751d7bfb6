"""From MLflow's records to the table, its notes, the summary and the JSON file."""

from __future__ import annotations

import io
import json
import math
from typing import Any

import pytest
from report_kit import GPU_A, ON_A
from report_kit import sweep as _sweep
from report_kit import trial as _trial

from tune.report.arms import ArmRow, arm_rows
from tune.report.notes import notes
from tune.report.render.markdown import markdown
from tune.report.render.terminal import print_report
from tune.report.values import as_json, parent_metrics
from tune.tracking.reader import SweepRecord, TrialRecord

ON_B = {"gpu_uuid": "GPU-bbbb", "device": "NVIDIA H100"}
ON_CPU = {"gpu_uuid": "None", "device": "cpu", "hostname": "node-1"}


def _bare(trial: TrialRecord) -> TrialRecord:
    """The trial as it is after the driver died before recording more than its id."""
    fields = {name: getattr(trial, name) for name in TrialRecord.__dataclass_fields__}
    empty: dict[str, Any] = {"tags": {"trial_id": trial.trial_id}, "params": {}, "metrics": {}, "status": "planned"}
    return TrialRecord(**{**fields, **empty})


def _row(record: SweepRecord, arm: str = "fast") -> ArmRow:
    return next(row for row in arm_rows(record) if row.arm == arm)


def _ratio(record: SweepRecord, arm: str = "fast") -> float | None:
    compared = _row(record, arm).comparison
    return compared.ratio if compared else None


def _notes(record: SweepRecord) -> list[str]:
    return notes(record, arm_rows(record))


def _table(record: SweepRecord) -> str:
    stream = io.StringIO()
    print_report(record, stream, verbose=True)
    return stream.getvalue()


def test_arms_come_in_the_order_of_the_definition_with_means_over_their_finished_trials() -> None:
    record = _sweep(
        _trial("fast", 1, metrics={"final/test_mse": 0.2}),
        _trial("unlisted"),
        _trial("fast", 2, metrics={"final/test_mse": 0.4}),
        _trial("fast", 3, status="oom", reason="no memory"),
        _trial("none"),
    )
    assert [row.arm for row in arm_rows(record)] == ["none", "fast", "unlisted"]
    row = _row(record)
    assert (row.trials, row.status, row.reason) == (2, "done 2, oom 1", "no memory")
    assert row.test_mse == pytest.approx(0.3)


def test_the_ratio_is_the_geometric_mean_over_pairs_of_equal_seeds() -> None:
    record = _sweep(
        _trial("none", 1, s=4.0), _trial("none", 2, s=9.0), _trial("fast", 1, s=2.0), _trial("fast", 2, s=1.0),
        _trial("fast", 3, s=0.001),  # no baseline of this seed
    )  # fmt: skip
    assert _ratio(record) == pytest.approx(math.sqrt(2 * 9))
    row = _row(record, "none")
    assert row.is_baseline and row.comparison is None


@pytest.mark.parametrize(
    ("first", "second", "paired"),
    [
        (ON_A, ON_A, True),
        (ON_A, ON_B, False),  # the same model, but not the same GPU
        (ON_CPU, ON_CPU, True),
        (ON_CPU, ON_CPU | {"device": "another"}, False),
        (ON_CPU, ON_CPU | {"hostname": "node-2"}, False),
        (ON_A, ON_CPU, False),
    ],
    ids=["same GPU", "two GPUs", "same CPU", "two CPUs", "two hosts", "GPU and CPU"],
)
def test_a_pair_is_two_trials_on_one_device(first: dict[str, str], second: dict[str, str], paired: bool) -> None:
    record = _sweep(_trial("none", s=4.0, tags=first), _trial("fast", s=2.0, tags=second))
    assert _ratio(record) == (pytest.approx(2.0) if paired else None)
    note = "Pairs that 'x baseline' leaves out: fast: 1 on different devices."
    assert (note in _notes(record)) is not paired


def test_pairs_across_gpus_are_left_out_of_a_ratio_and_counted_in_a_note() -> None:
    record = _sweep(
        _trial("none", 1, s=4.0), _trial("fast", 1, s=2.0),
        _trial("none", 2, s=4.0), _trial("fast", 2, s=0.1, tags=ON_B),
    )  # fmt: skip
    assert _ratio(record) == pytest.approx(2.0)
    assert "Pairs that 'x baseline' leaves out: fast: 1 on different devices." in _notes(record)


def test_a_note_says_in_what_the_environments_of_trials_differ() -> None:
    ran_on = [{"versions": {"torch": torch, "ray": "2.60"}, "code_sha256": "c"} for torch in ("2.11", "2.12")]
    tags = [{"environment": json.dumps(each)} for each in ran_on]
    record = _sweep(_trial("none", tags=tags[0]), _trial("fast", tags=tags[1]), _trial("other", tags=tags[0]))
    (line,) = (line for line in _notes(record) if "environment" in line)
    assert line.startswith("The sweep was resumed in another environment: torch 2.11 / 2.12; ")
    same = _sweep(_trial("none", tags=tags[0]), _trial("fast", tags=tags[0]))
    assert not any("environment" in line for line in _notes(same))


def test_pairs_that_a_lost_gpu_cost_are_named_with_the_reason() -> None:
    why = f"{GPU_A}, on which its block began, is gone"
    moved = ON_B | {"moved_because": why}
    record = _sweep(
        _trial("none", 1), _trial("fast", 1, tags=moved), _trial("other", 1, tags=moved),
        _trial("none", 2, tags=moved), _trial("fast", 2), _trial("other", 2, tags=moved),
        _trial("none", 3), _trial("fast", 3, tags=ON_B),  # spread, not moved
        _trial("none", 4, status="oom"), _trial("fast", 4, tags=moved),
    )  # fmt: skip
    lines = [line for line in _notes(record) if line.startswith("Seed ")]
    assert lines == [
        f"Seed 1 makes no pair of none with fast, other, not on its GPU: {why}.",
        f"Seed 2 makes no pair of none with fast, not on its GPU: {why}.",
    ]


@pytest.mark.parametrize(
    ("unfit", "why"),
    [
        ({"tags": {"timing_valid": "false"}}, "on a shared device"),
        ({"tags": {"timing_valid": "unknown"}}, "not known to be alone on their device"),
        ({"status": "failed"}, "not done"),
        ({"s": None}, "without an epoch time"),
        ({"s": math.nan}, "without an epoch time"),
        ({"s": 0.0}, "without an epoch time"),
    ],
    ids=str,
)
@pytest.mark.parametrize("side", ["none", "fast"])
def test_a_trial_that_is_not_done_or_not_timed_alone_makes_no_pair(side: str, unfit: dict[str, Any], why: str) -> None:
    record = _sweep(*(_trial(arm, **(unfit if arm == side else {})) for arm in ("none", "fast")))
    compared = _row(record).comparison
    assert compared is not None and compared.ratio is None and compared.left_out == {why: 1}


def test_arms_whose_pairs_are_left_out_for_the_same_reason_are_named_together() -> None:
    shared = {"timing_valid": "false"}
    record = _sweep(*(_trial(arm, tags=shared if arm != "none" else {}) for arm in ("none", "fast", "other")))
    assert "Pairs that 'x baseline' leaves out: fast, other: 1 on a shared device." in _notes(record)


def test_a_verdict_stands_beside_its_ratio_interval_and_accuracy() -> None:
    """Log ratios 1.40, 1.43, 1.46: by scipy.stats.ttest_1samp(...).confidence_interval(0.95) 1.357 to 1.506."""
    times = {"none": (1.40, 1.43, 1.46), "fast": (1.0, 1.0, 1.0)}
    record = _sweep(*(_trial(arm, seed, s=s) for arm, row in times.items() for seed, s in enumerate(row)))
    assert "| 1.43x (1.36-1.51) | faster | not worse (+0 %, at most +0 %) |" in markdown(record)
    assert "| baseline | - | - |" in markdown(record)


def test_two_pairs_are_a_ratio_without_an_interval_and_no_verdict() -> None:
    record = _sweep(*(_trial(arm, seed) for arm in ("none", "fast") for seed in (1, 2)))
    assert "| 1.00x | too few pairs (2, 3 needed) | too few pairs (+0 %) |" in markdown(record)


def test_equal_arms_are_too_close_to_call_in_words_not_as_a_code() -> None:
    record = _sweep(*(_trial(arm, seed) for arm in ("none", "fast") for seed in (1, 2, 3)))
    text = markdown(record)
    assert "| 1.00x (1.00-1.00) | too close to call | not worse (+0 %, at most +0 %) |" in text
    assert "undecided" not in text and "not_worse" not in text


def test_the_family_of_holm_and_what_too_close_to_call_means_are_in_a_note() -> None:
    record = _sweep(*(_trial(arm, seed) for arm in ("none", "fast", "other") for seed in (1, 2, 3)))
    (note,) = (note for note in _notes(record) if note.startswith("'x baseline'"))
    assert ", 3 pairs an arm, with a t interval (95 %, Holm over 2 arms). " in note
    assert "'too close to call' does not mean equal" in note


@pytest.mark.parametrize(
    ("fast", "other", "counts"),
    [
        (5, 5, "5 pairs an arm, with a t interval (95 %, Holm over 2 arms)"),
        (5, 4, "4 to 5 pairs an arm, with a t interval (95 %, Holm over 2 arms)"),
        (5, 1, "1 to 5 pairs an arm, with a t interval where there are at least 3 (95 %)"),
        (1, 1, "1 pair an arm: a t interval takes 3"),
        (0, 0, "no pair an arm: a t interval takes 3"),
    ],
)
def test_a_note_says_how_many_pairs_there_were_and_which_of_them_have_an_interval(
    fast: int, other: int, counts: str
) -> None:
    done = {"none": 5, "fast": fast, "other": other}
    trials = [
        _trial(arm, seed, status="done" if seed <= count else "oom")
        for arm, count in done.items()
        for seed in range(1, 6)
    ]
    (note,) = (note for note in _notes(_sweep(*trials)) if note.startswith("'x baseline'"))
    assert f"pairs of one seed on one device, {counts}. " in note


@pytest.mark.parametrize(
    ("excess", "shown"),
    [(0.000004, "+0 %"), (-0.0000099, "-0.001 %"), (0.00039, "+0.039 %"), (-0.00125017, "-0.13 %"), (0.2, "+20 %")],
)
def test_a_difference_in_error_is_shown_to_a_thousandth_of_a_percent(excess: float, shown: str) -> None:
    trials = [_trial("none"), _trial("fast", metrics={"final/val_mse": 0.3 * (1 + excess)})]
    assert f"| too few pairs ({shown}) |" in markdown(_sweep(*trials))


@pytest.mark.parametrize("fast", [_trial("fast"), _trial("fast", tags=ON_B)], ids=["one pair", "no pair"])
def test_a_note_explains_x_baseline_without_a_verdict_too(fast: TrialRecord) -> None:
    (note,) = (note for note in _notes(_sweep(_trial("none"), fast)) if note.startswith("'x baseline'"))
    assert note.startswith(
        "'x baseline' is the baseline's 'all windows s/epoch' over the arm's: above 1 the arm is faster. "
    )
    assert "'x baseline, total' is the same for all training epochs together." in note


def test_from_ten_pairs_a_note_holds_the_bootstrap() -> None:
    times = {arm: [base + 0.01 * (seed % 3) for seed in range(10)] for arm, base in (("none", 2.0), ("fast", 1.0))}
    trials = [_trial(arm, seed, s=s) for arm, row in times.items() for seed, s in enumerate(row)]
    assert any(note.startswith("Bootstrap intervals (BCa") and "fast 1.9" in note for note in _notes(_sweep(*trials)))
    assert not any(note.startswith("Bootstrap") for note in _notes(_sweep(*trials[:9], *trials[10:])))


@pytest.mark.parametrize(
    ("tags", "shown"),
    [
        (["true", "true"], "2.000"),
        (["true", "false"], "2.000 (shared)"),
        (["unknown", "false"], "2.000 (shared)"),
        (["true", "unknown"], "2.000 (not known to be alone)"),
    ],
    ids=str,
)
def test_a_time_has_a_remark_unless_every_trial_was_alone(tags: list[str], shown: str) -> None:
    trials = [_trial("fast", seed, tags={"timing_valid": tag}) for seed, tag in enumerate(tags)]
    assert f"| {shown} |" in markdown(_sweep(*trials))


def test_the_column_and_the_note_say_that_the_time_is_of_training_only() -> None:
    record = _sweep(_trial())
    assert "all windows s/epoch" in _table(record)
    assert any("training part of an epoch, without validation" in note for note in _notes(record))


@pytest.mark.parametrize(("naive", "verb"), [(0.5, "beats"), (0.39, "does not beat all of")])
def test_the_notes_compare_the_baseline_with_the_naive_forecasts(naive: float, verb: str) -> None:
    metrics = {"final/naive_last_value_mse": naive, "final/naive_last_day_mse": 0.9}
    (note,) = (note for note in _notes(_sweep(_trial(metrics=metrics))) if "naive" in note)
    assert note.startswith(f"Test MSE of 'none' with seed 1, 0.4000, {verb} the naive forecasts: ")


def test_the_notes_give_the_reason_of_what_did_not_run() -> None:
    record = _sweep(_trial(), _trial("fast", status="unsupported", reason="needs a GPU"))
    assert "fast: unsupported: needs a GPU" in _notes(record)
    assert _row(record).epoch_s is None


def test_an_arm_that_computes_the_same_as_another_says_so() -> None:
    record = _sweep(_trial("fast"), _trial("other", tags={"same_as": "fast"}))
    assert "other is the same computation as fast: same removals at 3 epochs." in _notes(record)


def test_a_trial_without_its_tags_has_a_row_and_a_note_of_its_own() -> None:
    record = _sweep(_trial("none"), _trial("fast"), _bare(_trial("other")))
    assert [row.arm for row in arm_rows(record)] == ["none", "fast", "pruning-other-s1"]
    assert any("no arm or seed of pruning-other-s1" in note for note in _notes(record))
    assert "pruning-other-s1" in _table(record)


def test_a_sweep_without_its_tags_is_reported_and_its_gaps_are_named() -> None:
    complete = _sweep(_trial("none"), _trial("fast"))
    record = SweepRecord(**{**{name: getattr(complete, name) for name in complete.__dataclass_fields__}, "tags": {}})
    assert "(device not recorded)" in _table(record) and "(question not recorded)" in markdown(record)
    assert any("which arm is the baseline" in note for note in _notes(record))
    assert as_json(record)["environment"] is None and as_json(record)["sweep"] is None
    assert {row.comparison for row in arm_rows(record)} == {None}


def test_the_table_is_not_cut_where_there_is_no_terminal() -> None:
    record = _sweep(_trial("fast", tags={"timing_valid": "unknown"}, metrics={"final/parameters": 123_456_789.0}))
    text = _table(record)
    assert "2.000 (not known to be alone)" in text and "123,456,789" in text and "…" not in text


def test_markdown_holds_the_question_a_row_per_arm_and_each_note_as_an_item() -> None:
    record = _sweep(_trial("none"), _trial("fast"))
    lines = markdown(record).splitlines()
    assert "How fast?" in lines
    assert sum(line.startswith(("| none | done |", "| fast | done |")) for line in lines) == 2
    assert [line[2:] for line in lines if line.startswith("- ")] == _notes(record)


def test_the_parent_run_gets_each_arms_summary_and_none_where_there_is_none() -> None:
    metrics = parent_metrics(_sweep(_trial("none", s=4.0), _trial("fast", s=2.0), _trial("other", status="oom")))
    assert (metrics["arm_test_mse/fast"], metrics["arm_val_mse/fast"]) == (0.4, 0.3)
    assert (metrics["arm_epoch_s/fast"], metrics["arm_speedup/fast"]) == (2.0, pytest.approx(2.0))
    assert metrics["arm_speedup/none"] == 1.0
    assert metrics["arm_speedup/other"] is None and metrics["arm_test_mse/other"] is None
    assert metrics["arm_speedup_low/fast"] is None  # one pair has no interval


def test_the_parent_run_gets_the_interval_of_a_speedup() -> None:
    times = {"none": (1.40, 1.43, 1.46), "fast": (1.0, 1.0, 1.0)}
    record = _sweep(*(_trial(arm, seed, s=s) for arm, row in times.items() for seed, s in enumerate(row)))
    metrics = parent_metrics(record)
    bounds = (metrics["arm_speedup_low/fast"], metrics["arm_speedup_high/fast"])
    assert bounds == (pytest.approx(1.357, abs=1e-3), pytest.approx(1.506, abs=1e-3))


def test_the_whole_training_has_a_ratio_of_its_own_from_pairs() -> None:
    """An arm that is twice as fast in its median epoch and no faster in all: heads left late."""
    totals = [{"metrics": {"final/train_total_s": 8.0 + seed / 10}} for seed in (1, 2, 3)]
    trials = [_trial("none", seed, s=2.0, **more) for seed, more in enumerate(totals)]
    trials += [_trial("fast", seed, s=1.0, **more) for seed, more in enumerate(totals)]
    (table_line,) = (line for line in markdown(_sweep(*trials)).splitlines() if line.startswith("| fast | done |"))
    assert "| 2.00x (2.00-2.00) |" in table_line and table_line.endswith("| 8.20 | 1.00x (1.00-1.00) |")
    metrics = parent_metrics(_sweep(*trials))
    assert (metrics["arm_speedup/fast"], metrics["arm_speedup_total/fast"]) == (pytest.approx(2.0), 1.0)
    assert metrics["arm_speedup_total_low/fast"] == metrics["arm_speedup_total_high/fast"] == 1.0
    assert as_json(_sweep(*trials))["total_comparisons"]["fast"]["verdict"] == "undecided"


def test_a_trial_without_a_total_time_is_left_out_of_the_total_only() -> None:
    row = _row(_sweep(_trial("none", metrics={"final/train_total_s": 8.0}), _trial("fast")))
    assert row.comparison is not None and row.comparison.ratio == 1.0
    assert row.total_comparison is not None and row.total_comparison.left_out == {"without a total time": 1}


def test_no_text_of_the_store_is_markup_in_markdown() -> None:
    record = _sweep(_trial("none"), _trial("fast", status="failed", reason="a | b <img src=x> ![p](http://x) `c`\nd"))
    text = markdown(record)
    assert "<img" not in text and "![p](" not in text and "\nd" not in text
    assert "a \\| b &lt;img src=x&gt; !\\[p\\](http://x) \\`c\\` d |" in text
