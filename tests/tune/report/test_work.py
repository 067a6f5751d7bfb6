"""Speed is time per trained window, whatever a batch leaves out of an epoch; old sweeps are recomputed or refused."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_kit import sweep, timed, trial

from tune.report.arms import ArmRow, arm_rows
from tune.report.notes import notes
from tune.report.render.markdown import markdown
from tune.report.values import as_json, parent_metrics
from tune.report.work import EPOCH, MEDIAN, REFUSED, STEPS, WINDOWS, works
from tune.tracking.reader import SweepRecord, TrialRecord

ETTH1 = {"data.dataset": "ETTh1", "data.context_length": "512", "data.prediction_length": "96"}  # 8,033 windows
OWN = {"data.dataset": "/data/own.csv", "data.context_length": "24", "data.prediction_length": "6"}


def _old(
    arm: str, batch: int, windows: int | None, *, s: float = 2.0, seed: int = 1, task: Mapping[str, str] = OWN
) -> TrialRecord:
    """As a version before this rule stored it, which cut batches to the windows. None: without speed and time."""
    metrics = {}
    if windows is not None:
        used = min(batch, windows)
        metrics = {"time/train_s": 3.7, "speed/windows_per_s": windows // used * used / 3.7}
    params = {**task, "train.batch_size": str(batch)}
    record = trial(arm, seed, s=s, metrics=metrics, params=params)
    for name in (EPOCH, WINDOWS, STEPS):
        del record.metrics[name]
    return record


def _row(record: SweepRecord, arm: str) -> ArmRow:
    return next(row for row in arm_rows(record) if row.arm == arm)


def _ratio(record: SweepRecord, arm: str = "fast") -> float | None:
    comparison = _row(record, arm).comparison
    return comparison.ratio if comparison else None


def _new(arm: str, batch: int, *, s: float, seed: int = 1, total_s: float | None = None) -> TrialRecord:
    total = {} if total_s is None else {"final/train_total_s": total_s}
    return trial(arm, seed, s=None, metrics=timed(s, windows=1633, batch=batch) | total)


def test_an_epoch_that_is_shorter_only_because_it_trains_less_is_not_faster() -> None:
    """1,632 and 1,536 of 1,633 windows, both at 1,000 windows a second."""
    record = sweep(
        *(_new("none", 32, s=1.632, seed=seed, total_s=4 * 1.632) for seed in range(3)),
        *(_new("fast", 512, s=1.536, seed=seed, total_s=4 * 1.536) for seed in range(3)),
    )
    row = _row(record, "fast")
    assert row.comparison is not None and row.comparison.ratio == pytest.approx(1.0)
    assert row.total_comparison is not None and row.total_comparison.ratio == pytest.approx(1.0)
    assert (row.epoch_s, row.windows_per_epoch, row.steps_per_epoch) == (pytest.approx(1.633), 1536, 3)
    assert row.train_total_s == pytest.approx(4 * 1.633)
    assert parent_metrics(record)["arm_epoch_s/fast"] == pytest.approx(1.633)
    assert parent_metrics(record)["arm_speedup/fast"] == pytest.approx(1.0)
    assert "| 1,536 | 3 | 1.633 |" in markdown(record) and "| 1,632 | 51 | 1.633 |" in markdown(record)
    measured = [each["metrics"] for each in as_json(record)["trials"] if each["arm"] == "fast"]
    assert {(each[MEDIAN], each["final/train_total_s"]) for each in measured} == {(1.536, 4 * 1.536)}
    assert {(each[WINDOWS], each[STEPS]) for each in measured} == {(1536, 3)}


@pytest.mark.parametrize("speed", [True, False], ids=["with windows per second", "from the definition alone"])
def test_an_old_sweep_of_a_named_data_set_is_recomputed(speed: bool) -> None:
    windows = 8033 if speed else None
    record = sweep(
        _old("none", 32, windows, s=8.032, task=ETTH1), _old("fast", 512, windows, s=7.680, task=ETTH1)
    )  # fmt: skip
    assert _ratio(record) == pytest.approx(1.0)
    assert [row.epoch_s for row in arm_rows(record)] == [pytest.approx(8.033)] * 2
    assert [row.windows_per_epoch for row in arm_rows(record)] == [8032, 7680]


def test_an_old_sweep_of_a_file_has_exact_ratios_though_its_windows_are_known_only_by_what_was_trained() -> None:
    """251 windows: 250 in batches of 10, 192 in batches of 64."""
    record = sweep(_old("none", 10, 251, s=2.50), _old("fast", 64, 251, s=0.96))
    assert _ratio(record) == pytest.approx(2.0)
    assert _row(record, "none").epoch_s == pytest.approx(2.5) and _row(record, "fast").epoch_s == pytest.approx(1.25)


def test_old_arms_whose_batch_was_cut_are_refused_by_name_with_their_batch_and_the_windows() -> None:
    arms = {"none": 128, "fast": 256, "other": 1024}
    record = sweep(*(_old(arm, batch, 251, s=1.0, seed=seed) for arm, batch in arms.items() for seed in range(3)))
    assert _row(record, "none").refused == "" and {_row(record, arm).comparison for arm in arms} == {None}
    lines = notes(record, arm_rows(record))
    for arm in ("fast", "other"):
        why = f"its batch of {arms[arm]} was cut to the 251 training windows"
        assert f"{arm} is refused, so it is in no comparison: {why}." in lines
        assert f"| {arm} | done | " in markdown(record) and _row(record, arm).epoch_s is None
        told = [each for each in as_json(record)["trials"] if each["arm"] == arm]
        assert {each[REFUSED] for each in told} == {why} and not any(EPOCH in each["metrics"] for each in told)
    assert as_json(record)["comparisons"] == {}


def test_an_old_arm_beside_refused_ones_is_still_compared() -> None:
    record = sweep(_old("none", 64, 251, s=1.92), _old("fast", 32, 251, s=2.24), _old("other", 512, 251, s=0.1))
    assert _ratio(record) == pytest.approx(1.0) and _row(record, "other").refused
    assert _row(record, "none").epoch_s == pytest.approx(2.51)  # the cut batch tells all windows


def test_an_old_trial_without_windows_is_refused() -> None:
    record = sweep(_old("none", 64, 251), _old("fast", 64, None))
    assert _row(record, "fast").refused == "the windows that an epoch trained are not known"
    assert _row(record, "none").refused == "" and _ratio(record) is None


def test_a_refused_baseline_leaves_no_ratio_and_is_named() -> None:
    record = sweep(_old("none", 512, 251), _old("fast", 64, 251))
    assert _ratio(record) is None
    assert any(line.startswith("none is refused") for line in notes(record, arm_rows(record)))


CONTRADICTIONS = {
    "no multiple of the batch": {"speed/windows_per_s": 100.0, "time/train_s": 1.0},
    "more than there are": {"speed/windows_per_s": 64_000.0, "time/train_s": 1.0},
    "no number": {"speed/windows_per_s": math.nan, "time/train_s": 1.0},
    "no end": {"speed/windows_per_s": math.inf, "time/train_s": 1.0},
}


@pytest.mark.parametrize("metrics", CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_stored_figures_that_contradict_each_other_are_not_believed(metrics: dict[str, float]) -> None:
    (work,) = works([({**ETTH1, "train.batch_size": "64"}, {MEDIAN: 1.0, **metrics})])
    if all(math.isfinite(value) for value in metrics.values()):
        assert work.refusal
    else:  # as if it had not been stored
        assert (work.trained, work.windows) == (8000, 8033)


@given(
    windows=st.integers(1, 5000), batches=st.lists(st.integers(1, 6000), min_size=2, max_size=5), rate=st.floats(1, 1e6)
)
def test_arms_of_one_speed_per_window_have_one_time_and_exactly_the_cut_ones_are_refused(
    windows: int, batches: list[int], rate: float
) -> None:
    trials: list[tuple[dict[str, Any], dict[str, float]]] = []
    for batch in batches:
        used = min(batch, windows)
        trained = windows // used * used
        metrics = {MEDIAN: trained / rate, "time/train_s": 0.37, "speed/windows_per_s": trained / 0.37}
        trials.append(({**OWN, "train.batch_size": batch}, metrics))
    found = works(trials)
    assert [bool(work.refusal) for work in found] == [batch > windows for batch in batches]
    times = [
        metrics[MEDIAN] * (work.windows or 0) / (work.trained or 1)
        for (_, metrics), work in zip(trials, found, strict=True)
        if not work.refusal
    ]
    assert times == [pytest.approx(time_s) for time_s in times[:1]] * len(times)
