"""What a trial does between two epochs, and for how long its device waits for it.

    python benchmarks/between.py                          # the demo data; on a GPU if there is one
    python benchmarks/between.py --epochs 100 --answer wait

First, one trial runs in this process, without Ray. The table shows what the trial does after an epoch, by function,
and whether that grows with the epochs (first and last quarter). Then the same trial runs through the real runner, a
Ray actor and Tune, twice. The tables show the time between its epochs, from one report's time stamp to the next one's
without training and validation, which older versions record too. They also show how long the actor took for each.

--answer later: the next epoch does not wait until the driver has this one, as for a fixed list of trials on a GPU.
--answer wait: it waits, as in a search and on a CPU. Default: both, in this order. An older version always waits.
Epochs are short on purpose: the demo data has few windows of 2,112 rows. The model has the study's width.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

FIELDS = {
    "data.dataset": "demo", "data.context_length": 2112, "data.prediction_length": 96, "model.patch_length": 1056,
    "model.patch_stride": 1056, "model.d_model": 128, "model.num_heads": 16, "model.num_layers": 3,
    "model.ffn_dim": 256, "train.batch_size": 16, "train.engine": "eager", "model.attention": "eager",
}  # fmt: skip
Times = dict[str, list[float]]  # what -> seconds, in the order of the epochs


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--answer", choices=("later", "wait"), action="append", help="default: both")
    parser.add_argument("--only", choices=("own", "whole"), help="only the part without Ray, or only that through it")
    options = parser.parse_args()
    if options.epochs < 4:
        parser.error(f"--epochs {options.epochs}: give 4 or more")
    if options.only != "whole":
        print("in the trial's process, without Ray (validation ends -> the report is made)")
        print_times(own_parts(options.epochs))
    for answer in () if options.only == "own" else options.answer or ("later", "wait"):
        print(f"\nthrough Ray and Tune, answer: {answer}")
        print_times(through_ray(options.epochs, wait=answer == "wait"))
    return 0


def own_parts(epochs: int) -> Times:
    """How long each function takes that runs between the epochs of one trial in this process."""
    import torch

    from tune.measure import raw_samples
    from tune.trial import checkpoint, session, summary
    from tune.trial.report import as_result
    from tune.trial.run import run_trial

    times: Times = {}
    for owner, name, label in (
        (session.Session, "save", "checkpoint"),
        (checkpoint, "save_model", "checkpoint: model/"),
        (checkpoint, "_save_best", "checkpoint: best model"),
        (checkpoint, "write_tensors", "checkpoint: moments"),
        (raw_samples.RawSamples, "write", "checkpoint: raw samples"),
        (torch, "save", "checkpoint: the rest (torch.save)"),
        (getattr(session, "HostCopy", None), "of", "checkpoint: state to host"),
        (summary, "trial_tags", "tags"),
        (raw_samples.RawSamples, "add_epoch", "raw samples taken over"),
        (session.Session, "_note_neighbours", "neighbours (twice an epoch)"),
    ):
        if hasattr(owner, name):  # an older version may lack it
            _watch(owner, name, times.setdefault(label, []))
    with tempfile.TemporaryDirectory() as folder:
        reports: list[dict[str, Any]] = []
        run_trial(_job(Path(folder), epochs), lambda report, path: reports.append(as_result(report)))
    if reports[-1].get("status") != "done":
        raise SystemExit(f"error: the trial ended as {reports[-1]}")
    return times


def _watch(owner: Any, name: str, into: list[float]) -> None:
    real = getattr(owner, name)

    def watched(*args: Any, **named: Any) -> Any:
        began_s = time.perf_counter()
        try:
            return real(*args, **named)
        finally:
            into.append(time.perf_counter() - began_s)

    setattr(owner, name, watched)


def _overrides(epochs: int) -> dict[str, Any]:
    return {**FIELDS, "train.epochs": epochs}


def _job(folder: Path, epochs: int) -> Any:
    from tune.config.sweeps import get_sweep
    from tune.machine.device import has_gpu, node_facts
    from tune.plan.plan import make_plan
    from tune.trial.job import TrialJob

    gpu = has_gpu()
    facts = node_facts(use_gpu=gpu)
    plan = make_plan(get_sweep("custom"), overrides=_overrides(epochs), repeats=1, seed=1, device=facts)
    return TrialJob(
        trial_id="own-parts", config=plan.trials[0].config, device_type=facts.device_type,
        data_dir=str(folder), cache_dir=str(folder / "arrow"), cpus=1,
    )  # fmt: skip


def entry(config: dict[str, Any], *, wait: bool, file: str) -> None:
    """What Ray runs on a worker: the real entry, waiting or not; writes how long each report took to `file`."""
    from ray import tune as ray_tune

    from tune.driver.entry import trial_entry

    durations_s: list[float] = []
    real = ray_tune.report

    def report(*args: Any, **named: Any) -> None:
        began_s = time.perf_counter()
        real(*args, **named)
        durations_s.append(time.perf_counter() - began_s)
        Path(file).write_text(json.dumps(durations_s))

    if "awaits_answer" in config["job"]:  # an older version always waits
        config["job"]["awaits_answer"] = wait
    ray_tune.report = report
    try:
        trial_entry(config)
    finally:
        ray_tune.report = real


def through_ray(epochs: int, *, wait: bool) -> Times:
    """Through the runner: the time between one trial's epochs, and what the actor and the driver took of it."""
    from tune.config.sweeps import get_sweep
    from tune.driver.collector import Collector
    from tune.driver.options import Options
    from tune.driver.run import run_sweep
    from tune.plan.planner import Planner
    from tune.storage.sweep_dir import SweepDir

    driver: list[float] = []
    recorded: list[float] = []
    restore = [(Collector, "on_trial_result", Collector.on_trial_result)]
    restore.append((Collector, "on_checkpoint", Collector.on_checkpoint))
    _watch(Collector, "on_trial_result", driver)
    _watch(Collector, "on_checkpoint", recorded)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "actor.json"
        outcome = run_sweep(
            Planner(get_sweep("custom"), overrides=_overrides(epochs), repeats=1, seed=1),
            options=Options(
                storage_path=Path(folder) / "runs",
                tracking_uri=f"sqlite:///{Path(folder) / 'mlflow.db'}",
                data_dir=Path(folder),
                quiet=True,
            ),
            show_plan=lambda plan: None,
            entry=_named(partial(entry, wait=wait, file=str(file))),
        )
        if set(outcome.statuses.values()) != {"done"}:
            raise SystemExit(f"error: the trial ended as {dict(outcome.statuses)}; see above")
        gaps = _gaps(SweepDir(Path(folder) / "runs" / outcome.sweep_id).outbox)
        actor = json.loads(file.read_text())
    for owner, name, real in restore:
        setattr(owner, name, real)
    return {
        "between two epochs": gaps,
        "actor: Tune's report (copy, driver)": actor,
        "driver: epoch to outbox": driver,
        "driver: checkpoint recorded": recorded,
    }


