"""The feed that keeps the whole series on the device and gathers windows there.

Shapes: B windows of a batch, L context rows, H horizon rows, C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from data_pipeline.feed.batches import Batch, Feed, refuse_workers, shared_tensor
from data_pipeline.feed.gather import Windows
from data_pipeline.feed.placement import check_device_memory
from data_pipeline.series.store import Series


@dataclass(frozen=True, kw_only=True, eq=False)
class WindowStarts:
    """A training batch before its gather, for a training step that gathers its windows itself."""

    starts: torch.Tensor
    """[B] int64 on the device: first rows of the windows."""
    gather: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
    """starts [B] -> past [B, L, C], future [B, H, C]. It uses device operators only and does not synchronise."""
    ready: torch.cuda.Event | None = None

    def arrived(self) -> WindowStarts:
        """This batch: there is no copy to wait for."""
        return self


class DeviceFeed(Feed):
    """Nothing is copied after the start. `data_pipeline.feed.gather` cuts the windows."""

    gathered_on_device = True

    def train_batches(self, epoch: int) -> Iterator[Batch]:
        """See `Feed`. The order is drawn when the first batch is asked for: in the time of the first step."""
        yield from super().train_batches(epoch)

    def train_starts(self, epoch: int) -> Iterator[WindowStarts]:
        """The batches of `train_batches` before their gather."""
        for starts in self._plan.train(epoch).to(self._device):
            yield WindowStarts(starts=starts, gather=self._windows.gather)

    def close(self) -> None:
        """Release the series."""
        del self._windows

    def _open(self, series: Series, num_workers: int) -> None:
        refuse_workers("device", num_workers)
        check_device_memory(series.scaled.nbytes, self._device)
        rows = shared_tensor(series.scaled).to(self._device)
        self._windows = Windows(rows, *self._lengths)

    def _batches(self, starts: torch.Tensor, valid: Sequence[int]) -> Iterator[Batch]:
        for batch_starts, count in zip(starts.to(self._device), valid, strict=True):
            past, future = self._windows.gather(batch_starts)
            yield Batch(past=past, future=future, valid=count)
