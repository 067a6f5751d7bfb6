"""Attention alone, forward and backward in a CUDA graph: every backend at PatchTST's shapes. Needs a GPU.

    python benchmarks/attention.py --json attention.json          # the table
    python benchmarks/attention.py --quick                        # fewer samples, the first two shapes
    python benchmarks/attention.py --against ../before            # our own kernels beside those of another checkout
    python benchmarks/attention.py --tune --budget-s 240 --json tune.json
                                              # which launch of our own kernels is fastest at each shape
    python benchmarks/attention.py --variants                     # the kernels in use beside those not in use yet

"warm": the same inputs each time, in the L2 cache as far as they fit. "cold": inputs rotate over enough sets that a set
is reused only after three times the cache. Times are medians in ms of one forward and backward pass. Floor: the time
at --bandwidth-tbs for 11 passes over a tensor of S * N * K * E elements (forward reads q k v and writes o; backward
reads q k v do and writes dq dk dv). The second floor has 15 passes: its backward also reads o and writes and reads a
sum. The default bandwidth is 3.0 TB/s on the card where it was measured; on any other there is no floor ("-").
A cell that fails keeps its error and the others go on. Before a backend is timed, its output and gradients are compared
with eager in fp64.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.attention_against import compare, kernel_file
from benchmarks.attention_inputs import BYTES, Shape, exact, make_inputs
from benchmarks.attention_passes import backends, environment, errors_of, function_of, one_pass, unsupported, write

# The study's model at batch 128, and at batch 512 (3,584), with other patch lengths, and with fewer and wider heads.
SHAPES: tuple[Shape, ...] = (
    (896, 42, 16, 8), (896, 21, 16, 8), (896, 5, 16, 8), (896, 64, 16, 8), (3584, 42, 16, 8), (896, 42, 8, 16),
    (896, 42, 4, 32),
)  # fmt: skip
# Measured on this card on 2026-11-22. On any other there is neither a floor nor a naive time.
CARD, CARD_BANDWIDTH_TBS = "NVIDIA H100 80GB HBM3", 3.0
# One program per (sequence, head), warm, bf16: what our kernels are to beat.
NAIVE_MS = dict(zip(SHAPES, (0.167, 0.062, 0.027, 0.325, 1.039, 0.085, 0.063), strict=True))
PASSES = (11, 15)
AGAINST_SHAPES = 4


def main() -> None:
    """Parse, measure, print; exit 2 without a GPU and for wrong options."""
    options = parse(sys.argv[1:])
    import torch

    if not torch.cuda.is_available():
        print(
            "benchmarks/attention.py needs a CUDA GPU and finds none: run it on a machine with a GPU (--help says "
            "what it measures)",
            file=sys.stderr,
        )
        sys.exit(2)
    torch.set_float32_matmul_precision("high" if options.precision == "tf32" else "highest")
    shapes = SHAPES[:2] if options.quick else SHAPES
    results: dict[str, Any] = {"environment": environment(), "options": vars(options), "cells": []}
    print(f"{results['environment']['gpu']}, torch {torch.__version__}, {options.precision}")
    if options.tune:
        from benchmarks.attention_tune import tune

        tune(shapes, options, results, lambda: write(options.json, results))
    elif options.variants:
        from benchmarks.attention_variants import time_variants

        time_variants(options, results, lambda: write(options.json, results))
    elif options.against:
        compare(shapes[:AGAINST_SHAPES], options, results, lambda: write(options.json, results))
    else:
        measure_all(shapes, options, results)
        print_table(results["cells"], shapes, options, results["environment"]["gpu"])
    write(options.json, results)


def parse(arguments: list[str]) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", choices=sorted(BYTES), default="bf16")
    parser.add_argument("--backends", help="comma-separated (default: all)")
    parser.add_argument("--samples", type=int, help="of each time (default 25, with --quick 7, with --against 101)")
    parser.add_argument("--quick", action="store_true", help="fewer samples, the first two shapes")
    parser.add_argument(
        "--bandwidth-tbs",
        type=float,
        help=f"of the floors, in TB/s (default {CARD_BANDWIDTH_TBS} on {CARD}, else none)",
    )
    parser.add_argument("--tune", action="store_true", help="time our own kernels' launches instead")
    parser.add_argument("--variants", action="store_true", help="time variants of our own kernels in turns instead")
    parser.add_argument(
        "--against",
        type=Path,
        help=f"a checkout: time its kernels of ours beside these, at the first {AGAINST_SHAPES} shapes",
    )
    parser.add_argument("--budget-s", type=float, default=300.0, help="for --tune and --variants (default 300)")
    parser.add_argument("--workers", type=int, help="processes that compile for --tune (default: cores, at most 12)")
    parser.add_argument("--json", type=Path, help="write everything there")
    options = parser.parse_args(arguments)
    options.samples = options.samples or (101 if options.against else 7 if options.quick else 25)
    if options.against:
        try:
            kernel_file(options.against)
        except ValueError as error:
            parser.error(str(error))
    if options.backends:
        wanted, known = options.backends.split(","), list(backends())
        if unknown := sorted(set(wanted) - set(known)):
            parser.error(f"unknown backend {unknown[0]!r}: choose of {', '.join(known)}")
    return options


def floor_ms(shape: Shape, passes: int, precision: str, bandwidth_tbs: float) -> float:
    """Time to move `passes` tensors of this shape."""
    s, n, k, e = shape
    return passes * s * n * k * e * BYTES[precision] / (bandwidth_tbs * 1e9)


def measure_all(shapes: tuple[Shape, ...], options: argparse.Namespace, results: dict[str, Any]) -> None:
    """One cell for each shape and backend, written to the JSON as it comes."""
    wanted = options.backends.split(",") if options.backends else None
    for shape in shapes:
        for name, backend in backends().items():
            if wanted is not None and name not in wanted:
                continue
            cell: dict[str, Any] = {"shape": list(shape), "backend": name}
            reason = unsupported(backend, shape, options.precision)
            try:
                cell |= {"unsupported": reason} if reason else measure(backend, shape, options)
            except Exception as error:  # a cell keeps its error, the others go on
                cell["error"] = f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
            results["cells"].append(cell)
            write(options.json, results)
            print(f"{'x'.join(map(str, shape))} {name}: {_short(cell)}", file=sys.stderr)


def measure(backend: Any, shape: Shape, options: argparse.Namespace) -> dict[str, Any]:
    """Errors and times of one backend at one shape."""
    from benchmarks.graph_timing import sets_to_flush, time_in_graph

    attend = function_of(backend)
    bytes_of_a_set = 4 * shape[0] * shape[1] * shape[2] * shape[3] * BYTES[options.precision]
    errors = check(attend, shape, options.precision)
    inputs = [make_inputs(shape, options.precision, seed) for seed in range(sets_to_flush(bytes_of_a_set))]
    calls = [one_pass(attend, *each) for each in inputs]
    warm = time_in_graph(calls[:1] * 10, samples=options.samples, kernels=True)
    cold = time_in_graph(calls, samples=options.samples)
    return {"errors": errors, "warm": dataclasses.asdict(warm), "cold": dataclasses.asdict(cold), "sets": len(inputs)}


def check(attend: Any, shape: Shape, precision: str) -> dict[str, float]:
    """Relative errors of output and gradients against eager in fp64, at up to 64 sequences; ValueError if wrong."""
    leaves, gradient = make_inputs((min(64, shape[0]), *shape[1:]), precision, 0)
    return errors_of(one_pass(attend, leaves, gradient)(), exact(leaves, gradient), precision)


def print_table(cells: list[dict[str, Any]], shapes: tuple[Shape, ...], options: argparse.Namespace, gpu: str) -> None:
    """One row for each shape: floors and the naive time where they are known, then "warm / cold" of each backend."""
    from rich.console import Console
    from rich.table import Table

    names = list(dict.fromkeys(cell["backend"] for cell in cells))
    table = Table(title=f"attention, forward + backward, {options.precision}, ms: warm / cold (floors, naive: warm)")
    heads = ("S x N x K x E", *(f"floor {count}" for count in PASSES), f"naive ({CARD})", *names)
    bandwidth_tbs = options.bandwidth_tbs or (CARD_BANDWIDTH_TBS if gpu == CARD else None)
    for head in heads:
        table.add_column(head)
    for shape in shapes:
        row = {cell["backend"]: _short(cell) for cell in cells if tuple(cell["shape"]) == shape}
        floors = ["-"] * len(PASSES)
        if bandwidth_tbs is not None:
            floors = [f"{floor_ms(shape, count, options.precision, bandwidth_tbs):.3f}" for count in PASSES]
        naive = f"{NAIVE_MS[shape]:.3f}" if options.precision == "bf16" and gpu == CARD else "-"
        table.add_row(" x ".join(map(str, shape)), *floors, naive, *(row.get(name, "-") for name in names))
    Console(width=200).print(table)


def _short(cell: dict[str, Any]) -> str:
    if "warm" in cell:
        return f"{cell['warm']['median_ms']:.3f} / {cell['cold']['median_ms']:.3f}"
    return "-" if "unsupported" in cell else f"failed: {cell['error'][:60]}"


if __name__ == "__main__":
    main()
