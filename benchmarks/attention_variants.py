"""Launches of our own attention kernels in turns: `python benchmarks/attention.py --variants`.

Each shape and direction times the launch of the table without the kernels for half precision, with them, and the other
launches of `attention_counts.variants`. Inputs rotate, so that none is in the cache; samples take turns. Before a
launch is timed, its result is compared with fp64 at 16 sequences, and two launches must agree to the bit.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any

from benchmarks.attention_counts import variants
from benchmarks.attention_inputs import Launches, Shape
from benchmarks.attention_tune import check_choice

# The study's model with all heads and with 5 of 16 removed; the longest sequences; the widest heads; batch 512.
VARIANT_SHAPES: tuple[Shape, ...] = (
    (896, 42, 16, 8), (896, 42, 11, 8), (896, 64, 16, 8), (896, 42, 8, 16), (3584, 42, 16, 8)
)  # fmt: skip
SAMPLES = 21


def time_variants(options: argparse.Namespace, results: dict[str, Any], save: Callable[[], None]) -> None:
    """Times the variants at every shape as long as --budget-s lasts; adds to results["cells"] and prints a table."""
    begun = time.monotonic()
    for shape in VARIANT_SHAPES[:1] if options.quick else VARIANT_SHAPES:
        for direction in ("forward", "backward"):
            if time.monotonic() - begun > options.budget_s:
                print(f"{'x'.join(map(str, shape))} {direction}: left out, --budget-s is used up", flush=True)
                continue
            cell = {"shape": list(shape), "direction": direction, "launches": _one(shape, direction, options)}
            results["cells"].append(cell)
            save()


def _one(shape: Shape, direction: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    import torch

    from benchmarks.graph_timing import capture, elapsed_ms, repeats_of

    launches = Launches(shape, direction, options.precision)
    graphs: dict[Any, Any] = {}
    found: dict[Any, dict[str, Any]] = {}
    for choice in variants(shape[1], shape[3], direction):
        cell: dict[str, Any] = {"choice": dataclasses.asdict(choice)}
        try:
            if reason := check_choice(shape, direction, options.precision, choice):
                raise ValueError(reason)
            first = [tensor.clone() for tensor in launches.outputs(choice)]
            if not all(torch.equal(*pair) for pair in zip(first, launches.outputs(choice), strict=True)):
                raise ValueError("two launches differ")
            graphs[choice] = capture(launches.calls(choice))
        except Exception as error:  # the others go on
            cell["error"] = f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"
        found[choice] = cell
    times_ms: dict[Any, list[float]] = {choice: [] for choice in graphs}
    repeats = max((repeats_of(graph) for graph in graphs.values()), default=1)
    for turn in range(SAMPLES):
        for choice in list(graphs) if turn % 2 == 0 else reversed(list(graphs)):
            times_ms[choice].append(elapsed_ms(graphs[choice], repeats) / launches.count)
    base = next(iter(graphs), None)
    for choice, cell in found.items():
        if choice in graphs:
            cell["median_us"] = 1e3 * statistics.median(times_ms[choice])
            cell["of_first"] = statistics.median(map(lambda a, b: a / b, times_ms[choice], times_ms[base]))
        _print(shape, direction, cell)
    return list(found.values())


def _print(shape: Shape, direction: str, cell: dict[str, Any]) -> None:
    shown = ", ".join(f"{key}={value}" for key, value in cell["choice"].items() if value not in (None, False))
    said = cell.get("error") or f"{cell['median_us']:8.2f} us  x{cell['of_first']:.3f}"
    print(f"{'x'.join(map(str, shape)):<14} {direction:<8} {said}  {shown}", flush=True)
