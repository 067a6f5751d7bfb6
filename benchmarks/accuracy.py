"""Does the fast way train to the same errors? Seeds of the fast arm against PyTorch's plain operators in fp32.

    python benchmarks/accuracy.py --data-dir DIR                       # ETTh1 and ETTm1, seeds 1 2 3, 10 epochs
    python benchmarks/accuracy.py --data-dir DIR --datasets demo --epochs 1 --seeds 1 --json accuracy.json

Arms: `plain` (engine eager, attention eager, transformers' layers, fp32) and `fast` (the defaults of the machine), both
with our Adam, which tests/tune/engine/test_adam.py compares with PyTorch's. --at-a-time trials share one device, so
their times mean nothing and are not shown. Errors are those of the epoch that is best on the validation data, as in a
sweep. The table shows mean and standard deviation over seeds. It also shows how much fast differs from plain in
percent, as the mean over pairs of equal seeds, with its 95 % paired t interval.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

PLAIN = {
    "train.engine": "eager",
    "train.precision": "fp32",
    "model.attention": "eager",
    "model.layers": "transformers",
}
METRICS = ("final/val_mse", "final/test_mse")


def main() -> None:
    """Train all trials, print a row for each data set and error, write the raw values."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", default="ETTh1,ETTm1", help="comma-separated (default ETTh1,ETTm1)")
    parser.add_argument("--seeds", default="1,2,3", help="comma-separated (default 1,2,3)")
    parser.add_argument("--epochs", type=int, default=10, help="default 10")
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--at-a-time", type=int, default=4, help="trials beside each other (default 4)")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="for both arms")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    from tune.machine.device import has_gpu, node_facts
    from tune.machine.environment import environment

    facts = node_facts(use_gpu=has_gpu())
    print(f"{facts.name}, {environment()['versions']}")
    cells = [
        {"dataset": dataset, "seed": seed, "arm": arm}
        for dataset in options.datasets.split(",")
        for seed in map(int, options.seeds.split(","))
        for arm in ("plain", "fast")
    ]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(options.at_a_time) as pool:
        list(pool.map(lambda cell: train(cell, options, facts, Path(folder)), cells))
    for dataset in options.datasets.split(","):
        show(dataset, [cell for cell in cells if cell["dataset"] == dataset])
    if options.json:
        content = {"device": facts.as_dict(), "environment": environment(), "cells": cells}
        options.json.write_text(json.dumps(content, indent=1))


def train(cell: dict[str, Any], options: argparse.Namespace, facts: Any, folder: Path) -> None:
    """Run one trial in a process of its own; fills in the cell's errors, or the reason."""
    from benchmarks.epoch import run_trial_alone

    fields = {"data.dataset": cell["dataset"], "train.epochs": options.epochs}
    fields |= dict(item.split("=", 1) for item in options.set) | (PLAIN if cell["arm"] == "plain" else {})
    reports = run_trial_alone(fields, cell["seed"], options.data_dir, facts, folder)
    cell |= {"status": reports[-1]["status"], "reason": reports[-1]["reason"]}
    cell |= {name: reports[-1]["metrics"].get(name) for name in METRICS}
    print(cell, file=sys.stderr, flush=True)


def show(dataset: str, cells: list[dict[str, Any]]) -> None:
    """Errors of both arms over the seeds that both finished."""
    from scipy.stats import t

    for name in METRICS:
        errors = {(cell["arm"], cell["seed"]): cell[name] for cell in cells if cell["status"] == "done"}
        seeds = [seed for arm, seed in errors if arm == "plain" and ("fast", seed) in errors]
        if not seeds:
            print(f"{dataset} {name}: no seed was finished by both arms")
            continue
        plain, fast = ([errors[arm, seed] for seed in seeds] for arm in ("plain", "fast"))
        gaps_pct = [100 * (b / a - 1) for a, b in zip(plain, fast, strict=True)]
        print(
            f"{dataset} {name}: plain {_spread(plain)}, fast {_spread(fast)}, {statistics.mean(gaps_pct):+.2f} %",
            end="",
        )
        if len(seeds) < 3:
            print(f" ({len(seeds)} pairs: no interval)")
            continue
        mean = statistics.mean(gaps_pct)
        half = t.ppf(0.975, len(gaps_pct) - 1) * statistics.stdev(gaps_pct) / len(gaps_pct) ** 0.5
        print(f" ({mean - half:+.2f} to {mean + half:+.2f}, {len(gaps_pct)} pairs)")


def _spread(values: list[float]) -> str:
    deviation = f" sd {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4f}{deviation}"


if __name__ == "__main__":
    main()
