"""The feed that keeps the whole series in page-locked host memory, from where a GPU gathers the windows itself.

The GPU reads host memory at the addresses that the host uses (unified addressing), so one kernel gathers a batch over
the bus, without a copy on the host. It runs on a separate stream, one batch ahead of the step.

Shapes: B windows of a batch, L context rows, H horizon rows, C channels, T rows of the series.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from data_pipeline.feed.batches import Batch, Feed, refuse_workers, shared_tensor, window_view
from data_pipeline.feed.placement import check_host_memory
from data_pipeline.series.store import Series

COPY_ROWS_BYTES = 64 << 20
"""The series is copied from its file in blocks of this size."""


class PinnedFeed(Feed):
    """The module's docstring describes it. On a CPU it gathers from a copy in memory."""

    _rows: torch.Tensor | None = None
    _past: torch.Tensor | None = None
    _future: torch.Tensor | None = None

    def close(self) -> None:
        """Release the series."""
        if self._rows is not None and self._stream is not None:
            self._stream.synchronize()
            torch.cuda.check_error(torch.cuda.cudart().cudaHostUnregister(self._rows.data_ptr()))
        self._rows = self._past = self._future = None

    def _open(self, series: Series, num_workers: int) -> None:
        refuse_workers("pinned", num_workers)
        check_host_memory(series.scaled.nbytes)
        on_gpu = self._device.type == "cuda"
        self._stream = torch.cuda.Stream(self._device) if on_gpu else None
        self._rows = _copied(shared_tensor(series.scaled))
        rows = _on_gpu(self._rows, self._device) if on_gpu else self._rows
        context_length, horizon = self._lengths
        self._past = window_view(rows, 0, context_length)
        self._future = window_view(rows, context_length, horizon)

    def _batches(self, starts: torch.Tensor, valid: Sequence[int]) -> Iterator[Batch]:
        ahead: Batch | None = None
        on_device = starts.to(self._device)
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream(self._device))
        for batch_starts, count in zip(on_device, valid, strict=True):
            following = self._gathered(batch_starts, count)
            if ahead is not None:
                yield _handed_over(ahead)
            ahead = following
        if ahead is not None:
            yield _handed_over(ahead)

    def _gathered(self, starts: torch.Tensor, valid: int) -> Batch:
        if self._past is None or self._future is None:
            raise RuntimeError("this feed is closed")
        with torch.cuda.stream(self._stream):  # does nothing on a CPU
            past, future = (
                rows.index_select(0, starts).view(len(starts), -1, self.channels) for rows in (self._past, self._future)
            )
            ready = self._stream.record_event() if self._stream is not None else None
        return Batch(past=past, future=future, valid=valid, ready=ready)


def _handed_over(batch: Batch) -> Batch:
    """`batch`, whose memory the allocator keeps until the present stream has read it."""
    if batch.ready is not None:
        for tensor in (batch.past, batch.future):
            tensor.record_stream(torch.cuda.current_stream(tensor.device))
    return batch


def _copied(rows: torch.Tensor) -> torch.Tensor:
    """The rows [T, C] in memory of this process. torch's own pinned memory would round it up to a power of two."""
    copy = torch.empty_like(rows)
    block = max(1, COPY_ROWS_BYTES // (4 * rows.shape[1]))
    for first in range(0, len(rows), block):
        copy[first : first + block] = rows[first : first + block]
    return copy


def _on_gpu(rows: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The same memory as a tensor of the GPU, page-locked. Keep `rows` until it is unlocked."""
    torch.cuda.check_error(torch.cuda.cudart().cudaHostRegister(rows.data_ptr(), rows.nbytes, 0))
    return torch.as_tensor(_Memory(rows), device=device)


class _Memory:
    """Host memory, as CUDA's array interface describes it (numba, "CUDA Array Interface", version 3)."""

    def __init__(self, rows: torch.Tensor) -> None:
        self.__cuda_array_interface__: dict[str, Any] = {
            "shape": tuple(rows.shape),
            "typestr": "<f4",
            "data": (rows.data_ptr(), False),
            "strides": None,
            "version": 3,
        }
