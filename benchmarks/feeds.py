"""Windows per second of every feed, and what concurrent trials cost in memory; no GPU needed.

    python benchmarks/feeds.py              # ETT's and Traffic's shapes, 0 and 2 workers
    python benchmarks/feeds.py --device cuda --workers 0,2,4,8

The series are random numbers in the shapes of ETTm1 (69,680 x 7) and Traffic (17,544 x 862), because only the shape
matters here. Feeds take turns; the table shows the median, slowest and fastest turn. The memory of one more trial is
measured with feed arrow and 0 workers, which map the file. The slots that a feed shares with its workers come on top
for each trial and are listed separately.
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

SHAPES = {"ETT": (69_680, 7, 128), "Traffic": (17_544, 862, 24)}
CONTEXT, HORIZON = 512, 96
TRIALS = 4
GATHERS = 30


def main() -> None:
    """Make the series, time the feeds, measure the memory of trials, print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", default="0,2", help="comma-separated (default 0,2)")
    parser.add_argument("--seconds", type=float, default=2.0, help="per turn (default 2)")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--batch", type=int, help="batch size instead of 128 (ETT) and 24 (Traffic)")
    options = parser.parse_args()
    workers = [int(number) for number in options.workers.split(",")]
    with tempfile.TemporaryDirectory() as folder:
        print(f"{os.cpu_count()} cores, {options.device}, windows of {CONTEXT} + {HORIZON} rows")
        slots: dict[tuple[str, str, int], float] = {}
        for shape in SHAPES:
            path = write_series(Path(folder), shape)
            rates = measure(path, shape, options, workers, slots)
            if shape == "ETT":
                print_ratios(rates, workers)
        print_gathers(options.device)
        print_memory(path)
        print_slots(slots)


def write_series(folder: Path, shape: str) -> Path:
    """A Parquet file of random numbers."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pa_parquet

    rows, channels, _ = SHAPES[shape]
    values = np.random.default_rng(0).standard_normal((channels, rows), dtype=np.float32)
    times = np.datetime64("2016-07-01", "us") + np.arange(rows) * np.timedelta64(900_000_000, "us")
    table = pa.table({"date": times, **{f"c{at}": column for at, column in enumerate(values)}})
    pa_parquet.write_table(table, folder / f"{shape}.parquet")
    return folder / f"{shape}.parquet"


def measure(
    path: Path, shape: str, options: argparse.Namespace, workers: list[int], slots: dict[tuple[str, str, int], float]
) -> dict[tuple[str, int], float]:
    """Median windows per second of each (feed, workers); prints the table, adds the MiB of each feed to `slots`."""
    from data_pipeline.feed import FEEDS, open_feed
    from data_pipeline.series.store import open_series

    series = open_series(str(path), None, path.parent / "cache")
    batch_size = options.batch or SHAPES[shape][2]
    feeds = {}
    for name in FEEDS:
        for number in workers if name != "device" else [0]:
            begun = time.perf_counter()
            feed = open_feed(
                name,
                series,
                context_length=CONTEXT,
                prediction_length=HORIZON,
                batch_size=batch_size,
                device=options.device,
                seed=0,
                num_workers=number,
            )
            slots[shape, name, number] = getattr(feed, "slot_bytes", 0) / 2**20
            feeds[name, number] = feed, time.perf_counter() - begun
            run(feed, options.device, 0.3)
    turns: dict[tuple[str, int], list[float]] = {key: [] for key in feeds}
    for turn in range(options.turns):
        for key in list(feeds)[:: 1 if turn % 2 else -1]:
            turns[key].append(run(feeds[key][0], options.device, options.seconds))
    window_bytes = 4 * (CONTEXT + HORIZON) * len(series.columns)
    print(f"\n{shape}: {len(series.columns)} channels, batch {batch_size}, {window_bytes / 1e6:.3f} MB per window")
    print(f"{'feed':8}{'workers':>8}{'windows/s':>12}{'slowest':>11}{'fastest':>11}{'GB/s':>8}{'start s':>9}")
    for (name, number), rates in turns.items():
        rate = statistics.median(rates)
        print(
            f"{name:8}{number:8}{rate:12,.0f}{min(rates):11,.0f}{max(rates):11,.0f}{rate * window_bytes / 1e9:8.2f}"
            f"{feeds[name, number][1]:9.2f}"
        )
        feeds[name, number][0].close()
    return {key: statistics.median(rates) for key, rates in turns.items()}


def run(feed, device: str, seconds: float) -> float:
    """Windows per second over at least `seconds` of training epochs, every batch waited for."""
    import torch

    windows, epoch, begun = 0, 0, time.perf_counter()
    while True:
        epoch += 1
        for batch in feed.train_batches(epoch):
            windows += batch.arrived().valid
            if time.perf_counter() - begun > seconds:
                if device != "cpu":
                    torch.cuda.synchronize()
                return windows / (time.perf_counter() - begun)


def print_ratios(rates: dict[tuple[str, int], float], workers: list[int]) -> None:
    """How much faster arrow is than tsfm at equal workers."""
    for number in workers:
        print(f"arrow is {rates['arrow', number] / rates['tsfm', number]:.1f} times tsfm with {number} workers each")


def print_gathers(device: str) -> None:
    """How fast the device feed cuts windows, beside a copy of as many bytes: GB/s, read and write counted."""
    import torch

    from data_pipeline.feed.gather import Windows, bytes_moved

    print(f"\ngather of a batch on {device}, GB/s (read and written), median of {GATHERS}:")
    for shape, (rows, channels, batch) in SHAPES.items():
        series = torch.randn(rows, channels, device=device)
        starts = torch.randint(rows - CONTEXT - HORIZON, (batch,), device=device)
        moved = bytes_moved(batch, channels, CONTEXT, HORIZON)
        ways = {"two operators": Windows(series, CONTEXT, HORIZON, kernel=False).gather}
        if device != "cpu":
            ways["one kernel"] = Windows(series, CONTEXT, HORIZON, kernel=True).gather
        source = torch.randn(moved // 8, device=device)
        target = torch.empty_like(source)
        rates = {name: moved / _median_s(functools.partial(way, starts), device) / 1e9 for name, way in ways.items()}
        rates["a copy"] = moved / _median_s(functools.partial(target.copy_, source), device) / 1e9
        print(f"  {shape:9}" + "  ".join(f"{name} {rate:,.0f}" for name, rate in rates.items()))


def _median_s(work: Callable[[], object], device: str) -> float:
    """Of one call; on a GPU by events around it, with the launches before it done."""
    import torch

    times = []
    for _ in range(GATHERS):
        if device == "cpu":
            began_s = time.perf_counter()
            work()
            times.append(time.perf_counter() - began_s)
            continue
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda._sleep(200_000)  # the device is busy until both events and what is between them are queued
        begin.record()
        work()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end) / 1e3)
    return statistics.median(times[2:])


def print_memory(path: Path) -> None:
    """How much the node's memory grows with each further trial that reads the same series."""
    alone, together = held_by(path, 1), held_by(path, TRIALS)
    size = next((path.parent / "cache").glob(f"{path.stem}-*.arrow")).stat().st_size
    print(f"\nmemory for a mapped file of {size / 2**20:.0f} MiB, every page read, 0 workers (proportional set size):")
    print(f"1 trial {alone:.1f} MiB, {TRIALS} trials {together:.1f} MiB in all: ", end="")
    print(f"{(together - alone) / (TRIALS - 1):.1f} MiB for each trial more")


