"""Every feed hands out the same batches; these tests run over FEEDS."""

from __future__ import annotations

import multiprocessing

import pytest
import torch
from csv_kit import text

from data_pipeline.errors import DataError, DataUnsupported
from data_pipeline.feed import FEEDS, batches, loading, open_feed
from data_pipeline.feed import arrow as arrow_feed
from data_pipeline.feed.batches import BatchPlan
from data_pipeline.series.store import open_series

L, H, B = 48, 12, 32
WITH_WORKERS = [name for name, entry in FEEDS.items() if entry.takes_workers]
WITHOUT_WORKERS = [name for name in FEEDS if name not in WITH_WORKERS]


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    return open_series("demo", None, tmp_path_factory.mktemp("cache"))


@pytest.fixture(params=FEEDS)
def make_feed(request, series):
    made = []

    def make(**changes):
        options = dict(context_length=L, prediction_length=H, batch_size=B, device="cpu", seed=1, num_workers=0)
        made.append(open_feed(request.param, changes.pop("series", series), **{**options, **changes}))
        return made[-1]

    yield make
    for feed in made:
        feed.close()


def test_eval_covers_every_window_once_in_order_and_marks_padding(make_feed, series):
    feed = make_feed()
    rows = torch.from_numpy(series.scaled.copy())
    for split in ("validation", "test"):
        first = series.bounds[split][0] - L
        window = 0
        for batch in feed.eval_batches(split):
            assert batch.past.shape == (B, L, 7) and batch.future.shape == (B, H, 7)
            for at in range(batch.valid):
                start = first + window
                torch.testing.assert_close(batch.past[at], rows[start : start + L], rtol=0, atol=0)
                torch.testing.assert_close(batch.future[at], rows[start + L : start + L + H], rtol=0, atol=0)
                window += 1
            assert (batch.past[batch.valid :] == batch.past[batch.valid - 1]).all()
        assert window == feed.num_windows(split) and batch.valid == window % B != 0


def test_training_order_depends_on_seed_and_epoch_only(make_feed):
    def epoch(feed, number):
        return torch.cat([batch.past[:, 0, 0] for batch in feed.train_batches(number)])

    feed = make_feed()
    assert torch.equal(epoch(feed, 1), epoch(make_feed(), 1)) and torch.equal(epoch(feed, 1), epoch(feed, 1))
    assert not torch.equal(epoch(feed, 1), epoch(feed, 2))
    assert not torch.equal(epoch(feed, 1), epoch(make_feed(seed=2), 1))


def test_every_feed_trains_on_the_same_batches(make_feed, series):
    reference = open_feed(
        "device", series, context_length=L, prediction_length=H, batch_size=B, device="cpu", seed=1, num_workers=0
    )
    for ours, theirs in zip(make_feed().train_batches(3), reference.train_batches(3), strict=True):
        assert torch.equal(ours.past, theirs.past) and torch.equal(ours.future, theirs.future)
        assert ours.valid == theirs.valid == B


def test_training_drops_the_last_partial_batch(make_feed):
    feed = make_feed()
    assert feed.num_windows("train") % B
    assert feed.steps_per_epoch == feed.num_windows("train") // B == len(list(feed.train_batches(1)))
    assert feed.windows_per_epoch == feed.steps_per_epoch * B


def test_a_batch_of_all_training_windows_is_one_step_and_one_more_is_refused_and_never_cut(make_feed):
    windows = make_feed().num_windows("train")
    feed = make_feed(batch_size=windows)
    (batch,) = feed.train_batches(1)
    assert feed.steps_per_epoch == 1 and batch.valid == len(batch.past) == feed.windows_per_epoch == windows
    with pytest.raises(DataError, match=f"batch_size is {windows + 1}, but there are only {windows} training windows"):
        make_feed(batch_size=windows + 1)


def test_one_epoch_holds_no_window_twice(make_feed):
    past = torch.cat([batch.past for batch in make_feed().train_batches(1)])
    assert len(torch.unique(past.flatten(1), dim=0)) == len(past)


def test_batches_may_be_kept(make_feed):
    feed = make_feed()
    kept = [(batch, batch.past.clone()) for batch in feed.train_batches(1)]
    assert all(torch.equal(batch.past, copy) for batch, copy in kept)


