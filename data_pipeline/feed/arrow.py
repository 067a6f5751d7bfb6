"""The feed that gathers windows from the mapped file, in this process or in workers, a chunk of batches at a time.

Workers write into slots: memory that they share with this process. So no batch is pickled, and its pages are faulted
in once. For a GPU the slots are pinned, and copied on a separate stream while the device computes the chunk before.
Each request to a loader costs the training process some tenths of a millisecond, in which it launches no kernel. So a
chunk holds several batches if memory allows, and the cost is paid once for all of them.

Shapes: B windows of a batch, L context rows, H horizon rows, C channels.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from data_pipeline.errors import DataError
from data_pipeline.feed.batches import Batch, Feed, shared_tensor, window_view
from data_pipeline.feed.loading import Answering, Loader, as_is, check_shared_memory, check_workers, shared_memory_free
from data_pipeline.series.arrow_file import MappedFile, map_file
from data_pipeline.series.store import Series

PREFETCH = 2
"""Chunks that each worker prepares ahead."""
MAX_CHUNK = 8
"""Most batches in a chunk."""
SLOT_BYTES = 256 << 20
"""Chunks get smaller once all slots together would be larger than this."""
COPIES = 3
"""Slots beyond those of the workers: one being copied, one waiting, one that the loader holds."""

# (slot, first rows of the windows). A NumPy array travels to a worker by value; a tensor would cost a shared-memory
# file and its descriptor per request.
Request = tuple[int, np.ndarray]
Windows = tuple[torch.Tensor, torch.Tensor]
Chunk = tuple[torch.Tensor, torch.Tensor, "torch.cuda.Event | None"]


@dataclass(frozen=True, kw_only=True)
class Slots:
    """Memory for the chunks in flight, one slot each."""

    past: torch.Tensor
    """[slots, chunk * B, L * C] float32."""
    future: torch.Tensor
    """[slots, chunk * B, H * C] float32."""

    def __len__(self) -> int:
        return len(self.past)


class WindowDataset(Dataset):
    """Windows of the scaled rows of an Arrow file. The process that asks for the first window maps the file."""

    def __init__(self, path: Path, source_sha256: str, lengths: tuple[int, int], slots: Slots | None) -> None:
        self._path, self._sha256, self._lengths, self._slots = path, source_sha256, lengths, slots
        self._views: Windows | None = None

    def __getitems__(self, request: Request) -> int | Windows:
        """Gather the windows that start at the given rows into the given slot, and return its number.

        Without slots, return the windows [n, L * C] and [n, H * C] in new memory.
        """
        slot, starts = request[0], torch.from_numpy(request[1])
        past, future = self._mapped()
        if self._slots is None:
            return past.index_select(0, starts), future.index_select(0, starts)
        torch.index_select(past, 0, starts, out=self._slots.past[slot, : len(starts)])
        torch.index_select(future, 0, starts, out=self._slots.future[slot, : len(starts)])
        return slot

    def _mapped(self) -> Windows:
        if self._views is None:
            file = map_current(self._path, self._sha256)
            rows = shared_tensor(file.arrays["scaled"])
            context, horizon = self._lengths
            self._views = window_view(rows, 0, context), window_view(rows, context, horizon)
        return self._views

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_views": None}


def map_current(path: Path, source_sha256: str) -> MappedFile:
    """The mapped file. Raises DataError if it is of another source than the trial began with."""
    file = map_file(path, check=False)
    if file.metadata["source_sha256"] != source_sha256:
        raise DataError(f"{path}: replaced during this trial because its source changed: run the trial again")
    return file


class ArrowFeed(Feed):
    """The module's docstring describes it."""

    _slots: Slots | None = None
    _loader: Answering

    def close(self) -> None:
        """Stop the workers and release the slots."""
        self._loader.close()
        if self._copier:
            self._copier.close()
        self._slots = None

    @property
    def slot_bytes(self) -> int:
        """Bytes of the slots: shared with the workers, page-locked if the device is a GPU."""
        return self._slots.past.nbytes + self._slots.future.nbytes if self._slots else 0

    def _open(self, series: Series, num_workers: int) -> None:
        check_workers(num_workers)
        self._copier = Copier(self._device) if self._device.type == "cuda" else None
        self._chunk = _chunk_size(num_workers, self._batch_bytes)
        if num_workers or self._copier:
            self._slots = _slots(num_workers, self._chunk * self._plan.batch_size, self._lengths, self.channels)
        if self._copier and self._slots:
            self._copier.pin(self._slots)
        self._loader = Loader(
            WindowDataset(series.path, series.source_sha256, self._lengths, self._slots),
            num_workers=num_workers,
            prefetch=PREFETCH,
            collate=as_is,
            preload="data_pipeline.feed.arrow",
            warm_up=(0, np.zeros(1, dtype=np.int64)),
        )

    def _batches(self, starts: torch.Tensor, valid: Sequence[int]) -> Iterator[Batch]:
        n_slots = len(self._slots) if self._slots else 1
        chunks = starts.split(self._chunk)  # each [steps, B]
        requests = ((index % n_slots, chunk.flatten().numpy()) for index, chunk in enumerate(chunks))
        answers = zip(self._loader.answers(requests), chunks, strict=True)
        windows = (self._windows(answer, chunk.numel()) for answer, chunk in answers)
        counts = iter(valid)
        for past, future, ready in self._copier.chunks(windows) if self._copier else self._on_cpu(windows):
            for past_BLC, future_BHC in zip(past.split(starts.shape[1]), future.split(starts.shape[1]), strict=True):
                yield Batch(past=past_BLC, future=future_BHC, valid=next(counts), ready=ready)

    def _on_cpu(self, windows: Iterator[Windows]) -> Iterator[Chunk]:
        """Chunks on the CPU, copied out of their slots: a caller may keep batches, but workers reuse slots."""
        for past, future in windows:
            if self._slots:
                past, future = past.clone(), future.clone()
            yield past, future, None

    def _windows(self, answer: int | Windows, number: int) -> Windows:
        """[number, L, C] and [number, H, C] of an answer, on the CPU."""
        if isinstance(answer, int):
            assert self._slots is not None
            answer = self._slots.past[answer, :number], self._slots.future[answer, :number]
        past, future = (
            rows.view(number, length, self.channels) for rows, length in zip(answer, self._lengths, strict=True)
        )
        return past, future


