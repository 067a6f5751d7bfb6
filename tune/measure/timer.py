"""Where the time of one training epoch goes.

There is one timeline. On a GPU it is the compute stream, read with events and without a synchronisation per step; on a
CPU it is `perf_counter`. An epoch splits into

    step        from the first to the last kernel of a step
    h2d         compute-stream time waiting for a copy to arrive
    data_wait   the smaller of the gap before a step and the host's time blocked in the feed; the gap before the first
                step is the head of the epoch
    launch      the rest of a gap between two steps
    other       the rest of the head, and the tail after the last step

A feed that gathers windows on the compute stream makes no gap: its gather is part of the step, by definition.
No part is a remainder: `train_s` is measured on its own, and `unexplained_pct` says how far the parts' sum is off.
"""

from __future__ import annotations

import bisect
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch


STALL = 2.0  # a step stalled if it took longer than this many times the median step of its epoch


@dataclass(frozen=True, kw_only=True)
class EpochTimes:
    """The times of one training epoch in seconds, with the raw times of each step in milliseconds.

    The gap before the first step is the head of the epoch. `wait_ms` is part of `gap_ms`; the wait for a copy,
    `h2d_ms`, lies between the gap and the step.
    """

    began_s: float  # the host's perf_counter
    train_s: float  # measured on its own
    feed_host_s: float  # host time spent in the feed, whatever it overlapped with; not part of the sum
    tail_ms: float  # after the last step
    start_ms: tuple[float, ...]  # of each step, since the epoch began
    step_ms: tuple[float, ...]
    gap_ms: tuple[float, ...]  # before each step
    wait_ms: tuple[float, ...]  # of the gap: waiting for data
    h2d_ms: tuple[float, ...]

    @property
    def step_s(self) -> float:
        return sum(self.step_ms) / 1e3

    @property
    def h2d_s(self) -> float:
        return sum(self.h2d_ms) / 1e3

    @property
    def data_wait_s(self) -> float:
        return sum(self.wait_ms) / 1e3

    @property
    def launch_s(self) -> float:
        return (sum(self.gap_ms[1:]) - sum(self.wait_ms[1:])) / 1e3

    @property
    def other_s(self) -> float:
        return (sum(self.gap_ms[:1]) - sum(self.wait_ms[:1]) + self.tail_ms) / 1e3

    @property
    def unexplained_pct(self) -> float:
        """How far the parts' sum is from `train_s`, in percent of it."""
        parts = self.step_s + self.h2d_s + self.data_wait_s + self.launch_s + self.other_s
        return 100 * abs(parts - self.train_s) / self.train_s

    @property
    def stalled_pct(self) -> float:
        """Time lost in stalls, in percent of `train_s`.

        Stalled steps count with what exceeds the median step. Unexplained time is added: there the host noticed late
        that the device had finished.
        """
        typical_ms = median(self.step_ms) if self.step_ms else 0.0
        beyond_ms = sum(step_ms - typical_ms for step_ms in self.step_ms if step_ms > STALL * typical_ms)
        return 100 * beyond_ms / 1e3 / self.train_s + self.unexplained_pct


class Mark(Protocol):
    """A point on the timeline."""

    def ms_until(self, later: Any) -> float: ...

    def passed(self) -> bool: ...


class _HostMark:
    def __init__(self) -> None:
        self.at_s = time.perf_counter()

    def ms_until(self, later: _HostMark) -> float:
        return 1e3 * (later.at_s - self.at_s)

    def passed(self) -> bool:
        return True


class _StreamMark:
    def __init__(self) -> None:
        import torch

        self.event = torch.cuda.Event(enable_timing=True)
        self.event.record()

    def ms_until(self, later: _StreamMark) -> float:
        return self.event.elapsed_time(later.event)

    def passed(self) -> bool:
        """Asks the device and does not wait for it."""
        return bool(self.event.query())


class EpochTimer:
    """Times the steps of one epoch.

    Use `with timer.epoch():` around the loop over `timer.batches(feed, epoch)`, `with timer.step():` around each step,
    then `times()`.
    """

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
        """Around the epoch, from an idle device to an idle device."""
        self._synchronize()
        self._began_s = time.perf_counter()
        self._begin = self._make_mark()
        yield
        self._end = self._make_mark()
        self._synchronize()
        self._train_s = time.perf_counter() - self._began_s

    def batches(self, batches: Iterator[Any], *, gathered_on_device: bool) -> Iterator[Any]:
        """Yield the batches, and time how long the host is blocked in the feed.

        gathered_on_device: the feed gathers windows on the compute stream, so the step begins before the batch.
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

    def finished(self) -> int:
        """How many steps the device has finished. Any thread may ask; nothing waits."""
        steps = self._steps
        return bisect.bisect_left(range(len(steps)), True, key=lambda at: not steps[at][1].passed())

    def times(self) -> EpochTimes:
        """The epoch's times. Call it after the epoch has ended."""
        gap_ms = self._gaps_ms()
        last = self._steps[-1][1] if self._steps else self._begin
        return EpochTimes(
            began_s=self._began_s,
            train_s=self._train_s,
            feed_host_s=self._asked_s,
            tail_ms=last.ms_until(self._end),
            start_ms=tuple(self._begin.ms_until(start) for start, _ in self._steps),
            step_ms=tuple(start.ms_until(end) for start, end in self._steps),
            gap_ms=gap_ms,
            wait_ms=tuple(min(gap, blocked) for gap, blocked in zip(gap_ms, self._host_waits_ms, strict=True)),
            h2d_ms=tuple(pair[0].ms_until(pair[1]) if pair else 0.0 for pair in self._copies),
        )

    def _gaps_ms(self) -> tuple[float, ...]:
        """From each step's end (first: the epoch's beginning) to the next step, or to the wait for its copy."""
        ends = [self._begin, *(end for _, end in self._steps)]
        begins = [copy[0] if copy else start for copy, (start, _) in zip(self._copies, self._steps, strict=True)]
        return tuple(max(0.0, end.ms_until(begin)) for end, begin in zip(ends, begins, strict=False))

    def _synchronize(self) -> None:
        if self._cuda:
            import torch

            torch.cuda.synchronize()
