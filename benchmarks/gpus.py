"""How much faster several GPUs of one host finish a fixed plan, and whether its trials disturb each other.

    python benchmarks/gpus.py --data-dir DIR --storage DIR/single --at-a-time 1 --json single.json
    python benchmarks/gpus.py --data-dir DIR --storage DIR/four --at-a-time 4 --against single.json --json four.json
    python benchmarks/gpus.py --dataset demo --trials 3 --epochs 2 --at-a-time 1       # a CPU, dry run

One arm, as many seeds as trials. One short trial first fills the caches of compiled code and gate verdicts, outside of
the measured time. The wall time is from the first trial's start to the end of the last trial's work. The table also
shows the command's own time, which includes starting Ray, each trial's median epoch and the GPU that it saw. --against
compares with the same plan run before: the ratio of the wall times, and of the median epochs seed by seed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def main() -> None:
    """Run the plan, print the table, write the values."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=12, help="seeds of the one arm (default 12)")
    parser.add_argument("--epochs", type=int, default=65, help="of each trial (default 65)")
    parser.add_argument("--at-a-time", type=int, required=True, help="trials at a time, each on a GPU of its own")
    parser.add_argument("--dataset", default="ETTm1")
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="for every trial")
    parser.add_argument("--storage", type=Path, help="keep the sweep there (default: a temporary folder)")
    parser.add_argument("--against", type=Path, help="JSON of the same plan run before")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    from tune.machine.device import has_gpu, node_facts
    from tune.machine.environment import environment

    facts = node_facts(use_gpu=has_gpu())
    print(f"{facts.gpus} x {facts.name}, {environment()['versions']}")
    with tempfile.TemporaryDirectory() as folder:
        storage = (options.storage or Path(folder)).absolute()
        run(options, storage, trials=1, epochs=1, seed=1_000)  # fills the caches
        began_s = time.monotonic()
        trials = run(options, storage, trials=options.trials, epochs=options.epochs, seed=1)
        command_s = time.monotonic() - began_s
    content: dict[str, Any] = {"device": facts.as_dict(), "environment": environment(), "at_a_time": options.at_a_time}
    content |= {"trials": trials, "wall_s": wall_s(trials), "command_s": command_s}
    print_trials(content)
    if options.against:
        print_against(content, json.loads(options.against.read_text()))
    if options.json:
        options.json.write_text(json.dumps(content, indent=1))


def run(options: argparse.Namespace, storage: Path, *, trials: int, epochs: int, seed: int) -> list[dict[str, Any]]:
    """One sweep of one arm; its trials in the order of their starts."""
    from benchmarks.overhead import recorded
    from tune.config.sweeps import get_sweep

    fields, many = {"train.epochs": epochs}, {"max_concurrent": options.at_a_time}
    rows = recorded(get_sweep("custom"), fields, options, storage, repeats=trials, seed=seed, **many)
    return [asdict(row) for row in rows]


def wall_s(trials: list[dict[str, Any]]) -> float:
    """From the first trial's start to the end of the last one's work."""
    ended = [trial["work_ended_ms"] for trial in trials]
    if any(end is None for end in ended):
        raise SystemExit(f"not all trials ran: {[(trial['trial_id'], trial['status']) for trial in trials]}")
    return (max(ended) - min(trial["started_ms"] for trial in trials)) / 1e3


def print_trials(content: dict[str, Any]) -> None:
    print(f"\n{'trial':24}{'GPU':44}{'s/epoch':>9}{'trains s':>10}{'idle before':>13}  valid")
    for trial in content["trials"]:
        idle = "-" if trial["idle_before_s"] is None else f"{trial['idle_before_s']:.2f}"
        print(f"{trial['trial_id']:24}{trial['device']:44}{statistics.median(trial['epochs_s']):9.4f}", end="")
        print(f"{trial['train_s'] + trial['validation_s']:10.2f}{idle:>13}  {trial['timing_valid']}")
    devices = len({trial["device"] for trial in content["trials"]})
    print(f"{len(content['trials'])} trials, {content['at_a_time']} at a time on {devices} devices: ", end="")
    print(f"{content['wall_s']:.1f} s, the command {content['command_s']:.1f} s")


def print_against(content: dict[str, Any], before: dict[str, Any]) -> None:
    alone = {trial["seed"]: statistics.median(trial["epochs_s"]) for trial in before["trials"]}
    if set(alone) != {trial["seed"] for trial in content["trials"]}:
        raise SystemExit("--against holds other seeds: give the same --trials to both runs")
    ratios = [statistics.median(trial["epochs_s"]) / alone[trial["seed"]] for trial in content["trials"]]
    print(f"against {before['at_a_time']} at a time: wall time 1/{before['wall_s'] / content['wall_s']:.2f}, ", end="")
    print(f"command 1/{before['command_s'] / content['command_s']:.2f}; ", end="")
    print(f"median epochs seed by seed {min(ratios):.4f} to {max(ratios):.4f}, mean {statistics.mean(ratios):.4f}")


if __name__ == "__main__":
    main()
