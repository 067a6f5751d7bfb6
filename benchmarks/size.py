"""Windows per second and memory of a series on the device, in page-locked memory, and in its file.

    python benchmarks/size.py --series-mib 64,256                         # on a CPU: the way, no speed
    python benchmarks/size.py --device cuda --series-mib 1024,4096 --train
    python benchmarks/size.py --series-mib 2048 --limit-mib 1024 --feeds mapped     # larger than the memory allowed

Each feed runs in a process of its own, so its peaks are its own. `warm` reads from the page cache, `cold` drops the
file from it before each turn. --limit-mib puts each process into a memory control group (v1 or v2, needs root) that
holds this much, its share of the page cache included. --train trains the study model too, 7 channels, graph engine.
The series are random numbers: only their shape matters. They are written as an Arrow file straight away.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

CONTEXT, HORIZON = 512, 96
BATCHES = {7: 128, 862: 32}  # channels -> windows in a batch
FEEDS = ("device", "pinned", "mapped")
MIB = 2**20
SHARES = {"train": 0.7, "validation": 0.8, "test": 1.0}  # of the rows, where each split ends


def main() -> None:
    """Write each series, measure each feed, print a table and with --json the raw figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--series-mib", default="64,256", help="sizes, comma-separated (default 64,256)")
    parser.add_argument("--channels", default="7,862", help="comma-separated, of 7 and 862 (default both)")
    parser.add_argument("--feeds", default=",".join(FEEDS))
    parser.add_argument("--seconds", type=float, default=2.0, help="per turn (default 2)")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--limit-mib", type=int, help="memory of each process, by a control group")
    parser.add_argument("--train", action="store_true", help="train, too")
    parser.add_argument("--folder", type=Path, help="where the series are written (default: the temporary folder)")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    print(f"{len(os.sched_getaffinity(0))} cores, {options.device}, windows of {CONTEXT} + {HORIZON} rows")
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for channels in map(int, options.channels.split(",")):
            for size in map(int, options.series_mib.split(",")):
                path = Path(folder) / f"{channels}-{size}.arrow"
                begun = time.perf_counter()
                write_series(path, size * MIB // (4 * channels), channels)
                print(f"\n{channels} channels, {size} MiB, written in {time.perf_counter() - begun:.0f} s", flush=True)
                for feed in options.feeds.split(","):
                    rows.append(in_process(path, feed, channels, size, options))
                    print(line(rows[-1]), flush=True)
                path.unlink()
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


def line(row: dict[str, Any]) -> str:
    """A row of the table."""
    if "error" in row:
        return f"  {row['feed']:7} {row['error']}"
    rates = [f"{name} {value:,.0f} windows/s" for name, value in row["windows_per_s"].items()]
    memory = ", ".join(f"{name} {row[f'{name}_mib']:,.0f}" for name in ("anonymous", "page_locked", "device"))
    return f"  {row['feed']:7} {'; '.join(rates)}; MiB: {memory}; opened in {row['open_s']:.1f} s"


def write_series(path: Path, n_rows: int, channels: int) -> None:
    """An Arrow file of random rows, as a conversion writes it, without its source."""
    import numpy as np

    from data_pipeline.series.arrow_file import Scratch, write_file

    draw = np.random.default_rng(0)
    block = draw.standard_normal((max(1, 16 * MIB // (4 * channels)), channels), dtype=np.float32)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        scratch = Scratch(Path(folder) / "scratch", channels)
        for row in range(0, n_rows, len(block)):
            rows = block[: n_rows - row]
            scratch.append(np.arange(row, row + len(rows), dtype=np.int64) * 60_000_000, rows)
            scratch.append_scaled(rows)
        write_file(path, scratch, {"source_sha256": ""})
        scratch.close()


def open_written(path: Path, channels: int) -> Any:
    """The Series of a written file."""
    import numpy as np

    from data_pipeline.series.arrow_file import map_file
    from data_pipeline.series.groups import Group
    from data_pipeline.series.steps import MICROSECONDS_PER_MINUTE, FixedStep
    from data_pipeline.series.store import Series

    arrays = map_file(path, check=False).arrays
    ends = {name: int(share * len(arrays["scaled"])) for name, share in SHARES.items()}
    starts = dict(zip(ends, (0, *ends.values()), strict=False))
    group = Group(
        id=None,
        rows=(0, len(arrays["scaled"])),
        bounds={name: (starts[name], end) for name, end in ends.items()},
        mean=np.zeros(channels),
        std=np.ones(channels),
    )
    return Series(
        name="size",
        columns=tuple(f"c{at}" for at in range(channels)),
        values=arrays["values"],
        scaled=arrays["scaled"],
        timestamps=arrays["timestamp"].view("datetime64[us]"),
        step=FixedStep(step_us=MICROSECONDS_PER_MINUTE),
        groups=(group,),
        source_sha256="",
        path=path,
    )


def in_process(path: Path, feed: str, channels: int, size: int, options: argparse.Namespace) -> dict[str, Any]:
    """Measure one feed in a new process. `error` says why there is nothing to show."""
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    process = context.Process(target=_measured, args=(path, feed, channels, vars(options), results))
    with limited(options.limit_mib) as join:
        process.start()
        join(process.pid)
        while process.is_alive() and results.empty():
            process.join(0.1)
        found = results.get() if not results.empty() else {"error": f"ended with {process.exitcode}"}
        process.join()
    return {"feed": feed, "channels": channels, "series_mib": size, "limit_mib": options.limit_mib, **found}


@contextmanager
def limited(mib: int | None) -> Iterator[Any]:
    """A function that puts a process under this memory limit; it does nothing without a limit."""
    if mib is None:
        yield lambda pid: None
        return
    v2 = Path("/sys/fs/cgroup/cgroup.controllers").exists()
    group = Path("/sys/fs/cgroup") / ("" if v2 else "memory") / f"size-{os.getpid()}"
    group.mkdir()
    try:
        (group / ("memory.max" if v2 else "memory.limit_in_bytes")).write_text(str(mib * MIB))
        yield lambda pid: (group / "cgroup.procs").write_text(str(pid))
    finally:
        group.rmdir()


def _measured(path: Path, feed: str, channels: int, options: dict[str, Any], results: Any) -> None:
    from data_pipeline.errors import DataError

    try:
        results.put(measure(path, feed, channels, argparse.Namespace(**options)))
    except (DataError, MemoryError, RuntimeError) as error:
        results.put({"error": f"{type(error).__name__}: {str(error).splitlines()[0]}"})


def measure(path: Path, name: str, channels: int, options: argparse.Namespace) -> dict[str, Any]:
    """Rates and memory of one feed in this process."""
    import torch

    from data_pipeline.feed import open_feed

    torch.set_num_threads(1)
    cuda = options.device != "cpu"
    if cuda:
        torch.zeros(1, device=options.device)
    before = status("RssAnon")
    begun = time.perf_counter()
    feed: Any = open_feed(
        name,
        open_written(path, channels),
        context_length=CONTEXT,
        prediction_length=HORIZON,
        batch_size=BATCHES[channels],
        device=options.device,
        seed=0,
    )
    open_s = time.perf_counter() - begun
    rates: dict[str, list[float]] = {"warm": []}
    if name == "mapped":
        rates["cold"] = [turn(feed, options, drop=path) for _ in range(options.turns)]
        warm_cache(path)
    turn(feed, options)
    rates["warm"] = [turn(feed, options) for _ in range(options.turns)]
    if options.train and cuda and channels == 7:
        rates["training"] = train(feed, options)
    locked = feed._rows.nbytes if name == "pinned" and cuda else getattr(feed, "slot_bytes", 0) if cuda else 0
    found = {
        "windows_per_s": {kind: statistics.median(each) for kind, each in rates.items()},
        "turns": rates,
        "window_mib": 4 * (CONTEXT + HORIZON) * channels / MIB,
        "open_s": open_s,
        "anonymous_mib": status("RssAnon") - before,
        "peak_resident_mib": status("VmHWM"),
        "page_locked_mib": locked / MIB,
        "device_mib": torch.cuda.max_memory_allocated() / MIB if cuda else 0.0,
    }
    feed.close()
    return found


def turn(feed: Any, options: argparse.Namespace, drop: Path | None = None) -> float:
    """Windows per second of training batches, from the first batch on: the order is drawn before it."""
    import torch

    if drop is not None:
        with open(drop, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    windows, begun = 0, 0.0
    for batch in feed.train_batches(1):
        windows += batch.arrived().valid
        if not begun:
            synchronize(options.device)
            windows, begun = 0, time.perf_counter()
        elif time.perf_counter() - begun > options.seconds:
            break
    synchronize(options.device)
    del batch
    if options.device != "cpu":
        torch.cuda.empty_cache()
    return windows / (time.perf_counter() - begun)


def warm_cache(path: Path) -> None:
    """Read the file once, through the page cache."""
    with open(path, "rb") as file:
        while file.read(64 * MIB):
            pass


def train(feed: Any, options: argparse.Namespace) -> list[float]:
    """Windows per second of training the study model, in turns."""
    import torch

    from model.patchtst import build_model
    from tune.config.sweeps import Arm, SweepConfig
    from tune.engine import ENGINES
    from tune.engine.optimizer import make_optimizer
    from tune.machine.device import node_facts
    from tune.plan.data import DataFacts
    from tune.plan.plan import make_plan

    sweep = SweepConfig(name="size", question="?", baseline="a", arms=(Arm(label="a", changes={}),))
    fields, data = {"data.context_length": CONTEXT, "data.prediction_length": HORIZON}, DataFacts(channels=7)
    plan = make_plan(sweep, overrides=fields, repeats=1, seed=1, device=node_facts(use_gpu=True), data=data)
    config = plan.trials[0].config
    torch.manual_seed(1)
    model = build_model(**config.builder_fields(7)).to(options.device)
    optimizer = make_optimizer(model, learning_rate=1e-4)
    stepper = ENGINES["graph"].build(model, optimizer, precision="bf16", rate=None, first_step=0, scaler=None)
    first = next(iter(stepper.batches(feed, 1))).arrived()
    stepper.warm_up(first, next(iter(feed.eval_batches("validation"))).arrived().past)
    rates = []
    for epoch in range(1, options.turns + 1):
        windows, begun = 0, 0.0
        for batch in stepper.batches(feed, epoch):
            stepper.step(batch.arrived())
            windows += BATCHES[7]
            if not begun:
                synchronize(options.device)
                windows, begun = 0, time.perf_counter()
            elif windows % (64 * BATCHES[7]) == 0 and time.perf_counter() - begun > options.seconds:
                break
        synchronize(options.device)
        rates.append(windows / (time.perf_counter() - begun))
    stepper.close()
    return rates


def synchronize(device: str) -> None:
    """Wait for the device."""
    import torch

    if device != "cpu":
        torch.cuda.synchronize()


def status(field: str) -> float:
    """MiB of a field of /proc/self/status."""
    for text in Path("/proc/self/status").read_text().splitlines():
        if text.startswith(f"{field}:"):
            return int(text.split()[1]) / 1024
    raise RuntimeError(f"no {field} in /proc/self/status")


if __name__ == "__main__":
    main()
