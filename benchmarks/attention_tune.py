"""Which launch of our own attention kernels is fastest at each shape: `python benchmarks/attention.py --tune`.

For each shape and direction, worker processes compile a grid of choices and check them on a few sequences. A kernel
that does not compile, computes wrongly or breaks its process is listed and left out. The others are timed with cold
inputs. The best few are varied once more (loads ahead, registers, recomputed sums) and timed again.
"""

from __future__ import annotations

import argparse
import dataclasses
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from benchmarks.attention_inputs import ALLOWED_ERRORS, Launches, Shape, exact, log_sum_exp, make_inputs, relative_error

DIRECTIONS = ("forward", "backward")
BEST = 5  # printed, and varied once more
MAX_SCORES = 96  # that one thread may hold: beyond, kernels spill and take a minute to compile


def candidates(shape: Shape) -> list[Any]:
    """The grid of Choices for a shape (S, N, K, E)."""
    from model.attention.patch_launch import Choice

    _, n, k, e = shape
    keys = max(16, 1 << (n - 1).bit_length())
    return [
        Choice(heads=heads, rows=rows, warps=warps)
        for heads in (1, 2, 4, 8) if heads <= k and (heads == 1 or heads * e <= 64)
        for rows in (16, 32, 64) if rows <= keys
        for warps in (1, 2, 4) if rows * keys // (32 * warps) <= MAX_SCORES
    ]  # fmt: skip


def variations(choice: Any, direction: str) -> list[Any]:
    """What may still help a good choice."""
    changes: list[dict[str, Any]] = [{"registers": count} for count in (64, 96, 128, 168)]
    changes += [{"stages": 2}, {"stages": 3}]
    if direction == "backward":
        changes.append({"recompute": True})
    return [dataclasses.replace(choice, **change) for change in changes]


def tune(
    shapes: tuple[Shape, ...],
    options: argparse.Namespace,
    results: dict[str, Any],
    save: Callable[[], None],
) -> None:
    """Time the grid at every shape as long as the budget lasts; adds to results["cells"] and prints the best."""
    begun = time.monotonic()
    jobs = [(shape, direction) for shape in shapes for direction in DIRECTIONS]
    with Compiler(options.workers or min(12, os.cpu_count() or 1)) as compiler:
        for at, (shape, direction) in enumerate(jobs):
            left = options.budget_s - (time.monotonic() - begun)
            cell: dict[str, Any] = {"shape": list(shape), "direction": direction, "tried": [], "failed": []}
            results["cells"].append(cell)
            if left < 5:
                cell["skipped"] = f"the budget of {options.budget_s:.0f} s was used up"
            else:
                try:
                    tune_one(shape, direction, options, compiler, cell, time.monotonic() + left / (len(jobs) - at))
                except Exception as error:  # a cell keeps its error, the others go on
                    cell["error"] = f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
            print_cell(cell)
            save()


def tune_one(
    shape: Shape,
    direction: str,
    options: argparse.Namespace,
    compiler: Compiler,
    cell: dict[str, Any],
    until: float,
) -> None:
    """Two rounds: the fixed choice and the grid, then variations of the best."""
    import torch

    from benchmarks.graph_timing import time_in_graph
    from model.attention.patch_launch import choose_launch

    launches = Launches(shape, direction, options.precision)
    fixed = choose_launch(shape[1], shape[3], launches.dtype, backward=direction == "backward")
    tried: dict[Any, float] = {}
    for turn in (0, 1):
        best = sorted(tried, key=lambda choice: tried[choice])[:BEST]
        grid = [fixed, *candidates(shape)] if turn == 0 else [new for old in best for new in variations(old, direction)]
        fresh = [choice for choice in dict.fromkeys(grid) if choice not in tried]
        seconds = (until - time.monotonic()) * (0.7 if turn == 0 else 0.8)
        for choice, reason in compiler.check(shape, direction, options.precision, fresh, seconds).items():
            if reason is None and (time.monotonic() < until or choice == fixed):
                try:
                    tried[choice] = time_in_graph(launches.calls(choice), samples=min(options.samples, 7)).median_ms
                    continue
                except (RuntimeError, torch.cuda.OutOfMemoryError) as error:
                    reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            cell["failed"].append({"choice": dataclasses.asdict(choice), "reason": reason or "no time was left"})
    order = sorted(tried, key=lambda choice: tried[choice])
    cell["tried"] = [{"choice": dataclasses.asdict(choice), "cold_ms": tried[choice]} for choice in order]
    cell["fixed_ms"] = tried.get(fixed)