def test_an_epoch_left_early_does_not_disturb_the_next(make_feed):
    feed = make_feed()
    next(iter(feed.train_batches(1)))
    assert sum(batch.valid for batch in feed.eval_batches("validation")) == feed.num_windows("validation")
    assert len(list(feed.train_batches(2))) == feed.steps_per_epoch


@pytest.mark.parametrize(  # in chunks of one batch every slot is written many times
    ("name", "chunk"), [*((name, 1) for name in WITH_WORKERS), ("arrow", arrow_feed.MAX_CHUNK)]
)
def test_workers_change_no_batch_and_live_through_every_epoch(name, chunk, series, monkeypatch):
    monkeypatch.setattr(arrow_feed, "_chunk_size", lambda *_: chunk)
    options = dict(context_length=L, prediction_length=H, batch_size=B, device="cpu", seed=1)
    alone = open_feed("device", series, num_workers=0, **options)
    before = set(multiprocessing.active_children())
    feed = open_feed(name, series, num_workers=2, **options)
    workers = set(multiprocessing.active_children()) - before
    try:
        for epoch in (1, 2):
            next(feed.train_batches(9))  # a pass left early
            for passes in ("train_batches", epoch), ("eval_batches", "validation"), ("eval_batches", "test"):
                ours, theirs = (list(getattr(source, passes[0])(passes[1])) for source in (feed, alone))
                assert [batch.valid for batch in ours] == [batch.valid for batch in theirs]
                for mine, other in zip(ours, theirs, strict=True):
                    assert torch.equal(mine.past, other.past) and torch.equal(mine.future, other.future)
            assert len(workers) == 2 and set(multiprocessing.active_children()) - before == workers
    finally:
        feed.close()
    assert not set(multiprocessing.active_children()) & workers


@pytest.mark.parametrize("workers", [0, 1])
def test_an_older_pass_is_an_error_and_takes_nothing_from_the_newer_one(workers, series, monkeypatch):
    monkeypatch.setattr(arrow_feed, "_chunk_size", lambda *_: 1)
    options = dict(context_length=L, prediction_length=H, batch_size=B, device="cpu", seed=1)
    want = [batch.past for batch in open_feed("device", series, num_workers=0, **options).train_batches(2)]
    feed = open_feed("arrow", series, num_workers=workers, **options)
    old, new = feed.train_batches(1), feed.train_batches(2)
    next(old)
    got = [next(new).past]
    with pytest.raises(RuntimeError, match="newer pass"):
        next(old)
    got += [batch.past for batch in new]
    assert all(torch.equal(mine, other) for mine, other in zip(got, want, strict=True))
    feed.close()
    with pytest.raises(RuntimeError, match="closed"):
        next(feed.train_batches(1))


@pytest.mark.parametrize("name", WITH_WORKERS)
def test_too_little_shared_memory_is_refused_before_workers_start(name, series, monkeypatch):
    for module in (arrow_feed, loading):
        monkeypatch.setattr(module, "shared_memory_free", lambda: 1 << 20)
    with pytest.raises(DataUnsupported, match="16 workers need .* MiB of shared memory.*--shm-size"):
        open_feed(
            name, series, context_length=512, prediction_length=96, batch_size=512, device="cpu", seed=1, num_workers=16
        )


@pytest.mark.parametrize("workers", [0, 1])
def test_a_workers_error_arrives_in_its_own_words(workers, tmp_path):
    def write(value):
        hours = [f"2020-01-{1 + at // 24:02d} {at % 24:02d}:00:00,{at * value}" for at in range(600)]
        (tmp_path / "own.csv").write_text("\n".join(["date,a", *hours]) + "\n")
        return open_series(str(tmp_path / "own.csv"), None, tmp_path / "cache")

    series = write(1)
    assert write(2).path == series.path
    with pytest.raises(DataError) as caught:
        feed = open_feed(
            "arrow",
            series,
            context_length=L,
            prediction_length=H,
            batch_size=B,
            device="cpu",
            seed=1,
            num_workers=workers,
        )
        next(feed.train_batches(1))
    assert str(caught.value).startswith(f"{series.path}: replaced during") and "Traceback" not in str(caught.value)


