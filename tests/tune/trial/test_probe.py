"""A probe times steps as a trial's epochs are timed; it trains, evaluates and reports nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from trial_kit import GRADUAL, ONE_CYCLE, Recorder, small_job

from tune.measure.timer import EpochTimes
from tune.trial import session
from tune.trial.job import TRAINING, HandOver
from tune.trial.probe import LEAST_EPOCHS, segments_s
from tune.trial.run import run_trial


def _probe(folder: Path, *, steps: int = 20, **fields: Any) -> Recorder:
    folder.mkdir(exist_ok=True)
    recorder = Recorder(folder)
    run_trial(replace(small_job(folder, **fields), probe_steps=steps), recorder)
    return recorder


def _times(starts_ms: list[float]) -> EpochTimes:
    zeros = tuple(0.0 for _ in starts_ms)
    return EpochTimes(
        began_s=0.0, train_s=1.0, feed_host_s=0.0, tail_ms=0.0, start_ms=tuple(starts_ms), step_ms=zeros,
        gap_ms=zeros, wait_ms=zeros, h2d_ms=zeros,
    )  # fmt: skip


def test_a_probe_reports_only_its_end_with_times_and_without_errors_of_forecasts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a probe evaluated something")

    monkeypatch.setattr(session.Session, "_evaluate", refuse)
    done = _probe(tmp_path / "a")
    (end,) = done.reports
    assert (end["status"], end["reason"]) == ("done", None)
    metrics = end["metrics"]
    assert metrics["final/probe_step_s"] > 0 and metrics["final/probe_spread_pct"] >= 0
    assert not [name for name in metrics if "mse" in name or "mae" in name]
    assert end["tags"]["timing_valid"] == "true" and end["tags"]["gate"].startswith("passed")
    assert list((tmp_path / "a").glob("report-*")) == []  # no folder comes with it


def test_short_epochs_are_probed_whole_and_their_time_is_of_all_training_windows(tmp_path: Path) -> None:
    (end,) = _probe(tmp_path / "a").reports
    metrics = end["metrics"]
    per_epoch = metrics["final/steps_per_epoch"]
    assert per_epoch <= 20 and metrics["final/probe_steps"] == per_epoch * max(LEAST_EPOCHS, 20 // per_epoch)
    epoch_s = metrics["final/probe_step_s"] * per_epoch
    trained = metrics["final/windows_per_epoch"]
    assert trained == 256 * per_epoch
    windows = metrics["final/epoch_all_windows_s"] / epoch_s * trained
    assert windows == pytest.approx(round(windows)) and trained <= windows < trained + 256


def test_of_long_epochs_only_the_steps_that_were_asked_for_are_timed(tmp_path: Path) -> None:
    (end,) = _probe(tmp_path / "a", train__batch_size=16, train__epochs=1, **ONE_CYCLE).reports
    assert end["status"] == "done", end["reason"]
    metrics = end["metrics"]
    assert metrics["final/probe_steps"] == 20 < metrics["final/steps_per_epoch"]
    assert metrics["final/epoch_all_windows_s"] > metrics["final/probe_step_s"] * metrics["final/steps_per_epoch"]


def test_a_probe_times_the_last_number_of_heads(tmp_path: Path) -> None:
    (end,) = _probe(tmp_path / "a", train__epochs=4, **GRADUAL).reports
    assert (end["status"], end["metrics"]["final/heads"]) == ("done", 2), end["reason"]


def test_a_warm_up_for_a_probe_ends_before_any_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session.Session, "time_steps", lambda *_: pytest.fail("it timed a step"))
    recorder = Recorder(tmp_path)
    job = replace(small_job(tmp_path, train__epochs=1), probe_steps=20, warm_up=TRAINING)
    with pytest.raises(HandOver):
        run_trial(job, recorder)
    assert recorder.reports == []


def test_a_process_that_ran_the_gate_leaves_the_probe_to_a_fresh_one(tmp_path: Path) -> None:
    job = replace(small_job(tmp_path, train__epochs=1), probe_steps=20, may_hand_over=True)
    job = replace(job, gate_dir=str(tmp_path / "gate"))
    with pytest.raises(HandOver):
        run_trial(job, Recorder(tmp_path / "first"))
    again = Recorder(tmp_path / "again")
    run_trial(job, again)
    assert again.final["status"] == "done" and again.final["tags"]["gate_verdict"] == "cached"


def test_what_cannot_run_is_reported_as_for_a_trial(tmp_path: Path) -> None:
    (end,) = _probe(tmp_path / "a", model__attention="sdpa_efficient").reports
    assert end["status"] == "unsupported" and "no CPU kernel" in end["reason"]


def test_a_step_lasts_to_the_next_one_in_each_part_of_a_run() -> None:
    starts = [2.0 * step for step in range(51)]
    assert segments_s(_times(starts)) == pytest.approx([0.002] * 10)
    stalled = [start + (500.0 if step > 7 else 0.0) for step, start in enumerate(starts)]
    parts = segments_s(_times(stalled))
    assert sorted(parts)[:9] == pytest.approx([0.002] * 9) and max(parts) > 0.1  # one stall is in one part


def test_a_short_run_has_fewer_parts() -> None:
    assert segments_s(_times([0.0, 1.0])) == pytest.approx([0.001])
    assert len(segments_s(_times([0.0, 1.0, 3.0, 6.0]))) == 3