class Copier:
    """Copies chunks from pinned slots to a GPU on a separate stream, one chunk ahead."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._pinned: list[torch.Tensor] = []

    def pin(self, slots: Slots) -> None:
        """Page-lock the slots in place, so that the copy engine reads what the workers wrote."""
        runtime = torch.cuda.cudart()
        for tensor in (slots.past, slots.future):
            torch.cuda.check_error(runtime.cudaHostRegister(tensor.data_ptr(), tensor.nbytes, 0))
            self._pinned.append(tensor)

    def chunks(self, windows: Iterator[Windows]) -> Iterator[Chunk]:
        """Chunks on the device, each with an event that its copy completes."""
        self._stream.synchronize()  # a pass that ended early may still copy from the slots
        waiting: deque[Chunk] = deque()
        copied: deque[torch.cuda.Event] = deque()
        while True:
            if len(copied) == COPIES:  # workers write the oldest chunk's slot next
                copied.popleft().synchronize()
            following = next(windows, None)
            if following is not None:
                waiting.append(self._copy(*following))
                event = waiting[-1][2]
                assert event is not None
                copied.append(event)
            if not waiting:
                return
            if len(waiting) == 2 or following is None:
                past, future, ready = waiting.popleft()
                for tensor in (past, future):
                    tensor.record_stream(torch.cuda.current_stream(self._device))
                yield past, future, ready

    def close(self) -> None:
        """Unlock the slots."""
        self._stream.synchronize()
        for tensor in self._pinned:
            torch.cuda.check_error(torch.cuda.cudart().cudaHostUnregister(tensor.data_ptr()))
        self._pinned.clear()

    def _copy(self, past: torch.Tensor, future: torch.Tensor) -> Chunk:
        with torch.cuda.stream(self._stream):
            ready = torch.cuda.Event()
            past, future = (tensor.to(self._device, non_blocking=True) for tensor in (past, future))
            ready.record(self._stream)
        return past, future, ready


def _chunk_size(num_workers: int, batch_bytes: int) -> int:
    """Batches in a chunk: as many as the slots may hold, at most MAX_CHUNK. Without workers it is 1."""
    if not num_workers:
        return 1
    free = shared_memory_free()
    room = SLOT_BYTES if free is None else min(SLOT_BYTES, free // 2)
    return max(1, min(MAX_CHUNK, room // (_number_of_slots(num_workers) * batch_bytes)))


def _number_of_slots(num_workers: int) -> int:
    return num_workers * PREFETCH + COPIES


def _slots(num_workers: int, windows: int, lengths: tuple[int, int], channels: int) -> Slots:
    """Room for every chunk in flight, `windows` each. Raises DataUnsupported if shared memory is too small."""
    number = _number_of_slots(num_workers)
    check_shared_memory(num_workers, windows, 4 * number * windows * sum(lengths) * channels)
    past, future = (torch.empty(number, windows, length * channels) for length in lengths)
    if num_workers:
        past, future = past.share_memory_(), future.share_memory_()
    return Slots(past=past, future=future)
