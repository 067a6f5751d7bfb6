"""Each operator's kernels in a training step: time, bytes, FLOPs, and the share of the roof measured in the same run.

    python benchmarks/roof.py                                        # the study's step, table and roof.html
    python benchmarks/roof.py --set model.preset=traffic --channels 862 --html traffic.html --json traffic.json

The roof is measured first: a copy of 1 GiB, and a product of two 8,192-wide matrices in the step's precision. Then one
step runs operator by operator (eager engine) under the profiler. Bytes are those of an operator's inputs and outputs,
each once; FLOPs are those of its matrix products, for our own operators by the sizes of their weights. The roof time of
an operator is the longer of bytes / bandwidth and FLOPs / peak, and its share of the roof is that time in percent of
the kernels' time. Inputs that lie in the cache can exceed 100. The compiled engines run our kernels as they are, but
join elementwise operators, so the elementwise rows are an upper bound for them. Without a GPU there are no kernels to
time: the table has bytes and FLOPs only, and says so.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

COPY_BYTES, WIDE = 1 << 30, 8_192
# Products of our operators in units of 2 x rows x elements of their weights: forward reads each weight in one product;
# backward makes one for dx and one for dW; the feed-forward's computes its hidden layer again.
PRODUCTS = {"feed_forward_backward": 2.5, "backward": 2.0, "": 1.0}
ATTENTION_PRODUCTS = {"backward": 5.0, "": 2.0}  # of S x K x N x N x E, each 2 FLOPs


@dataclass(kw_only=True)
class Row:
    """All calls of one operator with the same shapes in a step."""

    name: str
    shapes: str
    calls: int = 0
    kernel_s: float | None = None  # None: not measured, without a GPU
    kernels: int = 0
    bytes_moved: int = 0
    flops: int | None = 0  # None: not known

    def roof_s(self, bandwidth: float, peak: float) -> float:
        """The least that the roof allows."""
        return max(self.bytes_moved / bandwidth, (self.flops or 0) / peak)


def main() -> None:
    """Measure roof and step, print the table, draw the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--rows", type=int, default=20_000, help="of the generated series (default 20000)")
    parser.add_argument("--channels", type=int, default=7, help="of the generated series (default 7)")
    parser.add_argument("--top", type=int, default=25, help="rows of the table (default 25)")
    parser.add_argument("--html", type=Path, help="the plot's file (default: roof.html on a GPU)")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    from tune.machine.device import has_gpu, node_facts

    facts = node_facts(use_gpu=has_gpu())
    with tempfile.TemporaryDirectory() as folder:
        rows, precision = measure_step(options, facts, Path(folder))
    roof = measure_roof(precision) if facts.device_type == "cuda" else None
    print_table(rows, roof, facts.name, options.top)
    if roof is not None:
        html = options.html or Path("roof.html")
        html.write_text(plot(rows, roof, facts.name))
        print(f"plot: {html}")
    if options.json:
        content = {"device": facts.as_dict(), "roof": roof, "precision": precision, "rows": [vars(row) for row in rows]}
        options.json.write_text(json.dumps(content, indent=1))


def measure_roof(precision: str) -> dict[str, float]:
    """Bytes/s of a copy, read and write counted, and FLOP/s of a product in `precision`; the best of ten each."""
    import torch

    from tune.engine.precision import set_matmul_precision

    set_matmul_precision(precision)
    kind = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)
    source = torch.empty(COPY_BYTES // 4, device="cuda")
    target = torch.empty_like(source)
    left, right = (torch.randn(WIDE, WIDE, device="cuda", dtype=kind) for _ in range(2))
    return {
        "bandwidth": 2 * COPY_BYTES / _fastest_s(lambda: target.copy_(source)),
        "flops": 2 * WIDE**3 / _fastest_s(lambda: left @ right),
    }


def _fastest_s(work: Any) -> float:
    import torch

    times = []
    for _ in range(12):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        work()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end) / 1e3)
    return min(times[2:])


