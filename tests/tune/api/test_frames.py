"""A sweep's frames: one row a trial, an epoch, a pair, an arm, with the report's numbers."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
import pytest
from report_kit import sweep as record_of
from report_kit import trial

from tune.api.frames import PAIR_COLUMNS, VERDICT_COLUMNS
from tune.api.sweep import Sweep, as_sweep
from tune.report.arms import arm_rows
from tune.tracking.reader import SweepRecord

FAST = [trial("fast", seed, s=1.0 + seed / 100, metrics={"final/val_mse": 0.3 - seed / 1e4}) for seed in (1, 2, 3)]
NONE = [trial("none", seed, s=2.0, history={"loss/val_mse": [0.5, 0.3], "gate/batch": []}) for seed in (1, 2, 3)]


def swept(*trials: Any) -> tuple[Sweep, SweepRecord]:
    record = record_of(*trials)
    return as_sweep(record, "sqlite:///x.db"), record


def test_trials_have_their_configuration_and_results_with_types() -> None:
    params = {"model.d_model": "64", "train.learning_rate": "1e-05", "model.pre_norm": "True"}
    sweep, _ = swept(trial("fast", 2, params=params), trial("other", 1, status="oom", reason="too large"))
    first, second = sweep.trials.to_dict("records")
    assert (first["trial_id"], first["arm"], first["seed"], first["status"]) == ("pruning-fast-s2", "fast", 2, "done")
    assert (first["model.d_model"], first["train.learning_rate"], first["model.pre_norm"]) == (64, 1e-5, True)
    assert first["final/test_mse"] == 0.4 and first["final/epoch_all_windows_s"] == 2.0
    assert (second["status"], second["reason"]) == ("oom", "too large")
    assert math.isnan(second["final/test_mse"]) and second["seed"] == 1


def test_epochs_begin_at_one_and_hold_only_metrics_that_have_a_value_an_epoch() -> None:
    sweep, _ = swept(*NONE)
    assert list(sweep.epochs.columns) == ["trial_id", "arm", "seed", "epoch", "loss/val_mse"]
    assert sweep.epochs[sweep.epochs["seed"] == 2][["epoch", "loss/val_mse"]].values.tolist() == [[1, 0.5], [2, 0.3]]


def test_a_pair_has_both_times_and_errors_and_their_geometric_mean_is_the_reports_ratio() -> None:
    sweep, record = swept(*NONE, *FAST)
    assert sweep.pairs["seed"].tolist() == [1, 2, 3]
    assert sweep.pairs["ratio"].tolist() == [pytest.approx(2.0 / (1.0 + seed / 100)) for seed in (1, 2, 3)]
    assert sweep.pairs["error_difference"].tolist() == [pytest.approx(-seed / 3000) for seed in (1, 2, 3)]
    (fast,) = [row for row in arm_rows(record) if row.arm == "fast"]
    assert fast.comparison is not None and fast.comparison.ratio is not None
    mean = math.exp(sweep.pairs["ratio"].map(math.log).mean())
    assert mean == pytest.approx(fast.comparison.ratio)


def test_a_pair_that_does_not_count_says_why() -> None:
    shared = trial("fast", 2, tags={"timing_valid": "false"})
    sweep, _ = swept(*NONE, FAST[0], shared)
    why = sweep.pairs.set_index("seed")["unfit"]
    assert pd.isna(why[1]) and (why[2], why[3]) == ("on a shared device", "without a finished partner")
    assert sweep.pairs["ratio"].isna().tolist() == [False, True, True]


def test_verdicts_are_those_of_the_report() -> None:
    sweep, record = swept(*NONE, *FAST, trial("other", 1, status="unsupported", reason="no GPU"))
    verdicts = sweep.verdicts.set_index("arm")
    (fast,) = [row.comparison for row in arm_rows(record) if row.arm == "fast" and row.comparison]
    assert verdicts.loc["fast", "speed"] == fast.verdict == "faster"
    assert (verdicts.loc["fast", "ratio_low"], verdicts.loc["fast", "ratio_high"]) == fast.interval
    assert fast.accuracy is not None and verdicts.loc["fast", "error"] == fast.accuracy.verdict == "not_worse"
    assert verdicts.loc["none", "is_baseline"] and pd.isna(verdicts.loc["none", "speed"])
    assert (verdicts.loc["other", "status"], verdicts.loc["other", "reason"]) == ("unsupported", "no GPU")
    assert "fast" in (sweep.answer or "")


def test_a_sweep_without_trials_has_frames_with_the_same_columns() -> None:
    sweep, _ = swept()
    assert tuple(sweep.pairs.columns) == PAIR_COLUMNS and tuple(sweep.verdicts.columns) == VERDICT_COLUMNS
    assert len(sweep.trials) == len(sweep.epochs) == len(sweep.pairs) == len(sweep.verdicts) == 0
    assert sweep.pairs["ratio"].dtype == sweep.verdicts["epoch_s"].dtype == float
    assert sweep.answer is None


def test_printing_a_sweep_shows_its_report() -> None:
    sweep, _ = swept(*NONE, *FAST)
    assert sweep.answer is not None and sweep.answer.split(",")[0] in " ".join(str(sweep).split())
    assert len(sweep.report(verbose=True)) > len(sweep.report())
    assert repr(sweep) == "<Sweep pruning-1: done, 6 trials>"
    assert sweep.json()["sweep_id"] == "pruning-1"
