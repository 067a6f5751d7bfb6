"""How a step of the official recipe compares with this product's, on your machine, in one run.

    python benchmarks/peers.py                                  # preset ettm on ETT's shape, a GPU if there is one
    python benchmarks/peers.py --preset traffic --workers 10    # 862 channels, batch 24
    python benchmarks/peers.py --preset etth --steps 3 --rounds 3 --batch 8 --workers 0 --rows 2000   # on a CPU

The peer is the recipe in plain PyTorch (benchmarks/peer_model.py): eager, fp32, windows from a DataLoader with workers.
Ours is the preset as the sweep would train it: its feed, layers, engine and precision. Both train on the same generated
series. They take turns, and which is first alternates; each turn is timed from its first step's start to its last
step's end on the device, after warm-up. The ratio is the mean of the turns' ratios (of their logarithms), with a paired
95 % t interval. The models differ where docs/decisions and model/presets.py say so: the peer adds up attention scores,
learns positions and has a 42nd patch.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

SHAPES = {  # preset -> rows and channels of the data set of its name
    "etth": (17_420, 7), "ettm": (69_680, 7), "traffic": (17_544, 862), "electricity": (26_304, 321),
    "weather": (52_696, 21), "illness": (966, 7),
}  # fmt: skip


def main() -> None:
    """Train both in turns, print the table, write raw values."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="ettm", choices=sorted(SHAPES))
    parser.add_argument("--rounds", type=int, default=5, help="turns of each (default 5)")
    parser.add_argument("--steps", type=int, default=50, help="of a turn (default 50)")
    parser.add_argument("--workers", type=int, default=10, help="of the peer's loader (default 10, the recipe's)")
    parser.add_argument("--batch", type=int, help="instead of the preset's")
    parser.add_argument("--rows", type=int, help="instead of the data set's")
    parser.add_argument("--channels", type=int, help="instead of the data set's")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="for ours")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.rounds < 3 or options.steps < 1:
        parser.error("--rounds from 3, for an interval, and --steps from 1")
    from tune.machine.device import has_gpu, node_facts

    facts = node_facts(use_gpu=has_gpu())
    with tempfile.TemporaryDirectory() as folder:
        result = compare(options, facts, Path(folder))
    print_result(result, facts.name)
    if options.json:
        options.json.write_text(json.dumps(result | {"device": facts.as_dict()}, indent=1))


def compare(options: argparse.Namespace, facts: Any, folder: Path) -> dict[str, Any]:
    """Seconds of each turn of both, and the ratio with its interval."""
    from benchmarks.peer_model import PeerTraining
    from tune.trial.session import Session

    rows, channels = SHAPES[options.preset]
    rows, channels = options.rows or rows, options.channels or channels
    job = our_job(options, facts, write_series(folder, rows, channels), folder)
    with Session(job, time.perf_counter()) as session:
        session.prepare_epoch()
        session.state.model.train()
        train = job.config.train
        peer = PeerTraining(
            job.config.builder_fields(channels), session.series.scaled.copy(), batch_size=train.batch_size,
            learning_rate=train.learning_rate, workers=options.workers, device=facts.device_type,
        )  # fmt: skip
        turns = {"peer": peer.step, "ours": our_step(session)}
        try:
            seconds = take_turns(turns, options.rounds, options.steps, synchronise(facts.device_type))
        finally:
            stepper = session._stepper
            if stepper is not None:
                stepper.close()
    return {
        "preset": options.preset, "rows": rows, "channels": channels, "batch_size": train.batch_size,
        "steps": options.steps, "workers": options.workers, "params": job.config.flat(), "turns_s": seconds,
        **ratio(seconds["peer"], seconds["ours"]),
    }  # fmt: skip


