"""Our attention kernels beside those of another checkout: `python benchmarks/attention.py --against PATH`.

Both are launched by this checkout's patch_op, on the same inputs, which rotate so that none is in the cache. Samples
of the two take turns, in an order that changes each time; the ratio is the median over pairs of neighbouring samples.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from benchmarks.attention_inputs import Launches, Shape

if TYPE_CHECKING:
    from torch import Tensor

SIDES = ("here", "there")


def kernel_file(path: Path) -> Path:
    """The kernels in a checkout or in its folder model/. ValueError where there are none."""
    for folder in (path / "model", path):
        if (file := folder / "attention" / "patch_kernels.py").is_file():
            return file
    raise ValueError(f"--against {path}: there is no model/attention/patch_kernels.py, give the folder of a checkout")


def compare(
    shapes: tuple[Shape, ...], options: argparse.Namespace, results: dict[str, Any], save: Callable[[], None]
) -> None:
    """Time both at every shape; adds to results["cells"] and prints a line for each shape and direction."""
    other = _load(kernel_file(options.against))
    print(f"{'S x N x K x E':<18} {'direction':<9} {'here, ms':>9} {'there, ms':>9}  here/there (quartiles)    results")
    for shape in shapes:
        for direction in ("backward", "forward"):
            cell = {"shape": list(shape), "direction": direction} | _compare_one(shape, direction, options, other)
            results["cells"].append(cell)
            print(_row(cell), flush=True)
            save()


def _load(file: Path) -> ModuleType:
    """The file as a module under a name of its own, beside this checkout's."""
    spec = importlib.util.spec_from_file_location("patch_kernels_there", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextmanager
def _kernels(module: ModuleType | None) -> Iterator[None]:
    """Let patch_op launch the kernels of `module`; None: its own."""
    from model.attention import patch_op

    own = patch_op.patch_kernels
    patch_op.patch_kernels = module or own
    try:
        yield
    finally:
        patch_op.patch_kernels = own


def _compare_one(shape: Shape, direction: str, options: argparse.Namespace, other: ModuleType) -> dict[str, Any]:
    import torch

    from benchmarks.graph_timing import capture, elapsed_ms, repeats_of
    from model.attention.patch_launch import choose_launch

    launches = Launches(shape, direction, options.precision)
    # Of patch_kernels on both sides: patch_half_kernels are compared by --variants.
    choice = choose_launch(shape[1], shape[3], launches.dtype, backward=direction == "backward", half=False)
    outputs: list[list[Tensor]] = []
    graphs = []
    for module in (None, other):
        with _kernels(module):
            outputs.append([tensor.clone() for tensor in launches.outputs(choice)])
            graphs.append(capture(launches.calls(choice)))
    repeats = max(repeats_of(graph) for graph in graphs)
    times_ms: dict[str, list[float]] = {side: [] for side in SIDES}
    for turn in range(options.samples):
        order = list(zip(SIDES, graphs, strict=True))
        for side, graph in order if turn % 2 == 0 else reversed(order):
            times_ms[side].append(elapsed_ms(graph, repeats) / launches.count)
    ratios = [here / there for here, there in zip(*times_ms.values(), strict=True)]
    return {
        "median_ms": {side: statistics.median(times) for side, times in times_ms.items()},
        "ratio": statistics.median(ratios),
        "quartiles": statistics.quantiles(ratios, n=4)[::2],
        "equal": all(torch.equal(here, there) for here, there in zip(*outputs, strict=True)),
        "samples_ms": times_ms,
    }


def _row(cell: dict[str, Any]) -> str:
    here, there = (cell["median_ms"][side] for side in SIDES)
    low, high = cell["quartiles"]
    shape = " x ".join(map(str, cell["shape"]))
    ratio = f"{cell['ratio']:.4f} ({low:.4f} to {high:.4f})"
    return (
        f"{shape:<18} {cell['direction']:<9} {here:>9.5f} {there:>9.5f}  {ratio:<25} "
        f"{'equal to the bit' if cell['equal'] else 'DIFFERENT'}"
    )
