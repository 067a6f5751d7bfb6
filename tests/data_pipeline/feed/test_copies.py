"""Copies to a GPU never read a slot that a worker writes again. Some tests need a GPU, the others simulate one."""

from __future__ import annotations

import contextlib

import pytest
import torch

from data_pipeline.feed import arrow as arrow_feed
from data_pipeline.feed import open_feed
from data_pipeline.feed.arrow import COPIES, MAX_CHUNK, PREFETCH, Copier
from data_pipeline.series.store import open_series

OPTIONS = dict(context_length=48, prediction_length=12, batch_size=8, seed=1)
WAYS = [("device", 0), ("pinned", 0), ("mapped", 0), ("arrow", 0), ("arrow", 2), ("arrow", 4), ("tsfm", 0)]
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    return open_series("demo", None, tmp_path_factory.mktemp("cache"))


def writes_of_a_slot(feed, chunk):
    return feed.steps_per_epoch / (chunk * len(feed._slots))


class LateEvent:
    """An event of a copy that completes only when somebody waits for it."""

    def __init__(self):
        self.complete = False

    def record(self, _stream):
        pass

    def synchronize(self):
        self.complete = True


class NoStream:
    def __init__(self, *_):
        pass

    def synchronize(self):
        pass


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_a_slot_is_written_again_only_after_its_copy_is_complete(workers, monkeypatch):
    monkeypatch.setattr(torch.cuda, "Stream", NoStream)
    monkeypatch.setattr(torch.cuda, "Event", LateEvent)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: None)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda *_: None)
    in_flight = workers * PREFETCH
    n_slots, steps = in_flight + COPIES, 40
    yielded = []

    def loader():
        """Like the DataLoader, it has sent `in_flight` requests beyond the answer that is asked for."""
        for step in range(steps):
            overwritten = step + in_flight - n_slots
            assert all(ready.complete for _, _, ready in yielded[: max(0, overwritten + 1)])
            yield torch.full((1,), step), torch.full((1,), step)

    for chunk in Copier(torch.device("cpu")).chunks(loader()):
        yielded.append(chunk)
        assert int(chunk[0]) == int(chunk[1]) == len(yielded) - 1
    assert len(yielded) == steps


@needs_cuda
@pytest.mark.parametrize("chunk", [1, MAX_CHUNK])
@pytest.mark.parametrize(("name", "workers"), WAYS)
def test_batches_on_the_gpu_equal_those_on_the_cpu(name, workers, chunk, series, monkeypatch):
    monkeypatch.setattr(arrow_feed, "_chunk_size", lambda *_: chunk)
    reference = open_feed("device", series, device="cpu", num_workers=0, **OPTIONS)
    feed = open_feed(name, series, device="cuda", num_workers=workers, **OPTIONS)
    assert name != "arrow" or writes_of_a_slot(feed, chunk) > 2
    try:
        next(feed.train_batches(9))  # a pass left early
        for method, argument in (("train_batches", 1), ("eval_batches", "test"), ("train_batches", 2)):
            kept = []
            for batch, other in zip(getattr(feed, method)(argument), getattr(reference, method)(argument), strict=True):
                batch.arrived()
                assert batch.past.device.type == "cuda" and batch.valid == other.valid
                torch.cuda._sleep(200_000)  # the compute stream lags behind the copies
                kept.append(((batch.past * 1).cpu() if len(kept) % 5 else batch.past * 1, batch.future * 1, other))
            for past, future, other in kept:
                assert torch.equal(past.cpu(), other.past) and torch.equal(future.cpu(), other.future)
    finally:
        feed.close()


@pytest.mark.parametrize("free_mib", [None, 64, 4096])
@pytest.mark.parametrize("workers", [0, 1, 2, 8, 16])
@pytest.mark.parametrize("batch_mib", [0.01, 2, 36])
def test_a_chunk_holds_as_many_batches_as_memory_allows(free_mib, workers, batch_mib, monkeypatch):
    monkeypatch.setattr(arrow_feed, "shared_memory_free", lambda: free_mib and free_mib << 20)
    chunk = arrow_feed._chunk_size(workers, round(batch_mib * 2**20))
    assert 1 <= chunk <= (MAX_CHUNK if workers else 1)
    slots_mib = (workers * PREFETCH + COPIES) * chunk * batch_mib
    assert chunk == 1 or slots_mib <= min(256, (free_mib or 4096) / 2)


@pytest.mark.parametrize("chunk", [1, 2, 3, 8])
def test_batches_do_not_depend_on_the_size_of_a_chunk(chunk, series, monkeypatch):
    monkeypatch.setattr(arrow_feed, "_chunk_size", lambda *_: chunk)
    reference = open_feed("device", series, device="cpu", num_workers=0, **OPTIONS)
    feed = open_feed("arrow", series, device="cpu", num_workers=1, **OPTIONS)
    assert writes_of_a_slot(feed, chunk) > 2
    try:
        for method, argument in (("train_batches", 1), ("eval_batches", "test")):
            for mine, other in zip(getattr(feed, method)(argument), getattr(reference, method)(argument), strict=True):
                assert torch.equal(mine.past, other.past) and torch.equal(mine.future, other.future)
                assert mine.valid == other.valid
    finally:
        feed.close()


@needs_cuda
@pytest.mark.parametrize("workers", [0, 2])
def test_copies_are_from_pinned_memory_and_ready_is_an_event(workers, series):
    feed = open_feed("arrow", series, device="cuda", num_workers=workers, **OPTIONS)
    try:
        assert feed._slots.past.is_pinned() and feed._slots.future.is_pinned()
        assert all(isinstance(batch.ready, torch.cuda.Event) for batch in feed.eval_batches("validation"))
    finally:
        feed.close()
