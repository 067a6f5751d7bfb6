"""Milliseconds of one training step: backend x engine x batch size x patch length.

    python benchmarks/step.py                                       # the study's model, every backend and engine, bf16
    python benchmarks/step.py --engines graph --batches 32,128,512 --patches 12,24,96 --json step.json
    python benchmarks/step.py --engines eager --batches 8 --steps 5 --set model.d_model=16 --set model.num_heads=2
    python benchmarks/step.py --backends patch --engines graph --set model.preset=ettm   # with its own batch and stride
    python benchmarks/step.py --backends patch --engines graph --heads 16,11,8           # heads left after pruning

A preset is measured as it is: its patch length and stride, and its batch where it names one. Another --patches is its
own stride too.

Each cell trains on generated data of ETT's 7 channels from the device feed, after warm-up and capture. The time of a
step runs from the end of one step to the end of the next, so that gaps between steps count. `host ms` is how long the
host was busy with a step. Figures are medians of all steps after the first tenth; --json has the raw values. MFU and
floor come from model/flops.py and stay empty for a GPU whose peak is not listed there. Cells that cannot run are listed
with their reason.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

PRESET = "study"


@dataclass(kw_only=True)
class Cell:
    """One row of the table."""

    attention: str
    engine: str
    batch_size: int
    patch_length: int
    heads: int | None = None  # left in every layer; None: all
    reason: str | None = None  # why there are no figures
    step_ms: list[float] | None = None  # raw, the first tenth left out
    host_ms: list[float] | None = None
    windows_per_s: float | None = None
    mfu_pct: float | None = None
    floor_pct: float | None = None  # `floor_s` (a model of compute and traffic) in percent of the measured step
    peak_memory_gib: float | None = None
    compile_s: float | None = None  # compiling, warming up, capturing
    kernels: dict[str, tuple[float, float]] | None = None  # name -> ms of a step, launches of a step; longest first


def main() -> None:
    """Measure every cell, print each as it comes and the table at the end, write the raw values."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backends", help="comma-separated (default: all)")
    parser.add_argument("--engines", help="comma-separated (default: all)")
    parser.add_argument("--batches", help="comma-separated (default: the preset's, else 128)")
    parser.add_argument("--patches", help="comma-separated patch lengths (default: the preset's)")
    parser.add_argument("--heads", help="comma-separated: left in every layer, the first ones (default: all)")
    parser.add_argument("--precision", help="default bf16 on a GPU, fp32 on a CPU")
    parser.add_argument("--steps", type=int, default=200, help="per cell (default 200)")
    parser.add_argument("--kernels", type=int, default=0, metavar="N", help="profile too, print the N longest kernels")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="for every cell")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    from model.attention import BACKENDS
    from model.presets import PRESETS
    from tune.engine import ENGINES
    from tune.machine.device import has_gpu, node_facts
    from tune.machine.environment import environment

    facts = node_facts(use_gpu=has_gpu())
    given = dict(item.split("=", 1) for item in options.set)
    preset = PRESETS[given.get("model.preset", PRESET)]
    batch, patch = (given.get(name, preset.get(name, 128)) for name in ("train.batch_size", "model.patch_length"))
    axes = (
        options.backends.split(",") if options.backends else list(BACKENDS),
        options.engines.split(",") if options.engines else list(ENGINES),
        [int(batch) for batch in str(options.batches or batch).split(",")],
        [int(patch) for patch in str(options.patches or patch).split(",")],
        [int(heads) for heads in options.heads.split(",")] if options.heads else [None],
    )
    cells = []
    with tempfile.TemporaryDirectory() as folder:
        for backend, engine, batch, patch, heads in itertools.product(*axes):
            cell = Cell(attention=backend, engine=engine, batch_size=batch, patch_length=patch, heads=heads)
            measure(cell, options, facts, Path(folder))
            print(f"{_title(cell)}: {cell.reason or _median(cell.step_ms)}", file=sys.stderr)
            if cell.kernels:
                _print_kernels(cell, options.kernels)
            cells.append(cell)
    print_table(cells, facts)
    if options.json:
        content = {"device": facts.as_dict(), "environment": environment(), "cells": [vars(cell) for cell in cells]}
        options.json.write_text(json.dumps(content, indent=1))


