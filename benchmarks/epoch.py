"""Seconds per training epoch, from the old way to ours, one change a row; on a GPU.

    python benchmarks/epoch.py --data-dir DIR                                   # ETTm1, batch 32, 128 and 512
    python benchmarks/epoch.py --data-dir DIR --batches 128 --epochs 5 --json epoch.json

The first rows are the old way: tsfm_public's data set through a DataLoader with 2, 4 and 8 workers, fp32, eager engine,
eager attention. The fastest of them is the baseline that the following rows change step by step. Every row is one trial
in processes of its own, as a sweep runs it (`tune.worker.supervisor`): on a GPU one process measures the gate and
compiles, and a fresh one trains. The figure is the median over the epochs of the training part, without compiling and
validation, for all training windows, as batches leave out different numbers of them. Every row uses our Adam in one
launch, the old way's rows too. A row that cannot run here shows its reason.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if TYPE_CHECKING:
    from tune.trial.job import TrialJob

OLD = {
    "data.feed": "tsfm",
    "train.precision": "fp32",
    "train.engine": "eager",
    "model.attention": "eager",
    "model.layers": "transformers",
}
STEPS: tuple[tuple[str, dict[str, Any]], ...] = (  # each row: what it changes against the row above
    ("feed: device", {"data.feed": "device", "data.num_workers": 0}),
    ("precision: bf16", {"train.precision": "bf16"}),
    ("engine: compile", {"train.engine": "compile"}),
    ("engine: graph", {"train.engine": "graph"}),
    ("attention: sdpa_efficient", {"model.attention": "sdpa_efficient"}),
    ("attention: patch", {"model.attention": "patch"}),
    ("layers: fused", {"model.layers": "fused"}),
)


@dataclass(frozen=True)
class Row:
    """One set of fields at one batch size."""

    label: str
    batch_size: int
    all_windows_s: float | None  # median epoch, for all training windows; None: it did not run, as the reason says
    epochs_s: tuple[float, ...]  # as measured
    reason: str | None


def main() -> None:
    """Run all rows at each batch size, print a table for each, write the raw values."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="ETTm1")
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--batches", default="128,512,32", help="comma-separated (default 128,512,32)")
    parser.add_argument("--epochs", type=int, default=3, help="per row (default 3)")
    parser.add_argument("--old-workers", default="2,4,8", help="loader workers of the old way's rows (default 2,4,8)")
    parser.add_argument("--skip-old", action="store_true", help="without the old way's rows, which take minutes")
    labels = [label for label, _ in STEPS]
    parser.add_argument(
        "--from-row", choices=labels, default=labels[0], help="apply the changes of the rows before it untimed"
    )
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="for every row")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    from tune.machine.device import has_gpu, node_facts
    from tune.machine.environment import environment

    facts = node_facts(use_gpu=has_gpu())
    print(f"{facts.name}, {environment()['versions']}")
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            row for batch in options.batches.split(",") for row in run_rows(int(batch), options, facts, Path(folder))
        ]
    if options.json:
        content = {"device": facts.as_dict(), "environment": environment(), "rows": [vars(row) for row in rows]}
        options.json.write_text(json.dumps(content, indent=1))


def run_rows(batch_size: int, options: argparse.Namespace, facts: Any, cache: Path) -> list[Row]:
    """All rows at one batch size; prints each as it comes."""
    print(f"\n{options.dataset}, batch {batch_size}, {options.epochs} epochs a row")
    print(f"{'row':32}{'s/epoch':>9}{'x old':>8}{'x above':>9}")
    given = {"data.dataset": options.dataset, "train.batch_size": batch_size, "train.epochs": options.epochs}
    given |= dict(item.split("=", 1) for item in options.set)
    rows: list[Row] = []
    fields = given | OLD
    if not options.skip_old:
        old = [
            run_row(f"old: tsfm, {n} workers, fp32, eager", fields | {"data.num_workers": n}, options, facts, cache)
            for n in map(int, options.old_workers.split(","))
        ]
        for row in old:
            print_row(row, None, None)
        rows += old
    base = min((row.all_windows_s for row in rows if row.all_windows_s), default=None)
    above = base
    for place, (label, change) in enumerate(STEPS):
        fields |= change
        if place < [label for label, _ in STEPS].index(options.from_row):
            continue
        row = run_row(label, fields, options, facts, cache)
        print_row(row, base, above)
        rows.append(row)
        above = row.all_windows_s or above
    return rows


def run_row(label: str, fields: dict[str, Any], options: argparse.Namespace, facts: Any, cache: Path) -> Row:
    """One trial in a process of its own, as a row."""
    batch_size = fields["train.batch_size"]
    *epochs, last = run_trial_alone(fields, 1, options.data_dir, facts, cache)
    seconds = tuple(epoch["metrics"]["time/train_s"] for epoch in epochs)
    return Row(label, batch_size, last["metrics"].get("final/epoch_all_windows_s"), seconds, last["reason"])


def run_trial_alone(fields: dict[str, Any], seed: int, data_dir: Path, facts: Any, cache: Path) -> list[dict[str, Any]]:
    """All reports of a trial of these fields in a process of its own; the last has its status and reason."""
    from tune.common.errors import Unsupported
    from tune.trial.report import as_result
    from tune.worker.process import ProcessLost
    from tune.worker.supervisor import TrialSupervisor

    try:
        job = plan_job(fields, seed, data_dir, facts, cache)
    except Unsupported as error:
        return [{"status": "unsupported", "reason": str(error), "metrics": {}}]
    except ValueError as error:
        return [{"status": "failed", "reason": str(error), "metrics": {}}]
    kept = {"gate_dir": str(cache / "gate"), "compile_dir": str(cache / "compile")}
    reports: list[dict[str, Any]] = []
    supervisor = TrialSupervisor()
    try:
        job = replace(job, **kept, may_hand_over=facts.device_type == "cuda")
        supervisor.run(job, lambda report, folder: reports.append(as_result(report)), None)
    except ProcessLost as error:
        reports.append({"status": "failed", "reason": str(error), "metrics": {}})
    finally:
        if supervisor.fork_server is not None:
            supervisor.fork_server.end()
    return reports


def plan_job(fields: dict[str, Any], seed: int, data_dir: Path, facts: Any, cache: Path) -> TrialJob:
    """A trial of these fields on this node, planned as a sweep plans it.

    Raises Unsupported with the reason where it cannot run here, ValueError for fields that are none.
    """
    from tune.common.errors import Unsupported
    from tune.config.sweeps import Arm, SweepConfig
    from tune.plan.plan import make_plan
    from tune.trial.job import TrialJob

    sweep = SweepConfig(name="alone", question="", baseline="row", arms=(Arm(label="row", changes={}),))
    trial = make_plan(sweep, overrides=fields, repeats=1, seed=seed, device=facts).trials[0]
    if trial.unsupported:
        raise Unsupported(trial.unsupported)
    return TrialJob(
        trial_id=f"{trial.trial_id}",
        config=trial.config,
        device_type=facts.device_type,
        data_dir=str(data_dir.absolute()),
        cache_dir=str(cache),
        cpus=facts.cpus,
    )


def print_row(row: Row, old: float | None, above: float | None) -> None:
    if row.all_windows_s is None:
        print(f"{row.label:32}  did not run: {row.reason}", flush=True)
        return
    ratios = [f"{base / row.all_windows_s:.1f}" if base else "-" for base in (old, above)]
    print(f"{row.label:32}{row.all_windows_s:9.3f}{ratios[0]:>8}{ratios[1]:>9}", flush=True)


if __name__ == "__main__":
    main()
