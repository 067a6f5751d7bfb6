"""The feed that leaves the series in its file: threads read batches through the page cache into page-locked slots.

A series of any size can be read: the kernel keeps in memory what fits. Slots, and their copies to a GPU, are those of
the feed 'arrow', whose workers are processes. Threads of this process share its slots: nothing is
pickled, and a batch is split among them.

Shapes: B windows of a batch, L context rows, H horizon rows, C channels.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

import numpy as np
import torch

from data_pipeline.errors import DataError
from data_pipeline.feed.arrow import COPIES, ArrowFeed, Copier, Request, Slots, map_current
from data_pipeline.feed.batches import refuse_workers
from data_pipeline.series.store import Series

MOST_THREADS = 8
"""More did not fill a bus faster (docs/measurements.md)."""
PIECE_BYTES = 1 << 20
"""A thread gathers at least this much: handing over a piece takes some 20 us."""
AHEAD = 2
"""Batches that are gathered ahead."""


class MappedFeed(ArrowFeed):
    """The module's docstring describes it."""

    def _open(self, series: Series, num_workers: int) -> None:
        refuse_workers("mapped", num_workers)
        self._copier = Copier(self._device) if self._device.type == "cuda" else None
        self._chunk = 1
        batch_size, number = self._plan.batch_size, AHEAD + COPIES
        past, future = (torch.empty(number, batch_size, length * self.channels) for length in self._lengths)
        self._slots = Slots(past=past, future=future)
        if self._copier:
            self._copier.pin(self._slots)
        reader = WindowReader(series.path, series.source_sha256, self._lengths, self._slots)
        pieces = -(-self._batch_bytes // PIECE_BYTES)
        self._loader = Threads(reader, pieces=max(1, min(pieces, MOST_THREADS, len(os.sched_getaffinity(0)))))


class WindowReader:
    """Reads windows of the scaled rows of an Arrow file into slots, one system call for each.

    Reading a mapping instead is faster while the file is in the page cache. Where it is not, each page is a fault of
    its own, or the kernel reads ahead what no window needs: windows lie at random rows.
    """

    def __init__(self, path: Path, source_sha256: str, lengths: tuple[int, int], slots: Slots) -> None:
        """Raises DataError if the file is of another source than the trial began with."""
        mapped = map_current(path, source_sha256)
        self._path, self._row_bytes = path, mapped.arrays["scaled"].strides[0]
        self._window_bytes = sum(lengths) * self._row_bytes
        self._offset = mapped.offsets["scaled"]
        self._past, self._future = slots.past.numpy(), slots.future.numpy()
        self._descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_RANDOM)

    def read(self, slot: int, first: int, starts: np.ndarray) -> None:
        """Write the windows that start at these rows into the slot, from its window `first` on. Raises DataError."""
        past, future = self._past[slot], self._future[slot]
        for at, offset in enumerate((self._offset + starts * self._row_bytes).tolist(), start=first):
            if os.preadv(self._descriptor, (past[at], future[at]), offset) != self._window_bytes:
                raise DataError(f"{self._path}: cut during this trial: run the trial again")

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


class Threads:
    """Sends requests to a `WindowReader` in threads, and returns answers in order, as `Loader` does."""

    def __init__(self, reader: WindowReader, *, pieces: int) -> None:
        """pieces: parts into which a batch is split, a thread for each."""
        self._reader, self._pieces = reader, pieces
        self._pass = 0
        self._in_flight: deque[tuple[int, list[Future[None]]]] = deque()
        self._pool: ThreadPoolExecutor | None = ThreadPoolExecutor(pieces, thread_name_prefix="gather")

    def answers(self, requests: Iterable[Request]) -> Iterator[int]:
        """The slot of each request, once it is filled. Read only the latest pass. Raises the reader's DataError."""
        if self._pool is None:
            raise RuntimeError("this feed is closed")
        self._pass += 1
        this_pass, coming = self._pass, iter(requests)
        self._settle()
        while True:
            if this_pass != self._pass:
                raise RuntimeError("a newer pass over this feed has begun: read one pass at a time")
            while len(self._in_flight) <= AHEAD and (request := next(coming, None)) is not None:
                self._in_flight.append((request[0], self._submit(*request)))
            if not self._in_flight:
                return
            slot, parts = self._in_flight.popleft()
            for part in parts:
                part.result()
            yield slot

    def _settle(self) -> None:
        """Wait for what a pass that was left early has asked for: it writes into the same slots."""
        for _, parts in self._in_flight:
            wait(parts)
        self._in_flight.clear()

    def close(self) -> None:
        """Stop the threads."""
        self._pass += 1
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._reader.close()
        self._pool = None

    def _submit(self, slot: int, starts: np.ndarray) -> list[Future[None]]:
        assert self._pool is not None
        firsts = range(0, len(starts), -(-len(starts) // self._pieces))
        return [
            self._pool.submit(self._reader.read, slot, first, starts[first : first + firsts.step]) for first in firsts
        ]