def our_job(options: argparse.Namespace, facts: Any, series: Path, folder: Path) -> Any:
    """The job of the preset as a sweep would plan it. SystemExit with the reason where it cannot run."""
    from tune.config.sweeps import Arm, SweepConfig
    from tune.plan.plan import make_plan
    from tune.trial.job import TrialJob

    given: dict[str, Any] = {"data.dataset": str(series), "model.preset": options.preset, "train.epochs": 10_000}
    given |= dict(item.split("=", 1) for item in options.set)
    if options.batch:
        given["train.batch_size"] = options.batch
    sweep = SweepConfig(name="peers", question="", baseline="ours", arms=(Arm(label="ours", changes={}),))
    trial = make_plan(sweep, overrides=given, repeats=1, seed=1, device=facts).trials[0]
    if trial.unsupported:
        raise SystemExit(f"peers.py: {trial.unsupported}")
    return TrialJob(
        trial_id="ours", config=trial.config, device_type=facts.device_type, data_dir=str(folder),
        cache_dir=str(folder / "cache"), cpus=facts.cpus,
    )  # fmt: skip


def our_step(session: Any) -> Callable[[], Any]:
    """A function that trains on the next batch of ours."""
    stepper = session._stepper

    def endless() -> Any:
        epoch = 0
        while True:
            epoch += 1
            yield from stepper.batches(session.feed, epoch)

    batches = endless()
    return lambda: stepper.step(next(batches).arrived())


def take_turns(
    steps: dict[str, Callable[[], Any]], rounds: int, count: int, wait: Callable[[], None]
) -> dict[str, list[float]]:
    """Seconds of a step, by turn. Each has one turn first that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds + 1):
        for name in list(steps)[:: 1 if number % 2 else -1]:
            wait()
            began_s = time.perf_counter()
            for _ in range(count):
                steps[name]()
            wait()
            if number:
                seconds[name].append((time.perf_counter() - began_s) / count)
    return seconds


def synchronise(device_type: str) -> Callable[[], None]:
    """What waits until the device has done all that was asked."""
    import torch

    return torch.cuda.synchronize if device_type == "cuda" else lambda: None


def ratio(peer_s: list[float], ours_s: list[float]) -> dict[str, float]:
    """How many times as fast ours is, with a paired 95 % t interval over the turns."""
    from tune.stats.intervals import t_quantile

    logs = [math.log(peer / ours) for peer, ours in zip(peer_s, ours_s, strict=True)]
    mean = statistics.fmean(logs)
    half = t_quantile(len(logs) - 1, 0.975) * statistics.stdev(logs) / math.sqrt(len(logs))
    return {"ratio": math.exp(mean), "ratio_low": math.exp(mean - half), "ratio_high": math.exp(mean + half)}


def write_series(folder: Path, rows: int, channels: int) -> Path:
    """A Parquet file of random numbers."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pa_parquet

    values = np.random.default_rng(0).standard_normal((channels, rows), dtype=np.float32)
    times = np.datetime64("2016-07-01", "us") + np.arange(rows) * np.timedelta64(3_600_000_000, "us")
    table = pa.table({"date": times, **{f"c{at}": column for at, column in enumerate(values)}})
    pa_parquet.write_table(table, folder / "series.parquet")
    return folder / "series.parquet"


def print_result(result: dict[str, Any], device: str) -> None:
    """Both steps and the ratio, to stdout."""
    params = result["params"]
    ours = f"{params['train.engine']}, {params['train.precision']}, layers {params['model.layers']}, "
    ours += f"attention {params['model.attention']}, feed {params['data.feed']}"
    peer = f"plain PyTorch, eager, fp32, loader with {result['workers']} workers"
    print(f"{result['preset']}: {result['channels']} channels, batch {result['batch_size']}, on {device}")
    for name, what in (("peer", peer), ("ours", ours)):
        turns = [1e3 * value for value in result["turns_s"][name]]
        spread = f"{min(turns):.3f} to {max(turns):.3f}"
        print(f"  {name}  {statistics.median(turns):9.3f} ms a step ({spread})  {what}")
    print(
        f"  ours is {result['ratio']:.2f} times as fast (95 %: {result['ratio_low']:.2f} to {result['ratio_high']:.2f})"
    )


if __name__ == "__main__":
    main()
