"""The parts of an epoch add up, and each is what its name says. Clocks are faked: no timing is asserted."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tune.measure import timer as measure
from tune.measure.gpu_meter import GpuMeter, count_others
from tune.measure.timer import EpochTimer, EpochTimes


class FakeClock:
    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    fake = FakeClock()
    monkeypatch.setattr(measure, "time", fake)
    return fake


def _run(clock: FakeClock, *, fetch_s: float, step_s: float, between_s: float, steps: int, gathered: bool) -> Any:
    def feed() -> Any:
        for _ in range(steps):
            clock.now += fetch_s
            yield SimpleNamespace(ready=None)

    timer = EpochTimer(torch.device("cpu"))
    with timer.epoch():
        for _ in timer.batches(feed(), gathered_on_device=gathered):
            with timer.step():
                clock.now += step_s
            clock.now += between_s
    return timer.times()


def test_a_feed_that_blocks_shows_as_data_wait_and_the_rest_of_the_gap_as_launch(clock: FakeClock) -> None:
    times = _run(clock, fetch_s=0.5, step_s=1.0, between_s=0.25, steps=4, gathered=False)
    assert times.step_s == pytest.approx(4.0)
    assert times.data_wait_s == pytest.approx(4 * 0.5)  # the first batch too
    assert times.launch_s == pytest.approx(3 * 0.25)
    assert times.other_s == pytest.approx(0.25)  # after the last step
    assert times.feed_host_s == pytest.approx(4 * 0.5)
    assert times.h2d_s == 0
    assert times.step_ms == pytest.approx((1000.0,) * 4)
    assert times.gap_ms == pytest.approx((500.0, *(750.0,) * 3))
    assert times.wait_ms == pytest.approx((500.0,) * 4)
    assert times.start_ms == pytest.approx((500.0, 2250.0, 4000.0, 5750.0))


def test_windows_gathered_on_the_device_belong_to_the_step(clock: FakeClock) -> None:
    times = _run(clock, fetch_s=0.5, step_s=1.0, between_s=0.25, steps=4, gathered=True)
    assert times.step_s == pytest.approx(4 * 1.5)
    assert times.data_wait_s == 0
    assert times.feed_host_s == pytest.approx(4 * 0.5)  # the host's time in the feed is known all the same


@pytest.mark.parametrize("gathered", [True, False])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_the_parts_sum_to_the_epoch_measured_on_its_own(clock: FakeClock, steps: int, gathered: bool) -> None:
    times = _run(clock, fetch_s=0.125, step_s=1.0, between_s=0.5, steps=steps, gathered=gathered)
    assert times.train_s == pytest.approx(steps * 1.625)
    assert times.unexplained_pct == pytest.approx(0.0)


def _times(step_ms: tuple[float, ...], train_s: float) -> EpochTimes:
    nothing = (0.0,) * len(step_ms)
    return EpochTimes(
        began_s=0.0, train_s=train_s, feed_host_s=0.0, tail_ms=0.0, start_ms=nothing, step_ms=step_ms,
        gap_ms=nothing, wait_ms=nothing, h2d_ms=nothing,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("step_ms", "train_s", "stalled_pct"),
    [
        ((100.0,) * 10, 1.0, 0.0),
        ((100.0,) * 9 + (190.0,), 1.09, 0.0),  # slower, but no stall
        ((100.0,) * 9 + (600.0,), 1.5, 100 * 0.5 / 1.5),
        ((100.0,) * 10, 1.25, 20.0),  # the host noticed the end late
    ],
)
def test_stalls_are_a_share_of_the_epoch(step_ms: tuple[float, ...], train_s: float, stalled_pct: float) -> None:
    assert _times(step_ms, train_s).stalled_pct == pytest.approx(stalled_pct)


def test_an_epoch_without_a_step_is_all_other(clock: FakeClock) -> None:
    timer = EpochTimer(torch.device("cpu"))
    with timer.epoch():
        clock.now += 2.0
    assert timer.times().other_s == pytest.approx(2.0)
    assert timer.times().step_ms == ()


def test_on_a_cpu_memory_energy_and_other_processes_are_unknown() -> None:
    meter = GpuMeter(torch.device("cpu"))
    meter.begin()
    readings = (meter.peak_memory_gib(), meter.energy_j(), meter.other_processes())
    assert (meter.uuid, *readings) == (None,) * 4


@pytest.mark.parametrize(
    ("pids", "idle", "others"),
    [
        ([10], (), 0),
        ([10, 11], (11,), 0),  # our own idle process
        ([10, 12], (11,), 1),  # ours has ended, a foreign one runs
        ([10, 11, 12], (11,), 1),
        ([10, 12, 13], (), 2),
        ([901, 902], (11,), 0),  # numbers of the host, unknown in here
        ([901, 902, 903], (11,), 1),
        ([901, 902], (), 1),
        ([], (), None),  # not even our own: NVML hides processes
        ([], (11,), None),
        ([901], (11,), None),
        ([11], (11,), None),
    ],
)
def test_only_foreign_processes_count_and_hidden_ones_make_the_count_unknown(
    pids: list[int], idle: tuple[int, ...], others: int | None
) -> None:
    assert count_others(pids, own=10, idle=idle) == others
