"""What a sweep costs beside training: the seconds between two trials, and the share of the time the device trains.

    python benchmarks/overhead.py --data-dir DIR --json overhead.json               # 4 backends x 4 seeds, 40 epochs
    python benchmarks/overhead.py --data-dir DIR --compare-isolated --backends eager --seeds 3 --json isolated.json
    python benchmarks/overhead.py --dataset demo --backends eager --seeds 2 --epochs 2 --engine eager   # a CPU, dry run

A real sweep runs through the real runner, in a storage folder of its own whose caches are empty at the start. The
trials' times are read from MLflow. Idle is the time from a trial's last work on the device (training, validation or the
test set) to the next trial's first training step there. The first trial of each backend measures the gate and compiles;
the median is over the trials after it. Busy is the device's time in training steps; beside it stands that in epochs
with validation. Both are shares of the time from the first trial's start to the last trial's end, on each device used.
The last line has the parts of the whole wall time, as a report has them (tune/report/accounts.py).

--compare-isolated runs the same trials as usual and with --isolate: times and peak memory side by side. Ctrl-C (SIGINT)
ends a sweep early; the tables then show the trials that ended.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

BACKENDS = "eager,sdpa_efficient,sdpa_cudnn,patch"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One trial's times; None: not known, or not reached. Names are those of the stored metrics and tags."""

    trial_id: str
    arm: str
    seed: str
    status: str
    reason: str
    device: str
    warm_start: str | None
    unprepared_because: str | None
    gate_verdict: str | None
    timing_valid: str | None
    first_of_arm: bool
    started_ms: int | None
    first_epoch_ms: int | None
    work_ended_ms: int | None
    idle_before_s: float | None
    startup_s: float | None
    rehearsal_s: float | None
    gate_s: float | None
    compile_s: float | None
    standby_wait_s: float | None
    train_s: float
    step_s: float
    validation_s: float
    epochs_s: tuple[float, ...]
    peak_memory_gib: float | None


