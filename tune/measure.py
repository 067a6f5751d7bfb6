"""Timers, memory and energy of one training epoch (design rule 4).

One timeline. On a GPU it is the compute stream, read with events and without a synchronisation per step; on a CPU it
is `perf_counter`. An epoch splits into

    step        from the first to the last kernel of a step
    h2d         compute-stream time waiting for a copy to arrive
    data_wait   the smaller of the gap before a step and the host's time blocked in the feed; the gap before the first
                step is the head of the epoch
    launch      the rest of a gap between two steps
    other       the rest of the head, and the tail after the last step

A feed that gathers windows on the compute stream makes no such gap: its gather is a part of the step, by definition.
None of these is a remainder: `train_s` is measured on its own and `unexplained_pct` says how far the sum is off.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from model.flops import StepShape, mfu_pct
from tune.config import TrialConfig
from tune.hardware import GIB, alive, nvml

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class EpochTimes:
    """Where one training epoch went, in seconds, with the raw step times in milliseconds."""

    train_s: float
    step_s: float
    h2d_s: float
    data_wait_s: float
    launch_s: float
    other_s: float
    feed_host_s: float  # host time spent asking the feed, whatever it overlapped with; no part of the sum
    step_ms: tuple[float, ...]

    @property
    def unexplained_pct(self) -> float:
        """How far the parts' sum is from `train_s`, in percent of it."""
        parts = self.step_s + self.h2d_s + self.data_wait_s + self.launch_s + self.other_s
        return 100 * abs(parts - self.train_s) / self.train_s


def time_metrics(
    times: EpochTimes, validation_s: float, shape: StepShape, *, gpu: str | None, precision: str
) -> dict[str, float | None]:
    """An epoch's times and what follows from them, by MLflow name."""
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
        "time/unexplained_pct": times.unexplained_pct,
        "time/validation_s": validation_s,
        "speed/step_ms": 1e3 * times.train_s / steps,  # of the whole epoch's training time
        "speed/windows_per_s": steps * shape.batch_size / times.train_s,
        "speed/mfu_pct": mfu_pct(shape, step_s=times.train_s / steps, gpu=gpu, precision=precision),
    }


def step_shape(config: TrialConfig, *, channels: int, windows: int, heads: Sequence[int]) -> StepShape:
    """The shape of a trial's training step; windows: of the training split; heads: left in each layer."""
    data, model = config.data, config.model
    return StepShape(
        batch_size=min(config.train.batch_size, windows),
        num_channels=channels,
        context_length=data.context_length,
        prediction_length=data.prediction_length,
        patch_length=model.patch_length,
        patch_stride=model.patch_stride,
        d_model=model.d_model,
        num_heads=model.num_heads,
        num_layers=model.num_layers,
        ffn_dim=model.ffn_dim,
        heads_kept=heads,
    )


class Mark(Protocol):
    """A point on the timeline."""

    def ms_until(self, later: Any) -> float: ...


class _HostMark:
    def __init__(self) -> None:
        self.at_s = time.perf_counter()

    def ms_until(self, later: _HostMark) -> float:
        return 1e3 * (later.at_s - self.at_s)


class _StreamMark:
    def __init__(self) -> None:
        import torch

        self.event = torch.cuda.Event(enable_timing=True)
        self.event.record()

    def ms_until(self, later: _StreamMark) -> float:
        return self.event.elapsed_time(later.event)


