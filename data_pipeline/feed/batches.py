"""What every feed hands out, and in which order. All feeds share this file, so they cannot differ.

Shapes: B windows of a batch, L context rows, H horizon rows, C channels, T rows of the series.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from data_pipeline.errors import DataError
from data_pipeline.series.store import Series
from data_pipeline.series.windows import window_starts

ROWS_AT_A_TIME = 1 << 20


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Windows of one split, standardised, on the feed's device."""

    past: torch.Tensor
    """[B, L, C] float32."""
    future: torch.Tensor
    """[B, H, C] float32."""
    valid: int
    """Real windows. Rows from `valid` on repeat the split's last window, which only evaluation's last batch does."""
    ready: torch.cuda.Event | None = None
    """The compute stream must wait for it before it reads the tensors; None if nothing is being copied."""
    observed: torch.Tensor | None = None
    """[B, H, C] bool, the cells of `future` that the source has; the others were filled. None: it has all. Only of
    evaluation's batches: training does not tell them apart."""
    series: torch.Tensor | None = None
    """[B] int64, the number of each window's series among those of the file. Only of evaluation's batches."""

    def arrived(self) -> Batch:
        """This batch, after making the current stream wait for its copy. The host does not wait."""
        if self.ready is not None:
            torch.cuda.current_stream().wait_event(self.ready)
        return self


