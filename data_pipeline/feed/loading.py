"""One DataLoader whose workers live as long as the feed, for every split and epoch."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from data_pipeline.errors import DataError, DataUnsupported

MAX_WORKERS = 64


class Requests:
    """A batch sampler whose list of requests is replaced before each pass; each request goes to one worker whole."""

    def __init__(self) -> None:
        self.pending: Iterable[Any] = ()

    def __iter__(self) -> Iterator[Any]:
        yield from self.pending


class Answers(Dataset):
    """The answers to whole requests. A DataError is an answer too: the loader would bury it in its traceback."""

    def __init__(self, dataset: Any, collate: Callable[[Any], Any]) -> None:
        self._dataset, self._collate = dataset, collate

    def __getitems__(self, request: Any) -> Any:
        """The answer, or the DataError met."""
        try:
            if hasattr(self._dataset, "__getitems__"):
                return self._collate(self._dataset.__getitems__(request))
            return self._collate([self._dataset[at] for at in request])
        except DataError as error:
            return error


class Loader:
    """Sends requests to a dataset's `__getitems__`, in this process or in workers, and returns answers in order.

    Workers come from a fork server (a process that has used CUDA or Ray's threads must not be forked), are started
    here and kept between passes.
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
        """`preload` is the module that the fork server imports once for all workers, `warm_up` a request that each
        worker answers before this returns."""
        self._requests = Requests()
        self._pass = 0
        workers: dict[str, Any] = {}
        if num_workers:
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload([preload])
            workers = {"multiprocessing_context": context, "persistent_workers": True, "prefetch_factor": prefetch}
        self._loader: DataLoader | None = DataLoader(
            Answers(dataset, collate),
            batch_sampler=self._requests,
            num_workers=num_workers,
            collate_fn=as_is,
            generator=torch.Generator(),  # a loader draws a seed each pass; dropout's random state is not its to use
            **workers,
        )
        for _ in self.answers([warm_up] * num_workers):  # request i goes to worker i
            pass

    def answers(self, requests: Iterable[Any]) -> Iterator[Any]:
        """The answer to each request. Only the latest pass may be read from. Raises DataError as the dataset did."""
        if self._loader is None:
            raise RuntimeError("this feed is closed")
        self._pass += 1
        mine = self._pass
        self._requests.pending = requests
        answers = iter(self._loader)
        while True:
            if mine != self._pass:  # before an answer is taken: with workers, both passes read from one queue
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
        raise DataError(f"num_workers is {num_workers}: it must be between 0 and {MAX_WORKERS}")


def check_shared_memory(num_workers: int, windows: int, n_bytes: int) -> None:
    """Raise DataUnsupported where `n_bytes`, for `windows` windows at a time, are more than is free."""
    free = shared_memory_free() if num_workers else None
    if free is not None and n_bytes > free:
        raise DataUnsupported(
            f"{num_workers} workers need {-(-n_bytes >> 20)} MiB of shared memory for {windows} windows at a time, "
            f"/dev/shm has {free >> 20} MiB: use fewer workers, a smaller batch, feed 'device' or a larger /dev/shm "
            "(--shm-size)"
        )


def as_is(answer: Any) -> Any:
    """A collate function for datasets that return whole batches."""
    return answer


def shared_memory_free() -> int | None:
    """Bytes free for memory shared between processes, None where it cannot be told."""
    try:
        stat = os.statvfs("/dev/shm")  # asked for its size  # nosec B108
    except OSError:
        return None
    return stat.f_bavail * stat.f_frsize
