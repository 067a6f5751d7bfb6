"""A DataLoader whose workers live as long as the feed and serve every split and epoch."""

from __future__ import annotations

import multiprocessing
import os
import select
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import torch
from torch.utils.data import DataLoader, Dataset

from data_pipeline.errors import DataError, DataUnsupported

MAX_WORKERS = 64


class Requests:
    """A batch sampler with new requests for each pass. One worker answers a request as a whole."""

    def __init__(self) -> None:
        self.pending: Iterable[Any] = ()

    def __iter__(self) -> Iterator[Any]:
        yield from self.pending


class Answers(Dataset):
    """The dataset's answers to requests. It returns a DataError as an answer: a loader would bury it in a traceback."""

    def __init__(self, dataset: Any, collate: Callable[[Any], Any]) -> None:
        self._dataset, self._collate = dataset, collate

    def __getitems__(self, request: Any) -> Any:
        """The answer, or the DataError that the dataset raised."""
        try:
            if hasattr(self._dataset, "__getitems__"):
                return self._collate(self._dataset.__getitems__(request))
            return self._collate([self._dataset[window] for window in request])
        except DataError as error:
            return error


class EndWith:
    """Called in a worker: ends it as soon as the process `pid` has ended, however that happens.

    PyTorch lets a worker end with its parent. Here that is the fork server, which ends with its last worker.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid

    def __call__(self, worker: int) -> None:
        try:
            watched = os.pidfd_open(self._pid)
        except ProcessLookupError:
            os._exit(1)
        threading.Thread(target=_exit_after, args=(watched,), daemon=True).start()


def _exit_after(watched: int) -> None:
    select.select([watched], [], [])
    os._exit(1)


class Answering(Protocol):
    """What answers requests for windows."""

    def answers(self, requests: Iterable[Any]) -> Iterator[Any]:
        """The answer to each request, in order. Read only the latest pass."""
        ...

    def close(self) -> None:
        """Stop what works in the background."""
        ...


class Loader:
    """Sends requests to a dataset's `__getitems__`, in this process or in workers, and returns answers in order.

    The constructor starts the workers, from a fork server because a process that used CUDA or Ray's threads must not be
    forked. They stay alive between passes.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        num_workers: int,
        prefetch: int,
        collate: Callable[[Any], Any],
        preload: str,
        warm_up: Any,
    ) -> None:
        """The fork server imports the module `preload` once for all workers. Each worker answers the request `warm_up`
        before the constructor returns."""
        self._requests = Requests()
        self._pass = 0
        workers: dict[str, Any] = {}
        if num_workers:
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload([preload])
            workers = {"multiprocessing_context": context, "persistent_workers": True, "prefetch_factor": prefetch}
            workers["worker_init_fn"] = EndWith(os.getpid())
        self._loader: DataLoader | None = DataLoader(
            Answers(dataset, collate),
            batch_sampler=self._requests,
            num_workers=num_workers,
            collate_fn=as_is,
            generator=torch.Generator(),  # a loader draws a seed each pass; not from dropout's random state
            **workers,
        )
        for _ in self.answers([warm_up] * num_workers):  # request i goes to worker i
            pass

    def answers(self, requests: Iterable[Any]) -> Iterator[Any]:
        """The answer to each request. Read only the latest pass. Raises the dataset's DataError."""
        if self._loader is None:
            raise RuntimeError("this feed is closed")
        self._pass += 1
        this_pass = self._pass
        self._requests.pending = requests
        answers = iter(self._loader)
        while True:
            if this_pass != self._pass:  # checked before taking an answer: with workers, both passes read one queue
                raise RuntimeError("a newer pass over this feed has begun: read one pass at a time")
            try:
                answer = next(answers)
            except StopIteration:
                return
            if isinstance(answer, DataError):
                raise answer
            yield answer

    def close(self) -> None:
        """Stop the workers."""
        self._pass += 1
        self._loader = None


def check_workers(num_workers: int) -> None:
    """Raise DataError for an impossible number of workers."""
    if not 0 <= num_workers <= MAX_WORKERS:
        raise DataError(f"num_workers is {num_workers}: give 0 to {MAX_WORKERS}")


def check_shared_memory(num_workers: int, windows: int, n_bytes: int) -> None:
    """Raise DataUnsupported if workers need `n_bytes` of shared memory, for `windows` windows at a time, and less is
    free."""
    free = shared_memory_free() if num_workers else None
    if free is not None and n_bytes > free:
        raise DataUnsupported(
            f"{num_workers} workers need {-(-n_bytes >> 20)} MiB of shared memory for {windows} windows at a time, but "
            f"/dev/shm has {free >> 20} MiB: use fewer workers, a smaller batch, feed 'device' or a larger /dev/shm "
            "(--shm-size)"
        )


def as_is(answer: Any) -> Any:
    """A collate function for datasets that return whole batches."""
    return answer


def shared_memory_free() -> int | None:
    """Free bytes for memory shared between processes, None if unknown."""
    try:
        stat = os.statvfs("/dev/shm")  # only its size is read  # nosec B108
    except OSError:
        return None
    return stat.f_bavail * stat.f_frsize