def measure_step(options: argparse.Namespace, facts: Any, folder: Path) -> tuple[list[Row], str]:
    """The rows of one step, longest first, and its precision."""
    from benchmarks.peers import write_series
    from tune.config.sweeps import Arm, SweepConfig
    from tune.plan.plan import make_plan
    from tune.trial.job import TrialJob
    from tune.trial.session import Session

    series = write_series(folder, options.rows, options.channels)
    given = {"data.dataset": str(series), "train.engine": "eager"} | dict(item.split("=", 1) for item in options.set)
    sweep = SweepConfig(name="roof", question="", baseline="step", arms=(Arm(label="step", changes={}),))
    trial = make_plan(sweep, overrides=given, repeats=1, seed=1, device=facts).trials[0]
    if trial.unsupported or trial.config.train.engine != "eager":
        raise SystemExit(f"roof.py: {trial.unsupported or 'the operators of a step are read in the eager engine'}")
    job = TrialJob(
        trial_id="roof", config=trial.config, device_type=facts.device_type, data_dir=str(folder),
        cache_dir=str(folder / "cache"), cpus=facts.cpus,
    )  # fmt: skip
    with Session(job, time.perf_counter()) as session:
        session.prepare_epoch()
        stepper = session._stepper
        assert stepper is not None
        session.state.model.train()
        try:
            batches = [batch.arrived() for batch in itertools.islice(stepper.batches(session.feed, 1), 3)]
            for batch in batches[:2]:
                stepper.step(batch)
            return operators(lambda: stepper.step(batches[2]), facts.device_type), trial.config.train.precision
        finally:
            stepper.close()


def operators(step: Any, device_type: str) -> list[Row]:
    """The operators of `step`, with the time of their kernels on a GPU."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    calls: list[tuple[str, str, int, int | None]] = []

    class Counter(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            with torch.profiler.record_function(f"roof-{len(calls)}"):
                calls.append(("", "", 0, 0))
                at = len(calls) - 1
                result = function(*args, **(kwargs or {}))
            calls[at] = _described(function, args, kwargs or {}, result)
            return result

    activity = torch.profiler.ProfilerActivity
    activities = [activity.CPU, activity.CUDA] if device_type == "cuda" else [activity.CPU]
    with torch.profiler.profile(activities=activities, acc_events=True) as profile, Counter():
        step()
        if device_type == "cuda":
            torch.cuda.synchronize()
    took, launched = _kernels(profile) if device_type == "cuda" else ({}, {})
    if device_type == "cuda" and not took:
        raise SystemExit("roof.py: the profiler shows no kernel of the step; is another profiler running?")
    rows: dict[tuple[str, str], Row] = {}
    for at, (name, shapes, moved, flops) in enumerate(calls):
        row = rows.setdefault((name, shapes), Row(name=name, shapes=shapes, kernel_s=0.0 if took else None))
        row.calls, row.bytes_moved, row.kernels = (
            row.calls + 1,
            row.bytes_moved + moved,
            row.kernels + launched.get(at, 0),
        )
        row.flops = None if flops is None or row.flops is None else row.flops + flops
        if row.kernel_s is not None:
            row.kernel_s += took.get(at, 0.0)
    kept = [row for row in rows.values() if row.kernels or (not took and row.bytes_moved)]
    return sorted(kept, key=lambda row: -(row.kernel_s or row.bytes_moved))


def _kernels(profile: Any) -> tuple[dict[int, float], dict[int, int]]:
    """Seconds and number of the kernels of each call: those launched in its range and in none inside it."""
    took: dict[int, float] = {}
    launched: dict[int, int] = {}
    for event in profile.events():
        owner = event
        while owner is not None and not owner.name.startswith("roof-"):
            owner = owner.cpu_parent
        if owner is not None:
            at = int(owner.name.removeprefix("roof-"))
            for kernel in event.kernels:
                took[at] = took.get(at, 0.0) + kernel.duration / 1e6
                launched[at] = launched.get(at, 0) + 1
    return took, launched


def _described(function: Any, args: Any, kwargs: Any, result: Any) -> tuple[str, str, int, int | None]:
    """Name, shapes, bytes of inputs and outputs, FLOPs (None: not known) of one call. Views move nothing."""
    import torch
    from torch.utils._pytree import tree_leaves

    inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
    name = str(function).removesuffix(".default")
    shapes = " ".join("x".join(map(str, tensor.shape)) or "1" for tensor in inputs[:3])
    sources = {tensor.untyped_storage().data_ptr() for tensor in inputs}
    view = (
        outputs and all(tensor.untyped_storage().data_ptr() in sources for tensor in outputs) and "_" not in name[-2:]
    )
    moved = 0 if view else sum(_size(tensor) for tensor in _different([*inputs, *outputs]))
    return name, shapes, moved, _flops(function, name, args, kwargs, result, inputs)


def _different(tensors: list[Any]) -> Iterator[Any]:
    seen = set()
    for tensor in tensors:
        key = tensor.data_ptr(), tensor.shape
        if key not in seen:
            seen.add(key)
            yield tensor


def _size(tensor: Any) -> int:
    return int(tensor.numel() * tensor.element_size())


def _flops(function: Any, name: str, args: Any, kwargs: Any, result: Any, inputs: list[Any]) -> int | None:
    from torch.utils.flop_counter import flop_registry

    if counter := flop_registry.get(function._overloadpacket):
        return int(counter(*args, **kwargs, out_val=result))
    if not name.startswith("patchtst"):
        return None if name.startswith("attention_package") else 0
    operator = name.split(".")[1]
    if "attention" in operator:
        heads = inputs[1] if operator.startswith("patch_attention") and "packed" not in operator else inputs[0]
        s, n, e = inputs[0].shape[0], inputs[0].shape[1], inputs[0].shape[-1]
        k = heads.shape[-2]
        return int(_of(ATTENTION_PRODUCTS, operator) * 2 * s * k * n * n * e)
    rows = inputs[0].shape[0] if inputs else 0
    weights = [tensor for tensor in inputs if tensor.ndim == 2 and tensor.shape[0] != rows and min(tensor.shape) > 2]
    return int(_of(PRODUCTS, operator) * 2 * rows * sum(tensor.numel() for tensor in weights))


def _of(table: dict[str, float], operator: str) -> float:
    return next(value for end, value in table.items() if operator.endswith(end))


def print_table(rows: list[Row], roof: dict[str, float] | None, device: str, top: int) -> None:
    """To stdout: the longest operators, and the sums."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"Operators of one training step on {device}")
    for name in ("operator", "shapes", "calls", "kernels", "us", "MB", "GFLOP", "roof us", "% of roof"):
        table.add_column(name, justify="left" if name in ("operator", "shapes") else "right")
    for row in rows[:top]:
        cells = [row.name, row.shapes, str(row.calls), str(row.kernels), *_figures(row, roof)]
        table.add_row(*cells)
    console = Console(width=150)
    console.print(table)
    if roof is None:
        print("no GPU: kernels, their times and the roof cannot be measured here; bytes and FLOPs are counted")
        return
    total = sum(row.kernel_s or 0 for row in rows)
    least = sum(row.roof_s(roof["bandwidth"], roof["flops"]) for row in rows)
    print(f"roof: {roof['bandwidth'] / 1e12:.2f} TB/s, {roof['flops'] / 1e12:.0f} TFLOP/s, measured in this run")
    print(f"all {len(rows)} rows: {1e3 * total:.3f} ms of kernels, {1e3 * least:.3f} ms at the roof of each operator")