def main() -> None:
    """Run, print the tables, write the raw values."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backends", default=BACKENDS, help=f"comma-separated (default {BACKENDS})")
    parser.add_argument("--seeds", type=int, default=4, help="trials of each backend (default 4)")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--engine", help="default: graph on a GPU, else eager")
    parser.add_argument("--dataset", default="ETTm1")
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="for every trial")
    parser.add_argument("--compare-isolated", action="store_true", help="the same trials with and without --isolate")
    parser.add_argument("--storage", type=Path, help="keep it there; the same command again goes on with what is left")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    from tune.machine.device import has_gpu, node_facts
    from tune.machine.environment import environment

    facts = node_facts(use_gpu=has_gpu())
    print(f"{facts.name}, {environment()['versions']}")
    content: dict[str, Any] = {"device": facts.as_dict(), "environment": environment(), "options": _plain(options)}
    with tempfile.TemporaryDirectory() as folder:
        rows, told = run_sweep_here(options, (options.storage or Path(folder)) / "warm", isolate=False)
        content |= {"rows": [asdict(row) for row in rows], "summary": summary(rows), **told}
        print_rows(rows)
        print_summary(content["summary"])
        print(told["accounts_line"])
        write(content, options.json)
        if options.compare_isolated:
            isolated, _ = run_sweep_here(options, (options.storage or Path(folder)) / "isolated", isolate=True)
            content |= {"isolated": [asdict(row) for row in isolated], "comparison": comparison(rows, isolated)}
            print_comparison(content["comparison"])
            write(content, options.json)


def write(content: dict[str, Any], path: Path | None) -> None:
    if path:
        path.write_text(json.dumps(content, indent=1))


def _plain(options: argparse.Namespace) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}


def run_sweep_here(options: argparse.Namespace, storage: Path, *, isolate: bool) -> tuple[list[Row], dict[str, Any]]:
    """One sweep over the backends, run to its end: its trials in the order in which they ran, and its accounts.

    The accounts have the wall time of the call that ran the sweep, with its report and Ray's end in it.
    """
    from dataclasses import replace

    from tune.config.sweeps import get_sweep

    attention = get_sweep("attention")
    wanted = options.backends.split(",")
    arms = {arm.label: arm for arm in attention.arms}
    sweep = replace(attention, baseline=wanted[0], arms=tuple(arms[label] for label in wanted))
    fields = {"train.epochs": options.epochs, "train.batch_size": options.batch}
    if options.engine:
        fields["train.engine"] = options.engine
    from tune.report.accounts import accounts, accounts_json, accounts_line

    began_s = time.monotonic()
    record = recorded_sweep(sweep, fields, options, storage, repeats=options.seeds, seed=1, isolate=isolate)
    wall_s = time.monotonic() - began_s
    found = accounts(record)
    found = found and found.with_wall(wall_s)
    return rows_of(record.trials), {"accounts": accounts_json(found), "accounts_line": accounts_line(found)}


def recorded(*what: Any, **how: Any) -> list[Row]:
    """The trials of `recorded_sweep`."""
    return rows_of(recorded_sweep(*what, **how).trials)


def recorded_sweep(
    sweep: Any,
    fields: dict[str, Any],
    options: argparse.Namespace,
    storage: Path,
    *,
    repeats: int,
    seed: int,
    **how: Any,
) -> Any:
    """Run a sweep in `storage`, with the fields of --set on top; it as MLflow has it. how: of `Options`."""
    from tune.config.values import parse_value
    from tune.driver.options import Options
    from tune.driver.run import run_sweep
    from tune.plan.planner import Planner
    from tune.tracking.reader import read_sweep
    from tune.tracking.store import PROJECT

    fields = {"data.dataset": options.dataset} | fields
    for item in options.set:
        name, _, text = item.partition("=")
        fields[name] = parse_value(name, text)
    storage.mkdir(parents=True, exist_ok=True)
    uri, data_dir = f"sqlite:///{storage / 'mlflow.db'}", options.data_dir.absolute()
    asked = Options(storage_path=storage, tracking_uri=uri, data_dir=data_dir, **how)
    planner = Planner(sweep, overrides=fields, repeats=repeats, seed=seed)
    done = run_sweep(planner, options=asked, show_plan=lambda plan: None)
    return read_sweep(uri, PROJECT, done.sweep_id)


def rows_of(trials: Any) -> list[Row]:
    """The trials of a sweep, in the order of their starts; those that never started come last."""
    timelines = {trial.trial_id: json.loads(trial.tags.get("spans", "{}")) for trial in trials}
    rows: list[Row] = []
    ended: dict[str, int] = {}  # device -> when its last work ended
    for trial in sorted(trials, key=lambda trial: timelines[trial.trial_id].get("started_ms", float("inf"))):
        timeline, device = timelines[trial.trial_id], trial.tags.get("gpu_uuid") or trial.tags.get("hostname", "?")
        began, before = timeline.get("first_epoch_ms"), ended.get(device)
        rows.append(
            Row(
                trial_id=trial.trial_id,
                arm=trial.tags["arm"],
                seed=trial.tags["seed"],
                status=trial.status,
                reason=trial.reason,
                device=device,
                warm_start=trial.tags.get("warm_start"),
                unprepared_because=trial.tags.get("unprepared_because"),
                gate_verdict=trial.tags.get("gate_verdict"),
                timing_valid=trial.tags.get("timing_valid"),
                first_of_arm=trial.tags["arm"] not in {row.arm for row in rows},
                started_ms=_started_ms(timeline, trial.metrics.get("final/rehearsal_s")),
                first_epoch_ms=began,
                work_ended_ms=timeline.get("work_ended_ms"),
                idle_before_s=None if began is None or before is None else (began - before) / 1e3,
                **{name: trial.metrics.get(f"final/{name}") for name in PARTS},
                train_s=sum(_values(trial, "time/train_s")),
                step_s=sum(_values(trial, "time/step_s")),
                validation_s=sum(_values(trial, "time/validation_s")),
                epochs_s=_values(trial, "time/train_s"),
                peak_memory_gib=max(_values(trial, "gpu/peak_memory_gib"), default=None),
            )
        )
        if timeline.get("work_ended_ms"):
            ended[device] = timeline["work_ended_ms"]
    return rows


def _started_ms(timeline: dict[str, Any], rehearsal_s: float | None) -> int | None:
    """When the first of a trial's processes started; its timeline is that of the process that trained."""
    started_ms = timeline.get("started_ms")
    return None if started_ms is None else started_ms - round(1e3 * (rehearsal_s or 0.0))


PARTS = ("startup_s", "rehearsal_s", "gate_s", "compile_s", "standby_wait_s")


def _values(trial: Any, name: str) -> tuple[float, ...]:
    return tuple(value for _, value in trial.history.get(name, []))


def summary(rows: list[Row]) -> dict[str, float | None]:
    """Idle and busy time of the sweep, with what they are made of."""
    ran = [row for row in rows if row.started_ms and row.work_ended_ms]
    later = [row.idle_before_s for row in ran if row.idle_before_s is not None and not row.first_of_arm]
    first = [row.idle_before_s for row in ran if row.idle_before_s is not None and row.first_of_arm]
    if not ran:
        return {}
    wall_s = (max(row.work_ended_ms or 0 for row in ran) - min(row.started_ms or 0 for row in ran)) / 1e3
    available_s = wall_s * len({row.device for row in ran})
    epochs_s = sum(row.train_s + row.validation_s for row in ran)
    return {
        "trials": len(ran),
        "median_idle_s": statistics.median(later) if later else None,
        "largest_idle_s": max(later, default=None),
        "median_idle_first_of_arm_s": statistics.median(first) if first else None,
        "wall_s": wall_s,
        "busy_pct": 100 * sum(row.step_s for row in ran) / available_s,
        "busy_epochs_pct": 100 * epochs_s / available_s,
        "rehearsal_s": sum(row.rehearsal_s or 0 for row in ran),
        "gate_s": sum(row.gate_s or 0 for row in ran),
        "compile_s": sum(row.compile_s or 0 for row in ran),
    }