def _named(function: Callable[..., None]) -> Callable[[dict[str, Any]], None]:
    """A function with the name and the single argument that Tune looks for in a trainable."""

    def between(config: dict[str, Any]) -> None:
        function(config)

    return between


def _gaps(outbox: Path) -> list[float]:
    epochs = [record for line in outbox.read_text().splitlines() if (record := json.loads(line))["kind"] == "epoch"]
    return [
        (later["timestamp_ms"] - earlier["timestamp_ms"]) / 1e3 - later["metrics"]["time/epoch_s"]
        for earlier, later in zip(epochs, epochs[1:], strict=False)
    ]


def print_times(times: Times) -> None:
    print(f"{'ms':40}{'median':>9}{'first quarter':>15}{'last quarter':>14}{'most':>9}")
    for label, durations_s in times.items():
        if durations_s:
            print(f"{label:40}" + "".join(_cells(durations_s)))


def _cells(durations_s: Sequence[float]) -> list[str]:
    quarter = max(1, len(durations_s) // 4)
    shown = (
        statistics.median(durations_s),
        statistics.median(durations_s[:quarter]),
        statistics.median(durations_s[-quarter:]),
        max(durations_s),
    )
    return [f"{1e3 * value:>{width}.2f}" for value, width in zip(shown, (9, 15, 14, 9), strict=True)]


if __name__ == "__main__":
    sys.exit(main())
