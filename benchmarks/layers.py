"""GPU time of each launch of the plain fused layers, by preset, and of other tiles: run on a GPU.

    python benchmarks/layers.py                           # study, ettm, etth at batch 128, each launch in us
    python benchmarks/layers.py --presets ettm --tune     # the same launches with other tiles

Rows are 7 channels x batch x patches. Each launch is timed in a CUDA graph, several sets of inputs in turns, so that
none is in the cache. A line names the kernels of a launch, cuBLAS' too. What is printed ends as JSON in --out.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from model.presets import PRESETS

CHANNELS = 7


def _calls(preset: str, batch: int, sets: int) -> Iterator[tuple[str, str, list[Callable[[], Any]]]]:
    """(launch, kernel of the table of tiles, one call for each set of inputs) of a layer of that preset."""
    import torch

    from model.fused import launch
    from model.fused.dropout import level
    from model.fused.launch import Drop, Norm

    fields = PRESETS[preset]
    d, f, post = fields["model.d_model"], fields["model.ffn_dim"], not fields["model.pre_norm"]
    patch, context = fields["model.patch_length"], fields["data.context_length"]
    patches = (context - patch) // fields.get("model.patch_stride", patch) + 1
    m, rate = batch * CHANNELS * patches, level(fields["model.dropout"])
    drop = Drop(seed=torch.ones(1, dtype=torch.int64, device="cuda"), levels=(rate, rate)) if rate else Drop()
    one, zero = torch.ones(d, device="cuda"), torch.zeros(d, device="cuda")
    norm = Norm(kind="batch", mean=zero, var=one, gamma=one, beta=zero, eps=1e-5)
    wqkv, wo = torch.randn(3 * d, d, device="cuda"), torch.randn(d, d, device="cuda")
    w1, b1, w2 = torch.randn(f, d, device="cuda"), torch.zeros(f, device="cuda"), torch.randn(d, f, device="cuda")
    rows = [torch.randn(m, d, device="cuda", dtype=torch.bfloat16) for _ in range(sets + 1)]
    wide = [torch.randn(m, 3 * d, device="cuda", dtype=torch.bfloat16) for _ in range(sets)]
    b3, pairs = torch.zeros(3 * d, device="cuda"), list(itertools.pairwise(rows))
    feed = {"activation": "gelu", "post": post}

    def each(function: Callable[..., Any], *inputs: Any) -> list[Callable[[], Any]]:
        return [lambda given=given: function(*given) for given in zip(*inputs, strict=True)]

    first, second = [x for x, _ in pairs], [y for _, y in pairs]
    yield "q/k/v forward", "linear", each(lambda x: launch.linear(x, wqkv, b3, norm, keep=post), first)
    yield (
        "out forward", "linear",
        each(lambda x, y: launch.linear(x, wo, zero, residual=y, drop=drop, statistics=True), first, second),
    )  # fmt: skip
    yield (
        "feed-forward forward", "feed_forward",
        each(lambda x: launch.feed_forward(x, norm, w1, b1, w2, zero, drop, statistics=True, **feed), first),
    )  # fmt: skip
    yield (
        "q/k/v backward", "linear_backward",
        each(lambda g, x, y: launch.linear_backward(g, wqkv, x, norm, y, xn=y if post else None), wide, first, second),
    )  # fmt: skip
    yield (
        "out backward", "linear_backward",
        each(lambda x, y: launch.linear_backward(y, wo, x, drop=drop), first, second),
    )  # fmt: skip
    yield (
        "feed-forward backward", "feed_forward_backward",
        each(
            lambda x, y: launch.feed_forward_backward(y, x, norm, w1, b1, w2, drop, training=True, **feed),
            first, second,
        ),
    )  # fmt: skip


def _tiles(kernel: str, width: int) -> list[Any]:
    """The table's tile first, then others."""
    import torch

    from model.fused.tiles import Tile, tile

    usual = tile(kernel, width, torch.cuda.get_device_capability())
    choices = itertools.product((32, 64, 128), (2, 4, 8), (1, 3))
    others = [Tile(step=step, warps=warps, stages=stages) for step, warps, stages in choices]
    return [usual, *(other for other in others if other != usual)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", default="study,ettm,etth")
    parser.add_argument("--batch", type=int, default=128, help="windows")
    parser.add_argument("--samples", type=int, default=15)
    parser.add_argument("--tune", action="store_true", help="time other tiles, too")
    parser.add_argument("--out", type=Path, default=Path("layers.json"))
    options = parser.parse_args()
    import torch

    from benchmarks.graph_timing import time_in_graph
    from model.fused import launch

    cells: list[dict[str, Any]] = []
    print(f"{torch.cuda.get_device_name()}, batch {options.batch}, {CHANNELS} channels; us a launch, cold L2")
    for preset in options.presets.split(","):
        total = 0.0
        for name, kernel, calls in _calls(preset, options.batch, sets=4):
            usual, *others = _tiles(kernel, PRESETS[preset]["model.d_model"])
            for tile in (usual, *(others if options.tune else ())):
                launch.choose = lambda asked, width, x, tile=tile: tile
                try:
                    timing = time_in_graph(calls, samples=options.samples, kernels=tile == usual)
                except Exception as error:  # a tile that does not fit; the others go on
                    print(f"{preset:8} {name:22} {tile}: {type(error).__name__}: {str(error)[:120]}", flush=True)
                    continue
                us = 1e3 * timing.median_ms
                total += us if tile == usual else 0.0
                parts = ", ".join(f"{part[:40]} {1e3 * ms:.1f}" for part, ms in timing.kernels.items())
                print(f"{preset:8} {name:22} {us:8.1f}  {asdict(tile)}  {parts}", flush=True)
                cells.append({"preset": preset, "launch": name, "tile": asdict(tile), **asdict(timing)})
                options.out.write_text(json.dumps(cells))
        print(f"{preset:8} {'a layer, by sum':22} {total:8.1f}", flush=True)


if __name__ == "__main__":
    main()