class BatchPlan:
    """The first rows of the windows of each batch: one plan for all feeds, so they make the same batches."""

    def __init__(
        self,
        series: Series,
        *,
        context_length: int,
        prediction_length: int,
        batch_size: int,
        seed: int,
        eval_batch_size: int | None = None,
    ) -> None:
        for name, size in (("batch_size", batch_size), ("eval_batch_size", eval_batch_size)):
            if size is not None and size < 1:
                raise DataError(f"{name} is {size}: give at least 1")
        self.starts = window_starts(series.every_bounds, context_length, prediction_length, series.apart)
        self.batch_size = batch_size
        self.seed = seed
        train = len(self.starts["train"])
        if batch_size > train:
            raise DataError(
                f"batch_size is {batch_size}, but there are only {train} training windows: give at most that"
            )
        self.steps_per_epoch = train // batch_size
        most = max(len(self.starts[split]) for split in ("validation", "test"))
        self.eval_batch_size = max(batch_size, min(eval_batch_size or batch_size, most))
        """Windows of an evaluation batch: not more than a split has, as the last batch is padded, and not fewer than
        of a training batch."""

    def train(self, epoch: int) -> torch.Tensor:
        """First rows [steps, B] int64 of the epoch's windows."""
        generator = torch.Generator().manual_seed(_mix(self.seed, epoch))
        order = torch.randperm(len(self.starts["train"]), generator=generator)
        kept = order[: self.steps_per_epoch * self.batch_size]
        return self._rows("train", kept).view(self.steps_per_epoch, self.batch_size)

    def evaluation(self, split: str) -> tuple[torch.Tensor, list[int]]:
        """First rows [steps, B] int64 of the split's windows, and how many windows of each batch are real."""
        if split not in self.starts:
            raise DataError(f"unknown split {split!r}: choose one of {', '.join(self.starts)}")
        starts = self.starts[split]
        size = self.eval_batch_size
        steps = -(-len(starts) // size)
        windows = torch.arange(steps * size).clamp_(max=len(starts) - 1)
        valid = [min(size, len(starts) - step * size) for step in range(steps)]
        return self._rows(split, windows).view(steps, size), valid

    def series_of(self, split: str) -> torch.Tensor:
        """The number [steps, B] int64 of the series of each window of `evaluation`."""
        starts, size = self.starts[split], self.eval_batch_size
        windows = torch.arange(-(-len(starts) // size) * size).clamp_(max=len(starts) - 1)
        return torch.from_numpy(starts.series_of(windows.numpy())).view(-1, size)

    def _rows(self, split: str, windows: torch.Tensor) -> torch.Tensor:
        """The first rows of these windows, in the same memory: there are as many as rows of the series."""
        for some in windows.split(ROWS_AT_A_TIME):
            some.copy_(torch.from_numpy(self.starts[split].at(some.numpy())))
        return windows


class Feed(ABC):
    """Batches of a series on a device. A feed defines `_open`, `_batches` and `close`."""

    gathered_on_device = False
    """Whether asking for a batch queues its gather on the compute stream: that work is part of the training step."""

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
        eval_batch_size: int | None = None,
    ) -> None:
        """Raises DataError for an impossible length or number of workers, a batch size below 1 or above the number of
        training windows, and DataUnsupported if this machine lacks the memory.

        eval_batch_size: windows of an evaluation batch where the feed can choose it, as one that gathers on the device
            can; None: as many as of a training batch. The others have buffers of one size.
        """
        self._plan = BatchPlan(
            series,
            context_length=context_length,
            prediction_length=prediction_length,
            batch_size=batch_size,
            seed=seed,
            eval_batch_size=eval_batch_size if self.gathered_on_device else None,
        )
        self._device = torch.device(device)
        self._several = len(series.groups) > 1
        mask = None if series.filled is None else shared_tensor(series.filled.view(np.uint8))
        self._filled = None if mask is None else window_view(mask, context_length, prediction_length)
        self._lengths = context_length, prediction_length
        self.channels = len(series.columns)
        self.steps_per_epoch = self._plan.steps_per_epoch
        """Training batches per epoch."""
        self.windows_per_epoch = self._plan.steps_per_epoch * batch_size
        """Training windows per epoch: all but those of the last partial batch."""
        self._open(series, num_workers)

    def num_windows(self, split: str) -> int:
        """Windows of the split."""
        return len(self._plan.starts[split])

    def first_rows(self, split: str) -> torch.Tensor:
        """The first row [windows] int64 of each window of the split, in the order of `eval_batches`."""
        return self._plan.evaluation(split)[0].flatten()[: self.num_windows(split)]

    def train_batches(self, epoch: int) -> Iterator[Batch]:
        """The training windows in an order drawn from (seed, epoch). The last partial batch is dropped."""
        starts = self._plan.train(epoch)
        return self._batches(starts, [starts.shape[1]] * len(starts))

    def eval_batches(self, split: str) -> Iterator[Batch]:
        """Every window of the split once, series by series, each in time order. The last batch is padded; its `valid`
        says how far."""
        starts, valid = self._plan.evaluation(split)
        batches = self._batches(starts, valid)
        if self._filled is None and not self._several:
            return batches
        return self._with_facts(batches, starts, self._plan.series_of(split))

    def _with_facts(self, batches: Iterator[Batch], starts: torch.Tensor, series: torch.Tensor) -> Iterator[Batch]:
        """The batches with the cells that are observed, if some are not, and the series, if there are several."""
        for batch, batch_starts, batch_series in zip(batches, starts, series, strict=True):
            observed = None
            if self._filled is not None:
                filled = self._filled.index_select(0, batch_starts).view(batch.future.shape)
                observed = (filled == 0).to(self._device)
            yield replace(batch, observed=observed, series=batch_series.to(self._device) if self._several else None)

    @abstractmethod
    def close(self) -> None:
        """Stop workers and release memory."""

    @property
    def _batch_bytes(self) -> int:
        return 4 * self._plan.batch_size * sum(self._lengths) * self.channels

    @abstractmethod
    def _open(self, series: Series, num_workers: int) -> None:
        """Take the memory and start the workers that the batches need."""

    @abstractmethod
    def _batches(self, starts: torch.Tensor, valid: Sequence[int]) -> Iterator[Batch]:
        """One batch for each row of `starts` [steps, B] (first rows of its windows) and its `valid`."""


def refuse_workers(feed: str, num_workers: int) -> None:
    """Raise DataError if a feed without workers is given some."""
    if num_workers:
        raise DataError(
            f"feed '{feed}' has no workers, but num_workers is {num_workers}: set it to 0, or use the feed 'arrow'"
        )


def shared_tensor(array: np.ndarray) -> torch.Tensor:
    """`array` as a tensor over the same memory, without a copy. Do not write to the tensor."""
    writable = array.view()
    if isinstance(array.base, np.ndarray) and array.base.flags.writeable:
        writable.flags.writeable = True
    return torch.from_numpy(writable)


def window_view(rows: torch.Tensor, first: int, length: int) -> torch.Tensor:
    """All windows of `length` rows of `rows` [T, C], the first one from row `first`, as a view [N, length * C]."""
    n_rows, channels = rows.shape
    count = n_rows - first - length + 1
    return rows.as_strided((count, length * channels), (channels, 1), rows.storage_offset() + first * channels)


def _mix(seed: int, epoch: int) -> int:
    """One generator seed from two numbers. Up to chance, only equal pairs give equal seeds."""
    state = np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))
