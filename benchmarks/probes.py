"""Whether a probe says what a trial says: probes and trials of the same cells, in turn, on one device.

    python benchmarks/probes.py --data-dir DIR                                  # ETTh1, cells below, 5 of each
    python benchmarks/probes.py --data-dir DIR --dataset ETTm1 --runs 10 --json probes.json
    python benchmarks/probes.py --dataset demo --cells "train.batch_size=64" --runs 2     # on a CPU

Of each cell it prints the seconds of an epoch of all training windows by trials and by probes (medians over the runs),
how far the probes' median is from the trials', how far two runs of the same differ (half the range, in percent of the
median), and the wall time of a run after the first, which measures the gate and compiles. The smallest difference that
a search may believe is a few times the scatter of the probes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

CELLS = (
    "model.attention=eager",
    "model.attention=sdpa_efficient",
    "model.attention=patch",
    "model.attention=patch,train.batch_size=1024",
    "model.attention=patch,data.feed=arrow,data.num_workers=4",
    "model.attention=sdpa_efficient,pruning.score=magnitude,pruning.heads_per_layer=8",
)
EPOCH_S = "final/epoch_all_windows_s"


def main() -> None:
    """Run every cell, print a line for each, write the raw values."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="ETTh1")
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--cells", nargs="+", default=CELLS, metavar="FIELD=VALUE,...")
    parser.add_argument("--runs", type=int, default=5, help="probes and trials of each cell (default 5)")
    parser.add_argument("--epochs", type=int, default=6, help="of a trial (default 6)")
    parser.add_argument("--steps", type=int, help="of a probe (default as in a search)")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    options.data_dir, options.json = (path and path.absolute() for path in (options.data_dir, options.json))
    from tune.driver.probes import STEPS
    from tune.machine.device import has_gpu, node_facts
    from tune.machine.environment import environment

    facts = node_facts(use_gpu=has_gpu())
    steps = options.steps or STEPS[facts.device_type]
    print(f"{facts.name}, {environment()['versions']}\n{steps} steps a probe, {options.epochs} epochs a trial")
    print(f"{'cell':68}{'trial s':>9}{'probe s':>9}{'off %':>8}{'+- trial':>9}{'+- probe':>9}{'took s':>14}")
    from tune.worker.supervisor import TrialSupervisor

    supervisor = TrialSupervisor()
    with tempfile.TemporaryDirectory() as folder, contextlib.closing(supervisor):
        os.chdir(folder)  # as an actor's own
        cells = [run_cell(cell, steps, options, facts, supervisor) for cell in options.cells]
        os.chdir("/")
    if options.json:
        content = {"device": facts.as_dict(), "environment": environment(), "steps": steps, "cells": cells}
        options.json.write_text(json.dumps(content, indent=1))


def run_cell(cell: str, steps: int, options: argparse.Namespace, facts: Any, supervisor: Any) -> dict[str, Any]:
    """All runs of one cell; prints its line."""
    fields = {"data.dataset": options.dataset, "train.epochs": options.epochs}
    fields |= dict(item.split("=", 1) for item in cell.split(","))
    found: dict[str, list[float]] = {"trial": [], "probe": []}
    took_s: dict[str, list[float]] = {"trial": [], "probe": []}
    for run in range(options.runs + 1):  # the first one measures the gate and compiles
        for kind, probe_steps in (("trial", 0), ("probe", steps)):
            began_s = time.monotonic()
            end = run_one(fields, 1 + run, options.data_dir, facts, supervisor, probe_steps)
            if end.status != "done":
                print(f"{cell:68}  {kind}: {end.status}: {end.reason}", flush=True)
                return {"cell": cell, "reason": end.reason}
            if run:
                found[kind].append(end.metrics[EPOCH_S])
                took_s[kind].append(time.monotonic() - began_s)
    trial_s, probe_s = median(found["trial"]), median(found["probe"])
    scatter = "".join(f"{_scatter_pct(found[kind]):9.2f}" for kind in ("trial", "probe"))
    took = f"{median(took_s['trial']):.1f} / {median(took_s['probe']):.1f}"
    off_pct = 100 * (probe_s / trial_s - 1)
    print(f"{cell:68}{trial_s:9.4f}{probe_s:9.4f}{off_pct:8.2f}{scatter}{took:>14}", flush=True)
    return {"cell": cell, "epoch_all_windows_s": found, "took_s": took_s}


def run_one(fields: dict[str, Any], seed: int, data_dir: Path, facts: Any, supervisor: Any, probe_steps: int) -> Any:
    """The end of one trial, or of one probe, in a process of its own."""
    from epoch import plan_job

    from tune.common.errors import Unsupported
    from tune.trial.report import TrialEnd

    here = Path.cwd()
    try:
        job = plan_job(fields, seed, data_dir, facts, here / "data")
    except Unsupported as error:
        return TrialEnd(status="unsupported", reason=str(error))
    kept = {"gate_dir": str(here / "gate"), "compile_dir": str(here / "compile")}
    job = replace(job, **kept, may_hand_over=facts.device_type == "cuda", probe_steps=probe_steps)
    ends: list[Any] = []
    supervisor.run(job, lambda report, _: ends.append(report), None)
    return ends[-1]


def _scatter_pct(values: Sequence[float]) -> float:
    return 50 * (max(values) - min(values)) / median(values)


if __name__ == "__main__":
    main()
