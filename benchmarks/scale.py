"""What a sweep of many trials costs its driver: CPU seconds and memory per trial, MLflow calls, from plan to report.

    python benchmarks/scale.py                           # 1,000 trials of 3 epochs, 5 seeds an arm
    python benchmarks/scale.py --trials 50 --json scale.json

Everything but the trial is real: plan, Ray Tune, callback, outbox, MLflow on SQLite, summary and page on the parent
run. The trial (`trivial_trial`) trains nothing and runs in the actor itself, which serves all trials. It reports
made-up numbers under a real trial's metric names, each with a checkpoint of a few bytes. At its end it hands over a
model and raw samples of a few bytes, which MLflow gets as it gets real ones. Its runs are tagged `warm_start: reused`
and `timing_valid: false`. The runner gets it from here; a user cannot name it.

"driver" is the process that a person starts: the CPU time of all its threads and its largest resident memory, without
Ray's own processes. `start` is the time to connect and plan. `run` is the rest, with a `flush` at its end if MLflow
still lacks something. Both are also given per trial.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tune.config.axes import lay_over  # noqa: E402
from tune.config.sweeps import SweepConfig, get_sweep  # noqa: E402

SEEDS = 5  # trials of an arm
NOTHING = "nothing was trained"  # in files that nobody reads here
LIMIT_CPU_S, LIMIT_MEMORY_GIB = 0.4, 1.5  # of driver time per trial; of driver memory
EPOCH_METRICS = (
    "loss/train_mse", "loss/val_mse", "loss/val_mae", "time/epoch_s", "time/train_s", "time/data_wait_s", "time/h2d_s",
    "time/step_s", "time/launch_s", "time/other_s", "time/validation_s", "speed/windows_per_s", "model/heads",
    "model/parameters",
)  # fmt: skip
FINAL_METRICS = (
    "final/test_mse", "final/test_mae", "final/best_val_mse", "final/median_epoch_s", "final/epoch_all_windows_s",
    "final/windows_per_epoch", "final/steps_per_epoch", "final/train_total_s", "final/compile_s", "final/startup_s",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a sweep of `trials` trials took."""

    trials: int
    epochs: int
    start_wall_s: float
    start_cpu_s: float
    run_wall_s: float
    run_cpu_s: float
    peak_memory_gib: float  # of the driver, at its largest
    calls: dict[str, int]  # of the MLflow store, by name
    done: int  # trials whose numbers MLflow has, all of them
    refused: int  # records that MLflow did not take

    @property
    def cpu_s_per_trial(self) -> float:
        """Driver time of the whole sweep, its start included."""
        return (self.start_cpu_s + self.run_cpu_s) / self.trials

    @property
    def wall_s_per_trial(self) -> float:
        return self.run_wall_s / self.trials