class Compiler:
    """Worker processes that compile and check choices, so that a broken kernel does not end the benchmark."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.pool = self._start()

    def __enter__(self) -> Compiler:
        return self

    def __exit__(self, *_: Any) -> None:
        self.pool.terminate()

    def check(
        self, shape: Shape, direction: str, precision: str, choices: list[Any], seconds: float
    ) -> dict[Any, str | None]:
        """choice -> None where it is right, else why not. One not ready after `seconds` has that as its reason."""
        until = time.monotonic() + seconds
        job_of = self.pool.apply_async
        jobs = {choice: job_of(check_choice, (shape, direction, precision, choice)) for choice in choices}
        reasons: dict[Any, str | None] = {}
        for choice, job in jobs.items():
            try:
                reasons[choice] = job.get(max(0.01, until - time.monotonic()))
            except multiprocessing.TimeoutError:
                reasons[choice] = "not compiled within its share of the budget, or its process ended"
        if any(reason and ("share of the budget" in reason or "CUDA error" in reason) for reason in reasons.values()):
            self.pool.terminate()  # busy, or its CUDA context is gone
            self.pool = self._start()
        return reasons

    def _start(self) -> Any:
        return multiprocessing.get_context("spawn").Pool(self.workers)


def check_choice(shape: Shape, direction: str, precision: str, choice: Any) -> str | None:
    """Compiles (Triton keeps it on disk for all processes) and compares with fp64 at 16 sequences; why not, or None."""
    import torch

    from model.attention import patch_op

    try:
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
        leaves, grad = make_inputs((16, *shape[1:]), precision, 0)
        q, k, v = (leaf.detach().transpose(1, 2) for leaf in leaves)
        scale = shape[3] ** -0.5
        output, *gradients = exact(leaves, grad)
        if direction == "forward":
            computed, true = patch_op.forward(q, k, v, scale, choice)[:1], [output]
        else:
            computed = tuple(torch.empty_like(grad) for _ in range(3))
            patch_op.backward(grad, q, k, v, log_sum_exp(q, k, scale), scale, choice, computed)
            true = [gradient.transpose(1, 2) for gradient in gradients]
        error = max(relative_error(*pair) for pair in zip(computed, true, strict=True))
    except Exception as failure:  # the reason is listed
        return f"{type(failure).__name__}: {' '.join(str(failure).split())[:300]}"
    return None if error <= ALLOWED_ERRORS[precision] else f"wrong: relative error {error:.2e}"


def print_cell(cell: dict[str, Any]) -> None:
    """The best few, and how many failed."""
    name = f"{'x'.join(map(str, cell['shape']))} {cell['direction']}"
    if "skipped" in cell or "error" in cell:
        print(f"\n{name}: {cell.get('skipped') or cell['error']}", flush=True)
        return
    fixed = f"{cell['fixed_ms']:.4f} ms" if cell["fixed_ms"] is not None else "failed"
    print(f"\n{name}: {len(cell['tried'])} timed, {len(cell['failed'])} left out; the fixed choice {fixed}", flush=True)
    for entry in cell["tried"][:BEST]:
        shown = ", ".join(f"{key}={value}" for key, value in entry["choice"].items() if value not in (None, False))
        print(f"  {entry['cold_ms']:.4f} ms  {shown}", flush=True)
    for entry in cell["failed"][:3]:
        print(f"  left out {entry['choice']}: {entry['reason'][:160]}", file=sys.stderr, flush=True)