def print_slots(slots: dict[tuple[str, str, int], float]) -> None:
    """The memory of each feed beside the mapped file: each trial has its own, in /dev/shm if it has workers."""
    print("\nslots of each trial, beside the mapped file (tsfm has none: its batches are shared one by one):")
    print(f"{'shape':9}{'feed':8}{'workers':>8}{'slots MiB':>11}")
    for (shape, name, number), mib in slots.items():
        print(f"{shape:9}{name:8}{number:8}{mib:11.1f}")


def held_by(path: Path, trials: int) -> float:
    """MiB that `trials` processes hold together for the series."""
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(trials), context.Queue()
    processes = [context.Process(target=_trial, args=(path, barrier, results)) for _ in range(trials)]
    for process in processes:
        process.start()
    held = sum(results.get() for _ in processes)
    for process in processes:
        process.join()
    return held


def _trial(path: Path, barrier: Barrier, results) -> None:
    from data_pipeline.feed import open_feed
    from data_pipeline.series.store import open_series

    options = dict(context_length=CONTEXT, prediction_length=HORIZON, batch_size=1, device="cpu", seed=0, num_workers=0)
    demo = open_feed("arrow", open_series("demo", None, path.parent / f"cache-{os.getpid()}"), **options)
    next(demo.train_batches(1))  # what every trial holds, whatever it reads
    barrier.wait()
    before = _proportional_mib()
    barrier.wait()
    series = open_series(str(path), None, path.parent / "cache")
    feed = open_feed("arrow", series, **options)
    next(feed.train_batches(1))
    _ = [series.values[row].sum() + series.scaled[row].sum() for row in range(len(series.values))]
    barrier.wait()
    results.put(_proportional_mib() - before)
    barrier.wait()


def _proportional_mib() -> float:
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("no Pss in /proc/self/smaps_rollup")


if __name__ == "__main__":
    main()