def measure(cell: Cell, options: argparse.Namespace, facts: Any, folder: Path) -> None:
    """Fill in a cell's figures, or its reason."""
    from tune.config.sweeps import Arm, SweepConfig
    from tune.plan.plan import make_plan

    sweep = SweepConfig(name="step", question="", baseline="cell", arms=(Arm(label="cell", changes={}),))
    try:
        given = fields(cell, dict(item.split("=", 1) for item in options.set), options.precision)
        trial = make_plan(sweep, overrides=given, repeats=1, seed=1, device=facts).trials[0]
        cell.reason = trial.unsupported
        if cell.reason is None:
            run(cell, trial.config, options, facts, folder)
    except Exception as error:  # the reason is shown, and the other cells are still measured
        cell.reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


def fields(cell: Cell, given: Mapping[str, str], precision: str | None) -> dict[str, Any]:
    """The fields of a cell. `given` wins, but for what the cell is. A preset's patches stay the preset's."""
    from model.presets import PRESETS

    every: dict[str, Any] = {"data.dataset": "demo", "model.preset": PRESET, "train.epochs": 10_000}
    if precision:
        every["train.precision"] = precision
    every |= given
    every |= {"model.attention": cell.attention, "train.engine": cell.engine, "train.batch_size": cell.batch_size}
    if cell.patch_length == PRESETS[every["model.preset"]]["model.patch_length"]:
        every.pop("model.patch_length", None)  # named, it would be its own stride
    else:
        every["model.patch_length"] = cell.patch_length
    total = int(every.get("model.num_heads", PRESETS[every["model.preset"]]["model.num_heads"]))
    if cell.heads is not None and cell.heads != total:
        if not 0 < cell.heads < total:
            raise ValueError(f"--heads {cell.heads}: give 1 to {total}, the model's heads")
        every |= {"pruning.score": "static", "pruning.heads": list(range(cell.heads, total))}
    return every


def run(cell: Cell, config: Any, options: argparse.Namespace, facts: Any, folder: Path) -> None:
    """Train for `options.steps` steps as a trial's session does."""
    from model.flops import floor_s, mfu_pct
    from tune.trial.job import TrialJob
    from tune.trial.session import Session

    job = TrialJob(
        trial_id="step",
        config=config,
        device_type=facts.device_type,
        data_dir=str(folder),
        cache_dir=str(folder / "cache"),
        cpus=facts.cpus,
    )
    with Session(job, time.perf_counter()) as session:
        session.meter.begin()
        session.prepare_epoch()  # removes heads and builds the engine
        stepper = session._stepper
        assert stepper is not None
        session.state.model.train()
        try:
            step_ms, host_ms = _timed(stepper, session.feed, options.steps, facts.device_type)
            shape, precision = session.step_shape(), config.train.precision
            cell.compile_s = session.progress.compile_s
            if options.kernels:
                cell.kernels = _kernels(stepper, session.feed, facts.device_type)
            cell.peak_memory_gib = session.meter.peak_memory_gib(at_least_bytes=stepper.captured_peak_bytes)
        finally:
            stepper.close()
    skip = len(step_ms) // 10
    cell.step_ms, cell.host_ms = step_ms[skip:], host_ms[skip:]
    seconds = statistics.median(cell.step_ms) / 1e3
    cell.windows_per_s = shape.batch_size / seconds
    cell.mfu_pct = mfu_pct(shape, step_s=seconds, gpu=facts.name, precision=precision)
    floor = floor_s(shape, gpu=facts.name, precision=precision)
    cell.floor_pct = None if floor is None else 100 * floor / seconds