def comparison(usual: list[Row], isolated: list[Row]) -> list[dict[str, Any]]:
    """Each trial as usual and isolated: median epoch and peak memory, with the spread of the epochs within each."""
    others = {row.trial_id: row for row in isolated}
    return [
        {
            "trial_id": row.trial_id,
            "warm_start": row.warm_start,
            "epoch_s": statistics.median(row.epochs_s),
            "isolated_epoch_s": statistics.median(others[row.trial_id].epochs_s),
            "ratio": statistics.median(row.epochs_s) / statistics.median(others[row.trial_id].epochs_s),
            "spread_pct": _spread_pct(row.epochs_s),
            "isolated_spread_pct": _spread_pct(others[row.trial_id].epochs_s),
            "peak_memory_gib": row.peak_memory_gib,
            "isolated_peak_memory_gib": others[row.trial_id].peak_memory_gib,
        }
        for row in usual
        if row.epochs_s and others[row.trial_id].epochs_s
    ]


def _spread_pct(values: tuple[float, ...]) -> float | None:
    """Standard deviation of the epochs in percent of their mean."""
    return 100 * statistics.stdev(values) / statistics.mean(values) if len(values) > 1 else None


def print_rows(rows: list[Row]) -> None:
    print(f"\n{'trial':34}{'process':>9}{'gate':>9}{'startup':>9}{'warm-up':>11}{'gate s':>8}{'compile':>9}", end="")
    print(f"{'waited':>8}{'train':>8}{'valid.':>8}{'idle before':>13}  valid")
    for row in rows:
        if row.started_ms is None or row.status != "done":
            print(f"{row.trial_id:34}  {row.status}: {row.reason}")
            continue
        parts = [getattr(row, name) for name in (*PARTS, "train_s", "validation_s")]
        widths = (9, 11, 8, 9, 8, 8, 8)
        print(f"{row.trial_id:34}{row.warm_start:>9}{row.gate_verdict or '-':>9}", end="")
        print("".join(_cell(value, width) for value, width in zip(parts, widths, strict=True)), end="")
        print(f"{_cell(row.idle_before_s, 13)}{'  *' if row.first_of_arm else '   '} {row.timing_valid}")
    print("* first of its backend; all in seconds")
    for row in rows:
        if row.unprepared_because:
            print(f"{row.trial_id} was not prepared: {row.unprepared_because}")


def _cell(value: float | None, width: int, digits: int = 2) -> str:
    return f"{'-' if value is None else f'{value:.{digits}f}':>{width}}"


def print_summary(figures: dict[str, float | None]) -> None:
    if not figures:
        print("no trial ran")
        return
    print(f"\n{figures['trials']:.0f} trials in {figures['wall_s']:.1f} s")
    idle, largest, first = (figures[name] for name in ("median_idle_s", "largest_idle_s", "median_idle_first_of_arm_s"))
    print(
        f"idle between two trials after the first of each backend: median{_cell(idle, 7)} s, most{_cell(largest, 7)} s"
    )
    print(f"idle before the first of a backend: median{_cell(first, 7)} s")
    print(
        f"busy: {figures['busy_pct']:.1f} % in training steps, "
        f"{figures['busy_epochs_pct']:.1f} % in epochs with validation"
    )
    print(f"warm-up {figures['rehearsal_s']:.1f} s with gate and compiling in it; ", end="")
    print(f"outside of it gate {figures['gate_s']:.1f} s, compiling {figures['compile_s']:.1f} s")


def print_comparison(trials: list[dict[str, Any]]) -> None:
    print(
        f"\n{'trial':34}{'process':>9}{'s/epoch':>10}{'isolated':>10}{'ratio':>8}{'spread %':>10}{'isolated':>10}",
        end="",
    )
    print(f"{'peak GiB':>10}{'isolated':>10}")
    for row in trials:
        print(f"{row['trial_id']:34}{row['warm_start']:>9}", end="")
        cells = [(row["epoch_s"], 10, 4), (row["isolated_epoch_s"], 10, 4), (row["ratio"], 8, 4)]
        cells += [(row["spread_pct"], 10, 2), (row["isolated_spread_pct"], 10, 2)]
        cells += [(row["peak_memory_gib"], 10, 4), (row["isolated_peak_memory_gib"], 10, 4)]
        print("".join(_cell(*cell) for cell in cells))


if __name__ == "__main__":
    main()
