"""Whether probes that load together, and wait for their turn idle on the GPU, say what probes alone say; and how long.

    python benchmarks/probes_together.py --data-dir DIR                        # ETTh1, the study's arms below
    python benchmarks/probes_together.py --dataset demo --arms eager --set model.preset=tiny --cores 2   # on a CPU

Arms warm up together first, as in a sweep. Then the same arms are probed in turns: in one wave, and one by one. A line
for each call has its seconds, the arms' ms a step, and what each took to load compiled code and capture.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def main() -> None:
    """Probe in both ways, print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="ETTh1")
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--arms", default="eager,sdpa_efficient,patch", help="of the attention sweep")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    options.data_dir = options.data_dir.absolute()
    from tune.common.process_setup import prepare_process

    prepare_process()
    import ray

    ray.init(address="local", num_cpus=options.cores, include_dashboard=False, log_to_driver=False)
    try:
        with tempfile.TemporaryDirectory() as folder:
            probe_in_turns(options, Path(folder))
    finally:
        ray.shutdown()


def probe_in_turns(options: argparse.Namespace, folder: Path) -> None:
    """Everything in one sweep's folder, whose records go nowhere."""
    import ray

    from tune.cluster.share import Share
    from tune.config.sweeps import get_sweep
    from tune.config.values import parse_value
    from tune.driver import probes
    from tune.driver.launcher import Launcher
    from tune.machine.device import has_gpu, node_facts
    from tune.machine.environment import environment
    from tune.plan.planner import Planner
    from tune.storage import open_sweep
    from tune.tracking.tracker import Tracker
    from tune.worker.node_forkserver import NodeForkServers

    facts = node_facts(use_gpu=has_gpu())
    share = Share(cpus=options.cores, gpus=1 if facts.device_type == "cuda" else 0, at_a_time=1)
    servers = NodeForkServers(ray, share)
    fields = {"data.dataset": options.dataset}
    fields |= {name: parse_value(name, text) for name, _, text in (item.partition("=") for item in options.set)}
    planner = Planner(get_sweep("attention"), overrides=fields, repeats=1, seed=1)
    planner.prepare(planner.plan(facts), data_dir=options.data_dir, storage_path=folder, quiet=True)
    plan = planner.plan(facts)
    arms = [trial for trial in plan.runnable if trial.arm in options.arms.split(",")]
    about = {"key": "k", "created_s": 1.0, "code": {}, "environment": environment()}
    sweep = open_sweep.create(folder / "runs", "probes", about)
    launcher = Launcher(
        folder=sweep, share=share, device_type=facts.device_type, gpu_name=facts.name, data_dir=options.data_dir,
        cache_dir=folder / "arrow", data_sha256=None, fork_servers=servers,  # type: ignore[arg-type]
    )  # fmt: skip
    tracker = Tracker(outbox_path=sweep.outbox, tracking_uri="http://127.0.0.1:9", experiment="e", artifact_root=None)
    together = probes._Probing._most_together
    try:
        tracker.begin_sweep(sweep_id="s", name="s", tags={}, params={}, files={})
        for number in range(1 + 2 * options.rounds):  # the first one warms up, too
            alone = bool(number and number % 2)
            probes._Probing._most_together = (lambda *_: 1) if alone else together  # type: ignore[method-assign]
            trials = [replace(trial, trial_id=f"{number}-{trial.arm}") for trial in arms]
            began_s = time.monotonic()
            probes.probe(launcher, tracker, plan, trials, {}, lambda line: print(f"    {line}", flush=True))
            took_s = time.monotonic() - began_s
            print_row("alone" if alone else "together" if number else "warmed up, together", took_s, tracker, trials)
    finally:
        tracker.close(0.0)


def print_row(name: str, took_s: float, tracker: Any, trials: list[Any]) -> None:
    """The seconds of a call, and of each arm the ms of a step and the seconds of loading and capturing."""
    cells = []
    for trial in trials:
        log = tracker.trials[trial.trial_id]
        step_s, compile_s = log.metrics.get("final/probe_step_s"), log.metrics.get("final/compile_s")
        times = "no time" if step_s is None else f"{1e3 * step_s:.4f} ms, loaded in {compile_s:.2f} s"
        cells.append(f"{trial.arm} {log.status} {times} (valid {log.tags.get('timing_valid')})")
    print(f"{name:<20}{took_s:7.1f} s  " + "; ".join(cells), flush=True)


if __name__ == "__main__":
    main()
