"""GPU time of one Adam update in a CUDA graph: our single launch and torch's fused Adam. Needs a GPU.

    python benchmarks/optimizer.py                    # the study's parameters
    python benchmarks/optimizer.py --preset etth --samples 100 --json optimizer.json

"warm": the same parameters, gradients and moments each time, in the L2 cache as far as they fit. "cold": updates rotate
over enough sets that a set is reused only after three times the cache. In a training step gradients are warm and
moments are not. Times are medians in ms. Floor: the time at --bandwidth-tbs to read parameters, gradients and both
moments and to write all but the gradients.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

PASSES = 7  # over all parameters in fp32
HORIZON, CHANNELS = 96, 7  # the forecast of the study, and ETT's channels


def main() -> None:
    """Measure, print, write the raw values; exit 2 without a GPU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="study", help="whose parameters (default study)")
    parser.add_argument("--samples", type=int, default=50, help="per cell (default 50)")
    parser.add_argument("--bandwidth-tbs", type=float, default=3.35, help="of GPU memory (default 3.35, an H100's)")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    import torch

    if not torch.cuda.is_available():
        print(
            "benchmarks/optimizer.py needs a CUDA GPU and finds none: run it on a machine with a GPU", file=sys.stderr
        )
        sys.exit(2)
    shapes = shapes_of(options.preset)
    numbers = sum(shape.numel() for shape in shapes)
    cells = {name: measure(make, shapes, options.samples) for name, make in optimizers().items()}
    gpu = torch.cuda.get_device_name()
    floor_ms = PASSES * 4 * numbers / options.bandwidth_tbs / 1e9
    print(f"{gpu}, torch {torch.__version__}: {numbers:,} numbers in {len(shapes)} tensors, floor {floor_ms:.4f} ms\n")
    print(f"{'optimizer':<12} {'warm ms':>9} {'cold ms':>9}")
    for name, (warm, cold) in cells.items():
        print(f"{name:<12} {warm.median_ms:9.4f} {cold.median_ms:9.4f}")
    for name, (warm, _) in cells.items():
        for kernel, ms in warm.kernels.items():
            print(f"  {name}: {ms:.4f} ms {kernel[:100]}")
    if options.json:
        raw = {name: {"warm": vars(warm), "cold": vars(cold)} for name, (warm, cold) in cells.items()}
        content = {"gpu": gpu, "torch": torch.__version__, "parameters": numbers, "floor_ms": floor_ms, "cells": raw}
        options.json.write_text(json.dumps(content, indent=1))


def shapes_of(preset: str) -> list[Any]:
    """The shapes of the trained parameters of the preset's model."""
    from model.patchtst import build_model
    from model.presets import build_fields

    model = build_model(**build_fields(preset), num_channels=CHANNELS, prediction_length=HORIZON, attention="eager")
    return [parameter.shape for parameter in model.parameters() if parameter.requires_grad]


def optimizers() -> dict[str, Callable[..., Any]]:
    """What is compared, each made from parameters and a learning rate in GPU memory as the graph engine has it."""
    import torch

    from tune.engine.adam import OneLaunchAdam

    return {
        "one launch": lambda parameters, lr: OneLaunchAdam(parameters, lr=lr),
        "torch fused": lambda parameters, lr: torch.optim.Adam(parameters, lr=lr, fused=True),
    }


def measure(make: Callable[..., Any], shapes: list[Any], samples: int) -> tuple[Any, Any]:
    """Timings of one update: warm, with its kernels, and cold."""
    from benchmarks.graph_timing import sets_to_flush, time_in_graph

    bytes_of_a_set = 16 * sum(shape.numel() for shape in shapes)
    calls = [_update(make, shapes) for _ in range(sets_to_flush(bytes_of_a_set))]
    return time_in_graph(calls[:1], samples=samples, kernels=True), time_in_graph(calls, samples=samples)


def _update(make: Callable[..., Any], shapes: list[Any]) -> Callable[[], None]:
    """An update of parameters of its own with gradients that stay."""
    import torch

    parameters = [torch.nn.Parameter(torch.randn(shape, device="cuda")) for shape in shapes]
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    optimizer = make(parameters, torch.tensor(1e-4, device="cuda"))

    def update() -> None:
        for group in optimizer.param_groups:  # torch asks for it during capture only
            group["capturable"] = torch.cuda.is_current_stream_capturing()
        optimizer.step()

    return update


if __name__ == "__main__":
    main()
