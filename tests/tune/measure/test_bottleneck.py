"""A trial's diagnosis follows from where its time went, by the stated limits."""

from __future__ import annotations

from typing import Any

import pytest

from tune.gate.profiled_step import covered
from tune.measure.bottleneck import (
    LOST_PCT,
    NEAR_PCT,
    NEEDED,
    OFF_PCT,
    TimeShares,
    diagnose,
    diagnose_epochs,
    settled,
    time_shares,
)

EPOCH = {
    "time/train_s": 10.0, "time/step_s": 8.0, "time/h2d_s": 0.0, "time/data_wait_s": 0.5, "time/launch_s": 1.5,
    "time/other_s": 0.0, "time/median_step_ms": 4.0, "speed/peak_pct": 20.0, "speed/bandwidth_pct": 64.0,
    "gpu/energy_j": 3000.0, "model/heads": 4.0,
}  # fmt: skip


def _shares(**given: Any) -> TimeShares:
    """On a GPU whose time all goes into steps, far from its limits, unless given otherwise."""
    usual: dict[str, Any] = {"h2d_pct": 0.0, "data_wait_pct": 0.0, "launch_pct": 0.0, "other_pct": 0.0}
    usual |= {"on_gpu": True, "busy_in_step_pct": 100.0, "peak_pct": 10.0, "bandwidth_pct": 20.0}
    lost = sum(
        value for name, value in given.items() if name in ("h2d_pct", "data_wait_pct", "launch_pct", "other_pct")
    )
    return TimeShares(**{**usual, "step_pct": 100 - lost, **given})


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"data_wait_pct": 42.0}, "data-bound: the GPU waits for data 42 % of the epoch"),
        ({"h2d_pct": 25.0}, "copy-bound: the GPU waits for copies 25 % of the epoch"),
        ({"launch_pct": 69.0}, "launch-bound: GPU busy 31 %"),
        ({"busy_in_step_pct": 31.0}, "launch-bound: GPU busy 31 %"),  # it idles inside of steps
        ({"launch_pct": 30.0, "busy_in_step_pct": None}, "launch-bound: GPU busy at most 70 %"),
        ({"other_pct": 30.0}, "overhead-bound: 30 % of the epoch before its first step and after its last"),
        ({"bandwidth_pct": 64.0}, "memory-bound at 64 % of bandwidth"),
        ({"peak_pct": 48.0}, "compute-bound at 48 % of peak"),
        ({}, "kernel-bound: GPU busy 100 %, far from both roofs (20 % of bandwidth, 10 % of peak)"),
        ({"data_wait_pct": 30.0, "launch_pct": 35.0}, "launch-bound: GPU busy 35 %"),  # the larger of two
        ({"data_wait_pct": 42.0, "bandwidth_pct": 64.0}, "data-bound: the GPU waits for data 42 % of the epoch"),
        ({"energy_j": 1234.5, "peak_pct": 48.0}, "compute-bound at 48 % of peak; 1,234 J an epoch"),
        ({"on_gpu": False, "data_wait_pct": 42.0}, "data-bound: the CPU waits for data 42 % of the epoch"),
        ({"on_gpu": False, "launch_pct": 7.0}, "on a CPU: 93 % of the epoch in training steps, 0 % waiting for data"),
        ({"step_pct": 93.0}, "not diagnosed: the parts are 7 % away from the epoch's time"),
    ],
)
def test_the_line_names_what_bounds_the_trial(given: dict[str, Any], line: str) -> None:
    assert diagnose(_shares(**given)) == line


@pytest.mark.parametrize("unknown", ["peak_pct", "bandwidth_pct"])
def test_without_a_peak_on_record_the_line_names_no_bound(unknown: str) -> None:
    line = diagnose(_shares(**{unknown: None}))
    assert line.startswith("GPU busy 100 %; how near its limits is not known")
    assert "bound" not in line


