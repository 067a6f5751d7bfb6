"""A stand-in for the NVML module with scripted answers; its constants and errors are pynvml's own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pynvml

UUID = "GPU-1234"


class FakeNvml:
    """One GPU. `reasons`: the throttle masks that it returns in turn; the last one is repeated.

    `refused`: questions that the driver does not answer. `enough`: samples until `seen_enough` is set.
    """

    NVMLError = pynvml.NVMLError
    NVML_CLOCK_SM, NVML_CLOCK_MEM = pynvml.NVML_CLOCK_SM, pynvml.NVML_CLOCK_MEM
    NVML_TEMPERATURE_GPU = pynvml.NVML_TEMPERATURE_GPU

    def __init__(self, reasons: tuple[int, ...] = (0,), refused: tuple[str, ...] = (), enough: int = 3) -> None:
        self.reasons, self.refused, self.opened = list(reasons), refused, 0
        self.samples, self._enough = 0, enough
        self.seen_enough = threading.Event()  # `enough` samples are complete

    @contextmanager
    def session(self) -> Iterator[Any]:
        """Stands for tune.machine.device.nvml."""
        self.opened += 1
        try:
            yield self
        finally:
            self.opened -= 1

    def _answer(self, name: str, value: Any) -> Any:
        if name in self.refused:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return value

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        if uuid != UUID:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return "handle"

    def nvmlDeviceGetPowerUsage(self, handle: str) -> int:
        self.samples += 1
        if self.samples > self._enough:
            self.seen_enough.set()
        return self._answer("power", 350_500)

    def nvmlDeviceGetUtilizationRates(self, handle: str) -> Any:
        return self._answer("utilisation", SimpleNamespace(gpu=97))

    def nvmlDeviceGetClockInfo(self, handle: str, kind: int) -> int:
        return self._answer("clock", 1980 if kind == pynvml.NVML_CLOCK_SM else 2619)

    def nvmlDeviceGetTemperature(self, handle: str, kind: int) -> int:
        return self._answer("temperature", 61)

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: str) -> int:
        return self._answer("reasons", self.reasons.pop(0) if len(self.reasons) > 1 else self.reasons[0])