def _figures(row: Row, roof: dict[str, float] | None) -> list[str]:
    moved = f"{row.bytes_moved / 1e6:.2f}"
    flops = "?" if row.flops is None else f"{row.flops / 1e9:.3f}"
    if roof is None or not row.kernel_s:
        return ["", moved, flops, "", ""]
    least = row.roof_s(roof["bandwidth"], roof["flops"])
    return [f"{1e6 * row.kernel_s:.1f}", moved, flops, f"{1e6 * least:.1f}", f"{100 * least / row.kernel_s:.0f}"]


def plot(rows: list[Row], roof: dict[str, float], device: str) -> str:
    """The roofline as an HTML page: FLOP/s over FLOPs per byte, one point an operator, its area its time."""
    import plotly.graph_objects as go

    points = [row for row in rows if row.kernel_s and row.flops and row.bytes_moved]
    bend = roof["flops"] / roof["bandwidth"]
    edges = [0.01 * bend, bend, 100 * bend]
    figure = go.Figure(
        [
            go.Scatter(x=edges, y=[min(roof["flops"], x * roof["bandwidth"]) for x in edges], name="measured roof"),
            go.Scatter(
                x=[(row.flops or 0) / row.bytes_moved for row in points],
                y=[(row.flops or 0) / (row.kernel_s or 1) for row in points],
                text=[f"{row.name} {row.shapes}" for row in points],
                marker={
                    "size": [row.kernel_s for row in points],
                    "sizemode": "area",
                    "sizeref": max((row.kernel_s or 0 for row in points), default=1.0) / 1_000,
                },
                mode="markers",
                name="operators",
            ),
        ]
    )
    figure.update_layout(title=f"Roofline of one training step, {device}")
    figure.update_xaxes(type="log", title="FLOPs per byte")
    figure.update_yaxes(type="log", title="FLOP/s")
    return str(figure.to_html(include_plotlyjs=True))


if __name__ == "__main__":
    main()