class EpochTimer:
    """Times the steps of one epoch. Use: `with timer.epoch():` around the loop over `timer.batches(feed, epoch)`,
    `with timer.step():` around each step, then `times()`."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._make_mark: type[Any] = _StreamMark if self._cuda else _HostMark
        self._steps: list[tuple[Mark, Mark]] = []
        self._copies: list[tuple[Mark, Mark] | None] = []
        self._host_waits_ms: list[float] = []
        self._pending: Mark | None = None
        self._asked_s = 0.0

    @contextmanager
    def epoch(self) -> Iterator[None]:
        """The whole epoch: from an idle device to an idle device."""
        self._synchronize()
        start_s = time.perf_counter()
        self._begin = self._make_mark()
        yield
        self._end = self._make_mark()
        self._synchronize()
        self._train_s = time.perf_counter() - start_s

    def batches(self, batches: Iterator[Any], *, gathered_on_device: bool) -> Iterator[Any]:
        """Yield the batches, timing how long the host is blocked in the feed.

        A feed that gathers its windows on the compute stream starts a step by doing so: its step is marked before.
        """
        while True:
            mark = self._make_mark() if gathered_on_device else None
            blocked_from = time.perf_counter()
            batch = next(batches, None)
            if batch is None:
                return
            self._asked_s += time.perf_counter() - blocked_from
            self._host_waits_ms.append(0.0 if gathered_on_device else 1e3 * (time.perf_counter() - blocked_from))
            copy = self._wait_for_copy(batch.ready)
            self._copies.append(copy)
            self._pending = mark or (copy and copy[1])  # a step starts where the wait for its copy ends
            yield batch

    def _wait_for_copy(self, ready: Any) -> tuple[Mark, Mark] | None:
        if ready is None:
            return None
        import torch

        before = self._make_mark()
        torch.cuda.current_stream().wait_event(ready)
        return before, self._make_mark()

    @contextmanager
    def step(self) -> Iterator[None]:
        start = self._pending or self._make_mark()
        yield
        self._steps.append((start, self._make_mark()))

    def times(self) -> EpochTimes:
        """The epoch's account. Call after the epoch has ended."""
        step_ms = tuple(start.ms_until(end) for start, end in self._steps)
        h2d_ms = sum(pair[0].ms_until(pair[1]) for pair in self._copies if pair)
        head_ms, tail_ms = self._head_and_tail_ms()
        wait_ms = min(head_ms, self._host_waits_ms[0]) if self._steps else 0.0
        other_ms, launch_ms = head_ms + tail_ms - wait_ms, 0.0
        for index in range(1, len(self._steps)):
            copy = self._copies[index]
            gap = self._steps[index - 1][1].ms_until(copy[0] if copy else self._steps[index][0])
            gap = max(gap, 0.0)
            blocked = min(gap, self._host_waits_ms[index])
            wait_ms += blocked
            launch_ms += gap - blocked
        return EpochTimes(
            train_s=self._train_s,
            step_s=sum(step_ms) / 1e3,
            h2d_s=h2d_ms / 1e3,
            data_wait_s=wait_ms / 1e3,
            launch_s=launch_ms / 1e3,
            other_s=other_ms / 1e3,
            feed_host_s=self._asked_s,
            step_ms=step_ms,
        )

    def _head_and_tail_ms(self) -> tuple[float, float]:
        if not self._steps:
            return self._begin.ms_until(self._end), 0.0
        first = self._copies[0][0] if self._copies[0] else self._steps[0][0]
        return self._begin.ms_until(first), self._steps[-1][1].ms_until(self._end)

    def _synchronize(self) -> None:
        if self._cuda:
            import torch

            torch.cuda.synchronize()


def count_others(pids: Sequence[int], *, own: int, idle: Collection[int]) -> int:
    """How many of the processes `pids` on a GPU are neither this one nor one of `idle`, which do nothing there.

    In a container NVML may give the host's numbers, which are of no use inside: then processes are only counted.
    """
    if own in pids:
        return len(set(pids) - {own} - set(idle))
    return max(len(pids) - 1 - len(idle), 0)


class GpuMeter:
    """Memory, energy, clock and neighbours of the GPU this process computes on, by UUID. On a CPU all are None."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self.uuid: str | None = None
        self.name: str | None = None
        if self._cuda:
            import torch

            properties = torch.cuda.get_device_properties(device)
            self.uuid, self.name = f"GPU-{properties.uuid}", properties.name
        self._energy_mj: int | None = None

    def begin(self) -> None:
        """Start an epoch."""
        if self._cuda:
            import torch

            torch.cuda.reset_peak_memory_stats()
            self._energy_mj = self._read("nvmlDeviceGetTotalEnergyConsumption")

    def peak_memory_gib(self, *, at_least_bytes: int = 0) -> float | None:
        """Most memory that tensors held since `begin`.

        at_least_bytes: what a step needed while it was captured: when it is replayed the allocator does not count it.
        """
        if not self._cuda:
            return None
        import torch

        return max(torch.cuda.max_memory_allocated(), at_least_bytes) / GIB

    def energy_j(self) -> float | None:
        """Energy of the whole GPU since `begin`."""
        now = self._read("nvmlDeviceGetTotalEnergyConsumption")
        return None if now is None or self._energy_mj is None else (now - self._energy_mj) / 1e3

    def sm_clock_mhz(self) -> float | None:
        """Clock of the multiprocessors now."""
        return self._read("nvmlDeviceGetClockInfo", "NVML_CLOCK_SM")

    def throttle_reasons(self) -> int | None:
        """NVML's bit mask of why the clock is held down now (bit 0: idle)."""
        return self._read("nvmlDeviceGetCurrentClocksThrottleReasons")

    def other_processes(self, idle: Collection[int] = ()) -> int | None:
        """How many processes hold this GPU now, beside this one and those of `idle` that still live."""
        running = self._read("nvmlDeviceGetComputeRunningProcesses")
        if running is None:
            return None
        return count_others([found.pid for found in running], own=os.getpid(), idle=set(filter(alive, idle)))

    def _read(self, function: str, *constants: str) -> Any:
        if self.uuid is None:
            return None
        with nvml() as lib:
            if lib is None:
                return None
            try:
                handle = lib.nvmlDeviceGetHandleByUUID(self.uuid)
                return getattr(lib, function)(handle, *(getattr(lib, name) for name in constants))
            except lib.NVMLError:
                return None