@pytest.mark.parametrize("workers", [-1, 1000])
def test_an_impossible_number_of_workers_is_refused(series, workers):
    with pytest.raises(DataError, match="num_workers"):
        open_feed(
            "arrow",
            series,
            context_length=L,
            prediction_length=H,
            batch_size=B,
            device="cpu",
            seed=1,
            num_workers=workers,
        )


@pytest.mark.parametrize("name", WITHOUT_WORKERS)
def test_a_feed_without_workers_refuses_some(name, series):
    with pytest.raises(DataError, match="num_workers is 2.*arrow"):
        open_feed(
            name, series, context_length=L, prediction_length=H, batch_size=B, device="cpu", seed=1, num_workers=2
        )


@pytest.mark.parametrize(("change", "named"), [({"batch_size": 0}, "batch_size"), ({"context_length": 0}, "context")])
def test_impossible_sizes_are_refused(make_feed, change, named):
    with pytest.raises(DataError, match=named):
        make_feed(**change)


def test_an_unknown_split_is_refused(make_feed):
    with pytest.raises(DataError, match="'dev'.*validation"):
        list(make_feed().eval_batches("dev"))


def test_a_series_too_short_for_one_window_is_one_line(tmp_path):
    (tmp_path / "x.csv").write_text(text())
    series = open_series(str(tmp_path / "x.csv"), None, tmp_path / "cache")
    with pytest.raises(DataError, match="train split holds no window.*512 \\+ 96"):
        BatchPlan(series, context_length=512, prediction_length=96, batch_size=8, seed=0)


def test_the_order_of_an_epoch_does_not_depend_on_the_blocks_in_which_it_is_made(series, monkeypatch):
    plan = BatchPlan(series, context_length=L, prediction_length=H, batch_size=B, seed=1)
    whole = plan.train(2), *(plan.evaluation(split)[0] for split in ("validation", "test"))
    monkeypatch.setattr(batches, "ROWS_AT_A_TIME", 7)
    parts = plan.train(2), *(plan.evaluation(split)[0] for split in ("validation", "test"))
    assert all(torch.equal(one, other) for one, other in zip(whole, parts, strict=True))


def test_larger_evaluation_batches_hold_the_same_windows_and_training_stays(series):
    options = dict(context_length=L, prediction_length=H, batch_size=B, device="cpu", seed=1)
    small, large = (open_feed("device", series, eval_batch_size=size, **options) for size in (None, 100))
    for split in ("validation", "test"):
        parts = [list(feed.eval_batches(split)) for feed in (small, large)]
        assert {len(batch.past) for batch in parts[1]} == {100} and len(parts[1]) < len(parts[0])
        for name in ("past", "future"):
            one, other = (torch.cat([getattr(batch, name)[: batch.valid] for batch in part]) for part in parts)
            assert torch.equal(one, other)
        assert torch.equal(small.first_rows(split), large.first_rows(split))
    pairs = zip(small.train_batches(1), large.train_batches(1), strict=True)
    assert all(torch.equal(one.past, other.past) for one, other in pairs)


def test_an_evaluation_batch_is_no_larger_than_a_split_and_no_smaller_than_in_training(series):
    options = dict(context_length=L, prediction_length=H, batch_size=B, seed=1)
    windows = [len(starts) for name, starts in BatchPlan(series, **options).starts.items() if name != "train"]
    assert BatchPlan(series, eval_batch_size=10**6, **options).eval_batch_size == max(windows)
    assert BatchPlan(series, eval_batch_size=1, **options).eval_batch_size == B
    with pytest.raises(DataError, match="eval_batch_size is 0: give at least 1"):
        BatchPlan(series, eval_batch_size=0, **options)


def test_a_feed_with_buffers_of_one_size_evaluates_in_training_batches(series):
    feed = open_feed(
        "mapped", series, context_length=L, prediction_length=H, batch_size=B, device="cpu", seed=1, eval_batch_size=100
    )
    assert {len(batch.past) for batch in feed.eval_batches("test")} == {B}
    feed.close()