def main() -> int:
    """Run, print, write; exit code 1 above a limit, or where something did not arrive."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000, help=f"a multiple of {SEEDS} (default 1000)")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.trials < SEEDS or options.trials % SEEDS or options.epochs < 1:
        parser.error(f"--trials {options.trials} --epochs {options.epochs}: give a multiple of {SEEDS}, and 1 or more")
    with tempfile.TemporaryDirectory() as folder:
        cost = measure(options.trials, options.epochs, Path(folder))
    print_cost(cost)
    if options.json:
        from tune.common.files import write_atomically
        from tune.machine.environment import environment

        content = asdict(cost) | {name: getattr(cost, name) for name in ("cpu_s_per_trial", "wall_s_per_trial")}
        write_atomically(options.json, json.dumps(content | {"environment": environment()}, indent=1))
    within = cost.cpu_s_per_trial <= LIMIT_CPU_S and cost.peak_memory_gib <= LIMIT_MEMORY_GIB
    return 0 if within and cost.done == cost.trials and not cost.refused else 1


def trivial_trial(config: dict[str, Any]) -> None:
    """What Ray runs on a worker instead of a training: reports as a trial does (tune/trial/run.py), at once."""
    import tempfile
    import time
    from pathlib import Path

    from ray import tune as ray_tune

    job = config["job"]
    epochs, rate, seed = (job["config"]["train"][name] for name in ("epochs", "learning_rate", "seed"))
    tags = {"warm_start": "reused", "timing_valid": "false"}

    def report(files: dict[str, str], **result: Any) -> None:
        with tempfile.TemporaryDirectory() as folder:
            for name, text in files.items():
                (Path(folder) / name).parent.mkdir(exist_ok=True)
                (Path(folder) / name).write_text(text)
            stamped = result | {"tags": tags, "timestamp_ms": time.time_ns() // 1_000_000}
            ray_tune.report(stamped, checkpoint=ray_tune.Checkpoint.from_directory(folder))

    for epoch in range(1, epochs + 1):
        numbers = {name: rate + seed / epoch + len(name) for name in EPOCH_METRICS}
        report({"state": NOTHING}, epoch=epoch, metrics=numbers)
    report(kept_files(job), status="done", reason=None, metrics={name: rate + seed for name in FINAL_METRICS})


def kept_files(job: dict[str, Any]) -> dict[str, str]:
    """What a trial leaves for MLflow, by its place in the folder: the facts of its model are real ones."""
    from model.facts import CONFIG, FACTS, WEIGHTS, Facts
    from tune.measure.raw_samples import STEPS

    facts = Facts(
        columns=("OT",), step_minutes=60.0, mean=(0.0,), std=(1.0,), context_length=512, prediction_length=96,
        dataset={"name": "demo"}, trial={"sweep_id": job["sweep_id"], "trial_id": job["trial_id"]}, versions={},
    )  # fmt: skip
    contents = {FACTS: facts.as_json(), CONFIG: "{}", WEIGHTS: NOTHING}
    return {f"model/{name}": text for name, text in contents.items()} | {f"samples/{STEPS}": NOTHING}


def sweep_of(trials: int) -> SweepConfig:
    """Arms that differ in their learning rate, SEEDS trials of each."""
    rates = [round(1e-4 + 1e-6 * at, 6) for at in range(trials // SEEDS)]
    return lay_over(get_sweep("custom"), {"train.learning_rate": rates})


def measure(trials: int, epochs: int, folder: Path) -> Cost:
    """Run the sweep in `folder`, which is empty, and read its trials back."""
    from tune.commands import flush
    from tune.driver.options import Options
    from tune.driver.run import run_sweep
    from tune.plan.planner import Planner
    from tune.tracking.reader import read_sweep
    from tune.tracking.store import PROJECT

    uri = f"sqlite:///{folder / 'mlflow.db'}"
    calls = count_store_calls()
    marks = [_now()]
    outcome = run_sweep(
        Planner(sweep_of(trials), overrides={"data.dataset": "demo", "train.epochs": epochs}, repeats=SEEDS, seed=1),
        options=Options(storage_path=folder / "runs", tracking_uri=uri, data_dir=folder, gpus_per_trial=0),
        show_plan=lambda plan: marks.append(_now()),
        entry=trivial_trial,
    )
    if outcome.pending:  # trials this fast outrun MLflow, and the sweep's end waits only a while for it
        flush.run(
            argparse.Namespace(sweep_id=outcome.sweep_id, storage_path=folder / "runs", tracking_uri=uri, quiet=False)
        )
    marks.append(_now())
    counted, memory_gib = dict(calls), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    record = read_sweep(uri, PROJECT, outcome.sweep_id)
    (wall_0, cpu_0), (wall_1, cpu_1), (wall_2, cpu_2) = marks
    return Cost(
        trials=trials,
        epochs=epochs,
        start_wall_s=wall_1 - wall_0,
        start_cpu_s=cpu_1 - cpu_0,
        run_wall_s=wall_2 - wall_1,
        run_cpu_s=cpu_2 - cpu_1,
        peak_memory_gib=memory_gib,
        calls=counted,
        refused=sum(len(path.read_text().splitlines()) for path in folder.rglob("outbox.jsonl.rejected")),
        done=sum(trial.status == "done" and _is_complete(trial.history, epochs) for trial in record.trials),
    )


def _is_complete(history: dict[str, list[tuple[int, float]]], epochs: int) -> bool:
    steps = list(range(1, epochs + 1))
    complete = all([step for step, _ in history.get(name, [])] == steps for name in EPOCH_METRICS)
    return complete and all(name in history for name in FINAL_METRICS)


def _now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def count_store_calls() -> Counter[str]:
    """Counts the calls of MLflow's SQLite store from now on, by name; calls within a call do not count."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    calls: Counter[str] = Counter()
    mutex, inside = threading.Lock(), threading.local()

    def counted(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            if getattr(inside, "depth", 0):
                return method(*arguments, **named)
            with mutex:
                calls[name] += 1
            inside.depth = 1
            try:
                return method(*arguments, **named)
            finally:
                inside.depth = 0

        return call

    for cls in reversed(SqlAlchemyStore.__mro__):
        for name, method in vars(cls).items():
            if not name.startswith("_") and callable(method) and not isinstance(method, staticmethod | classmethod):
                setattr(SqlAlchemyStore, name, counted(name, getattr(SqlAlchemyStore, name)))
    return calls


def print_cost(cost: Cost) -> None:
    arrived = f"MLflow has all numbers of {cost.done}, refused {cost.refused}"
    print(f"{cost.trials} trials of {cost.epochs} epochs; {arrived}")
    print(f"start {cost.start_cpu_s:8.1f} s of driver time, {cost.start_wall_s:8.1f} s by the clock")
    print(f"run   {cost.run_cpu_s:8.1f} s of driver time, {cost.run_wall_s:8.1f} s by the clock")
    print(f"per trial {cost.cpu_s_per_trial:.3f} s of driver time (limit {LIMIT_CPU_S})", end="")
    print(f", {cost.wall_s_per_trial:.3f} s by the clock")
    print(f"driver memory, at most {cost.peak_memory_gib:.2f} GiB (limit {LIMIT_MEMORY_GIB})")
    for name, count in sorted(cost.calls.items(), key=lambda item: -item[1]):
        print(f"{count:8} {name} ({count / cost.trials:.2f} a trial)")


if __name__ == "__main__":
    sys.exit(main())