def _timed(stepper: Any, feed: Any, steps: int, device_type: str) -> tuple[list[float], list[float]]:
    """Milliseconds from the end of each step to the end of the next, and those the host was busy with it."""
    import torch

    batches = itertools.islice(_endless(stepper, feed), steps + 1)
    ends: list[Any] = []
    host_ms = []
    for batch in batches:
        began_s = time.perf_counter()
        stepper.step(batch.arrived())
        host_ms.append(1e3 * (time.perf_counter() - began_s))
        if device_type == "cuda":
            end = torch.cuda.Event(enable_timing=True)
            end.record()
            ends.append(end)
        else:
            ends.append(time.perf_counter())
    if device_type == "cuda":
        torch.cuda.synchronize()
        return [end.elapsed_time(next_end) for end, next_end in itertools.pairwise(ends)], host_ms[1:]
    return [1e3 * (next_end - end) for end, next_end in itertools.pairwise(ends)], host_ms[1:]


def _kernels(stepper: Any, feed: Any, device_type: str, steps: int = 3) -> dict[str, tuple[float, float]]:
    """Milliseconds and launches of each kernel (on a CPU: of each operator) in one step."""
    import torch

    activity = torch.profiler.ProfilerActivity
    batches = [batch.arrived() for batch in itertools.islice(_endless(stepper, feed), steps)]
    with torch.profiler.profile(activities=[getattr(activity, device_type.upper())], acc_events=True) as profile:
        for batch in batches:
            stepper.step(batch)
        if device_type == "cuda":
            torch.cuda.synchronize()
    sums: dict[str, tuple[float, float]] = {}
    for event in profile.events():
        if device_type == "cpu" or event.device_type == torch.autograd.DeviceType.CUDA:
            took = event.device_time if device_type == "cuda" else event.self_cpu_time_total
            ms, launches = sums.get(event.name, (0.0, 0.0))
            sums[event.name] = (ms + took / 1e3 / steps, launches + 1 / steps)
    return dict(sorted(sums.items(), key=lambda item: -item[1][0]))


def _print_kernels(cell: Cell, most: int) -> None:
    assert cell.kernels is not None
    total, count = (sum(column) for column in zip(*cell.kernels.values(), strict=True))
    print(f"\n{_title(cell)}: {total:.3f} ms in {count:.0f} launches")
    for name, (ms, launches) in list(cell.kernels.items())[:most]:
        print(f"  {ms:8.4f} ms {launches:6.1f} x  {name[:150]}")


def _title(cell: Cell) -> str:
    heads = "" if cell.heads is None else f" {cell.heads} heads"
    return f"{cell.attention} {cell.engine} {cell.batch_size} {cell.patch_length}{heads}"


def _endless(stepper: Any, feed: Any) -> Iterator[Any]:
    for epoch in itertools.count(1):
        yield from stepper.batches(feed, epoch)


def print_table(cells: list[Cell], facts: Any) -> None:
    """To stdout, with the reasons of what did not run."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"One training step on {facts.name}")
    figures = ("batch", "patch", "heads", "ms", "host ms", "windows/s", "MFU %", "floor %", "GiB", "compile s")
    for name in ("attention", "engine", *figures):
        table.add_column(name, justify="left" if name in ("attention", "engine") else "right")
    for cell in cells:
        heads = "" if cell.heads is None else str(cell.heads)
        first = (cell.attention, cell.engine, str(cell.batch_size), str(cell.patch_length), heads)
        if cell.reason:
            table.add_row(*first, "-")
            continue
        values = (
            _median(cell.step_ms), _median(cell.host_ms), _text(cell.windows_per_s, ",.0f"), _text(cell.mfu_pct, ".1f"),
            _text(cell.floor_pct, ".1f"), _text(cell.peak_memory_gib, ".2f"), _text(cell.compile_s, ".1f"),
        )  # fmt: skip
        table.add_row(*first, *values)
    console = Console(width=140)
    console.print(table)
    for cell in cells:
        if cell.reason:
            console.print(f"{_title(cell)}: {cell.reason}", markup=False)


def _median(values: list[float] | None) -> str:
    return _text(statistics.median(values) if values else None, ".3f")


def _text(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


if __name__ == "__main__":
    main()
