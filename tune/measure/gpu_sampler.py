"""The state of a trial's own GPU while it trains: clocks, power, temperature and what lowers the clocks.

A thread asks NVML ten times a second during a timed epoch, and stamps samples with the epoch's clock. Each question is
a call into the driver during which the thread releases Python's lock; between calls it holds it for microseconds.

A throttled epoch stays in a trial's median: without it a GPU would look as fast as when it is cool. It is flagged
instead (`gpu/throttled_pct`), and the report warns if a trial's share is large (`tune.report.bottlenecks`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

from tune.machine.device import nvml

INTERVAL_S = 0.1
# Bits of nvmlDeviceGetCurrentClocksThrottleReasons that lower a clock below what the GPU wants (nvml.h). Left out:
# idle (1), clocks set by somebody (2), sync boost (16), the display's clock (256).
THROTTLE_REASONS = {
    0x04: "software power cap",
    0x08: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
}


@dataclass(frozen=True, kw_only=True)
class DeviceSample:
    """One sample of the GPU's state; None: the driver does not say."""

    at_s: float  # the host's perf_counter, midway between first question and last answer
    sm_clock_mhz: int | None
    memory_clock_mhz: int | None
    throttle_reasons: int | None  # NVML's bit mask
    power_w: float | None  # of the board, averaged by the driver over up to a second
    utilisation_pct: int | None  # share of the driver's last 1/6 to 1 s in which any kernel ran, not how full it was
    temperature_c: int | None


def throttling(reasons: int) -> list[str]:
    """The reasons in NVML's bit mask that lower clocks, in words."""
    return [name for bit, name in THROTTLE_REASONS.items() if reasons & bit]


class DeviceSampler:
    """Samples the GPU with this UUID. None: no GPU, no samples.

    `open` once, `start` before an epoch, `stop` after it, `close` at the end.
    """

    def __init__(self, uuid: str | None) -> None:
        self._uuid = uuid
        self._nvml = ExitStack()
        self._sample: Callable[[], DeviceSample] | None = None
        self._thread: threading.Thread | None = None
        self._over = threading.Event()
        self._samples: list[DeviceSample] = []

    def open(self) -> None:
        """Find the GPU. Without a driver there will be no samples."""
        if self._uuid is not None:
            lib = self._nvml.enter_context(nvml())
            self._sample = None if lib is None else _sampler_of(lib, self._uuid)

    def close(self) -> None:
        """Sample no more."""
        self.stop()
        self._sample = None
        self._nvml.close()

    def start(self) -> None:
        """Sample from now on. The first sample comes after half an interval, when the GPU is no longer idle."""
        if self._sample is None:
            return
        self._samples, self._over = [], threading.Event()
        self._thread = threading.Thread(target=self._run, args=(self._sample,), name="device-sampler", daemon=True)
        self._thread.start()

    def stop(self) -> tuple[DeviceSample, ...]:
        """The samples since `start`."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        return tuple(self._samples)

    def _run(self, sample: Callable[[], DeviceSample]) -> None:
        due_s = time.perf_counter() + INTERVAL_S / 2
        while not self._over.wait(max(0.0, due_s - time.perf_counter())):
            self._samples.append(sample())
            due_s = max(due_s + INTERVAL_S, time.perf_counter())  # missed samples are not made up for


def _sampler_of(lib: Any, uuid: str) -> Callable[[], DeviceSample] | None:
    """A function that takes one sample; None if the driver does not know the GPU."""
    try:
        handle = lib.nvmlDeviceGetHandleByUUID(uuid)
    except lib.NVMLError:
        return None

    def ask(question: Callable[..., Any], *about: Any) -> Any:
        try:
            return question(handle, *about)
        except lib.NVMLError:
            return None

    def sample() -> DeviceSample:
        before_s = time.perf_counter()
        power_mw = ask(lib.nvmlDeviceGetPowerUsage)
        utilisation = ask(lib.nvmlDeviceGetUtilizationRates)
        values: dict[str, Any] = {
            "sm_clock_mhz": ask(lib.nvmlDeviceGetClockInfo, lib.NVML_CLOCK_SM),
            "memory_clock_mhz": ask(lib.nvmlDeviceGetClockInfo, lib.NVML_CLOCK_MEM),
            "throttle_reasons": ask(lib.nvmlDeviceGetCurrentClocksThrottleReasons),
            "power_w": None if power_mw is None else power_mw / 1e3,
            "utilisation_pct": None if utilisation is None else utilisation.gpu,
            "temperature_c": ask(lib.nvmlDeviceGetTemperature, lib.NVML_TEMPERATURE_GPU),
        }
        return DeviceSample(at_s=(before_s + time.perf_counter()) / 2, **values)

    return sample


def device_metrics(samples: Sequence[DeviceSample]) -> dict[str, float | None]:
    """An epoch's samples as metrics by MLflow name; None if no sample has the value.

    `gpu/throttled_pct` is the share of samples in which one of THROTTLE_REASONS lowered the clocks.
    `gpu/throttle_reasons` has the bits of all samples.
    """
    masks = _known(samples, "throttle_reasons")
    every = 0
    for mask in masks:
        every |= mask
    throttled = [bool(throttling(mask)) for mask in masks]
    return {
        "gpu/sm_clock_mhz": _over(median, _known(samples, "sm_clock_mhz")),
        "gpu/memory_clock_mhz": _over(median, _known(samples, "memory_clock_mhz")),
        "gpu/power_w": _over(fmean, _known(samples, "power_w")),
        "gpu/utilisation_pct": _over(fmean, _known(samples, "utilisation_pct")),
        "gpu/temperature_c": _over(max, _known(samples, "temperature_c")),
        "gpu/throttle_reasons": every if masks else None,
        "gpu/throttled_pct": 100 * fmean(throttled) if throttled else None,
    }


def _known(samples: Sequence[DeviceSample], name: str) -> list[Any]:
    return [value for sample in samples if (value := getattr(sample, name)) is not None]


def _over(statistic: Callable[[list[Any]], float], values: list[Any]) -> float | None:
    return statistic(values) if values else None
