"""An epoch's times as metrics by MLflow name, and how near a step comes to its GPU's limits.

`speed/tflops` and `speed/mfu_pct` count all of an epoch's training time, as MFU is defined. How near the *kernels* are
to the GPU's limits depends on the steps alone, without the gaps between them:

    speed/peak_pct        of the dense peak in the trial's precision
    speed/bandwidth_pct   of the memory's bandwidth, if a step moves the bytes that `least_step_bytes` of model/flops.py
                          counts
    speed/roofline_pct    the larger of the two
"""

from __future__ import annotations

from statistics import median

from model.flops import StepShape, floor_s, least_step_bytes, memory_floor_s, mfu_pct, train_step_flops
from tune.machine.device import GIB
from tune.measure.timer import EpochTimes


def time_metrics(
    times: EpochTimes, validation_s: float, shape: StepShape, *, gpu: str | None, precision: str
) -> dict[str, float | None]:
    """An epoch's times and the speeds that follow from them, by MLflow name."""
    steps = len(times.step_ms)
    return {
        "time/epoch_s": times.train_s + validation_s,
        "time/train_s": times.train_s,
        "time/step_s": times.step_s,
        "time/h2d_s": times.h2d_s,
        "time/data_wait_s": times.data_wait_s,
        "time/launch_s": times.launch_s,
        "time/other_s": times.other_s,
        "time/feed_host_s": times.feed_host_s,
        "time/median_step_ms": median(times.step_ms),
        "time/unexplained_pct": times.unexplained_pct,
        "time/stalled_pct": times.stalled_pct,
        "time/validation_s": validation_s,
        "speed/step_ms": 1e3 * times.train_s / steps,  # of all training time
        "speed/windows_per_s": steps * shape.batch_size / times.train_s,
        **_speeds(times, shape, gpu=gpu, precision=precision),
    }


def _speeds(times: EpochTimes, shape: StepShape, *, gpu: str | None, precision: str) -> dict[str, float | None]:
    """Rates, which are known on every device, and shares of a GPU's peak, which are None if the peak is unknown."""
    epoch_s, step_s = times.train_s / len(times.step_ms), times.step_s / len(times.step_ms)  # for each step
    moving = memory_floor_s(shape, gpu=gpu, precision=precision)
    floor = floor_s(shape, gpu=gpu, precision=precision)
    return {
        "speed/tflops": train_step_flops(shape) / epoch_s / 1e12,
        "speed/mfu_pct": mfu_pct(shape, step_s=epoch_s, gpu=gpu, precision=precision),
        "speed/least_gib_per_s": least_step_bytes(shape, precision=precision) / step_s / GIB,
        "speed/peak_pct": mfu_pct(shape, step_s=step_s, gpu=gpu, precision=precision),
        "speed/bandwidth_pct": None if moving is None else 100 * moving / step_s,
        "speed/roofline_pct": None if floor is None else 100 * floor / step_s,
    }


def all_windows_s(epoch_s: float | None, *, windows: int, trained: int) -> float | None:
    """Seconds of an epoch of all training windows at the speed of one that trained fewer; None if its time is unknown.

    An epoch drops the last part of a batch, and a large batch drops more: times compare only per trained window.
    """
    return None if epoch_s is None else epoch_s * windows / trained