def test_the_diagnosis_changes_at_the_stated_limits() -> None:
    assert diagnose(_shares(data_wait_pct=LOST_PCT)).startswith("data-bound")
    assert diagnose(_shares(data_wait_pct=LOST_PCT - 0.1)).startswith("kernel-bound")
    assert diagnose(_shares(peak_pct=NEAR_PCT)).startswith("compute-bound")
    assert diagnose(_shares(peak_pct=NEAR_PCT - 0.1)).startswith("kernel-bound")
    assert diagnose(_shares(step_pct=100 - OFF_PCT - 0.1)).startswith("not diagnosed")
    assert diagnose(_shares(step_pct=100 - OFF_PCT + 0.1)).startswith("kernel-bound")


def test_shares_weigh_epochs_by_their_time() -> None:
    longer = {**EPOCH, "time/train_s": 30.0, "time/step_s": 28.0, "time/data_wait_s": 2.0, "time/launch_s": 0.0}
    shares = time_shares([EPOCH, longer], on_gpu=True, step_busy_ms=1.0)
    assert shares is not None
    assert shares.step_pct == pytest.approx(100 * 36 / 40)
    assert shares.data_wait_pct == pytest.approx(100 * 2.5 / 40)
    assert shares.busy_in_step_pct == pytest.approx(25)
    assert (shares.bandwidth_pct, shares.energy_j) == (64.0, 3000.0)


@pytest.mark.parametrize("name", ["time/train_s", "time/launch_s"])
def test_there_are_no_shares_without_every_part_of_every_epoch(name: str) -> None:
    assert time_shares([EPOCH, {**EPOCH, name: None}], on_gpu=True, step_busy_ms=None) is None
    assert time_shares([EPOCH, {**EPOCH, name: float("inf")}], on_gpu=True, step_busy_ms=None) is None
    assert time_shares([], on_gpu=True, step_busy_ms=None) is None


def test_a_value_that_one_epoch_lacks_is_unknown() -> None:
    shares = time_shares([EPOCH, {**EPOCH, "gpu/energy_j": None}], on_gpu=True, step_busy_ms=None)
    assert shares is not None
    assert (shares.energy_j, shares.busy_in_step_pct) == (None, None)


@pytest.mark.parametrize(
    ("heads", "kept"),
    [([4], [0]), ([4, 4, 4], [1, 2]), ([4, 2, 2], [1, 2]), ([4, 3, 2], [2]), ([2, 2], [1]), ([None, None], [1])],
)
def test_epochs_count_with_the_final_heads_and_not_the_trials_first(heads: list[Any], kept: list[int]) -> None:
    epochs = [{"model/heads": count, "number": float(number)} for number, count in enumerate(heads)]
    assert [epoch["number"] for epoch in settled(epochs)] == kept


@pytest.mark.parametrize(
    ("spans", "length"),
    [([], 0), ([(0, 2), (3, 4)], 3), ([(0, 5), (1, 2)], 5), ([(3, 6), (0, 4)], 6), ([(1, 2), (2, 3)], 2)],
)
def test_kernels_that_overlap_count_once_as_busy(spans: list[tuple[float, float]], length: float) -> None:
    assert covered(spans) == length


def test_stalled_epochs_are_mentioned_and_left_out() -> None:
    steady = dict.fromkeys(NEEDED, 0.0) | {"time/train_s": 1.0, "time/step_s": 1.0, "time/median_step_ms": 1.0}
    late = steady | {"time/train_s": 1.5, "time/stalled_pct": 33.0}
    line = diagnose_epochs([steady, steady, late, steady], on_gpu=True, step_busy_ms=1.0)
    assert line is not None and "not diagnosed" not in line
    assert line.endswith("; 1 of 3 epochs stalled, for up to 33 % of their time")
    only = diagnose_epochs([late], on_gpu=True, step_busy_ms=1.0)
    assert only is not None and only.startswith("not diagnosed")
    assert diagnose_epochs([], on_gpu=True, step_busy_ms=1.0) is None
