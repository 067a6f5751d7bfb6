"""The feed that keeps the whole series on the device and gathers windows there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from data_pipeline.errors import DataError
from data_pipeline.feed.batches import Batch, BatchPlan, shared_tensor, window_view
from data_pipeline.series.store import Series


@dataclass(frozen=True, kw_only=True, eq=False)
class WindowStarts:
    """A training batch before its gather, for a step that gathers its windows itself."""

    starts: torch.Tensor
    """[B] int64 on the device: first rows of the windows."""
    gather: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
    """starts [B] -> past [B, L, C], future [B, H, C]; device operators only, no synchronisation."""
    ready: torch.cuda.Event | None = None

    def arrived(self) -> WindowStarts:
        """This batch: nothing has to arrive."""
        return self


class DeviceFeed:
    """Nothing is copied after the start; on a GPU the gather is one kernel for the past and one for the future."""

    gathered_on_device = True

    def __init__(
        self,
        series: Series,
        *,
        context_length: int,
        prediction_length: int,
        batch_size: int,
        device: str | torch.device,
        seed: int,
        num_workers: int = 0,
    ) -> None:
        if num_workers:
            raise DataError(
                f"feed 'device' has no workers, num_workers is {num_workers}: set it to 0, or choose the feed 'arrow'"
            )
        self._plan = BatchPlan(
            series,
            context_length=context_length,
            prediction_length=prediction_length,
            batch_size=batch_size,
            seed=seed,
        )
        self._device = torch.device(device)
        rows = shared_tensor(series.scaled).to(self._device)
        self._past = window_view(rows, 0, context_length)
        self._future = window_view(rows, context_length, prediction_length)
        self.channels = rows.shape[1]
        self.steps_per_epoch = self._plan.steps_per_epoch

    def num_windows(self, split: str) -> int:
        """Windows of the split."""
        return len(self._plan.starts[split])

    def train_batches(self, epoch: int) -> Iterator[Batch]:
        """See `Feed`."""
        for starts in self._plan.train(epoch).to(self._device):
            yield self._gather(starts, len(starts))

    def train_starts(self, epoch: int) -> Iterator[WindowStarts]:
        """The batches of `train_batches` that are still to be gathered."""
        for starts in self._plan.train(epoch).to(self._device):
            yield WindowStarts(starts=starts, gather=self._windows)

    def eval_batches(self, split: str) -> Iterator[Batch]:
        """See `Feed`."""
        rows, valid = self._plan.evaluation(split)
        for starts, count in zip(rows.to(self._device), valid, strict=True):
            yield self._gather(starts, count)

    def close(self) -> None:
        """Release the series."""
        del self._past, self._future

    def _gather(self, starts: torch.Tensor, valid: int) -> Batch:
        past, future = self._windows(starts)
        return Batch(past=past, future=future, valid=valid)

    def _windows(self, starts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return (
            self._past.index_select(0, starts).view(len(starts), -1, self.channels),
            self._future.index_select(0, starts).view(len(starts), -1, self.channels),
        )
