"""Windows gathered on the device: past and future of a batch from the series, in one kernel or by two operators.

A window's rows lie together in the series, and so do their channels: it is one run of (L + H) x C numbers. The kernel
copies each run once and in order, so that it moves at the memory's bandwidth for any number of channels.

Shapes: B windows, L context rows, H horizon rows, C channels, T rows of the series.
"""

from __future__ import annotations

import torch
from torch import Tensor

from data_pipeline.feed.batches import window_view

BLOCK, WARPS = 4_096, 8  # numbers of a program, 16 of a thread: enough loads on their way to fill the memory's queue


class Windows:
    """A series [T, C] on its device, and how windows are gathered from it: by the kernel on CUDA."""

    def __init__(
        self, rows: Tensor, context_length: int, prediction_length: int, *, kernel: bool | None = None
    ) -> None:
        self._rows, self._lengths = rows, (context_length, prediction_length)
        self._kernel = rows.is_cuda if kernel is None else kernel
        self._past = window_view(rows, 0, context_length)
        self._future = window_view(rows, context_length, prediction_length)

    def gather(self, starts: Tensor) -> tuple[Tensor, Tensor]:
        """First rows [B] int64 -> past [B, L, C] and future [B, H, C]. It does not synchronise."""
        if self._kernel:
            return gather_by_kernel(self._rows, starts, *self._lengths)
        shape = len(starts), -1, self._rows.shape[1]
        return self._past.index_select(0, starts).view(shape), self._future.index_select(0, starts).view(shape)


def gather_by_kernel(
    rows: Tensor, starts: Tensor, context_length: int, prediction_length: int
) -> tuple[Tensor, Tensor]:
    """`Windows.gather` in one launch."""
    from data_pipeline.feed.gather_kernels import gather_windows

    channels, windows = rows.shape[1], len(starts)
    past = rows.new_empty(windows, context_length, channels)
    future = rows.new_empty(windows, prediction_length, channels)
    of_past, both = context_length * channels, (context_length + prediction_length) * channels
    chunks = -(-both // BLOCK)
    gather_windows[(windows * chunks,)](
        rows, starts, past, future, channels, of_past, both, chunks, BLOCK=BLOCK, num_warps=WARPS
    )
    return past, future


def bytes_moved(windows: int, channels: int, context_length: int, prediction_length: int) -> int:
    """Of a gather: each number is read and written once."""
    return 2 * torch.float32.itemsize * windows * channels * (context_length + prediction_length)
