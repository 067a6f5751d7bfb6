"""GPU time of each launch of the fused layers, by preset, layers, heads left and tile: run on a GPU.

    python benchmarks/layers.py                                     # study, ettm, etth at batch 128, each launch in us
    python benchmarks/layers.py --presets study --heads 16,15,12,11,8,4     # as pruned layers have them
    python benchmarks/layers.py --presets ettm --tune               # the same launches with other tiles

Rows are 7 channels x batch x patches. Each launch is timed in a CUDA graph, several sets of inputs in turns, so that
none is in the cache. A line names the kernels of a launch, cuBLAS' too. Lines of Hopper kernels come where these
compute the preset; attention is that of patch. What is printed ends as JSON in --out.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from model.presets import PRESETS

CHANNELS = 7


@dataclass(frozen=True, kw_only=True)
class Case:
    """A layer: its preset, and how many of its heads are left."""

    preset: str
    heads: int
    batch: int  # windows
    sets: int = 4  # of inputs

    @property
    def fields(self) -> dict[str, Any]:
        return PRESETS[self.preset]

    @property
    def head_dim(self) -> int:
        return int(self.fields["model.d_model"] // self.fields["model.num_heads"])

    @property
    def patches(self) -> int:
        patch = self.fields["model.patch_length"]
        return int((self.fields["data.context_length"] - patch) // self.fields.get("model.patch_stride", patch) + 1)

    @property
    def rows(self) -> int:
        return self.batch * CHANNELS * self.patches


# What is timed: (launch, kernel of the table of tiles or "", one call for each set of inputs).
Timed = tuple[str, str, list[Callable[[], Any]]]


def _each(function: Callable[..., Any], *inputs: Any) -> list[Callable[[], Any]]:
    return [lambda given=given: function(*given) for given in zip(*inputs, strict=True)]


def _random(*shape: int, dtype: str = "bfloat16") -> Any:
    import torch

    return torch.randn(shape, device="cuda", dtype=getattr(torch, dtype))


def _dropout(rate: float) -> Any:
    import torch

    from model.fused.dropout import level
    from model.fused.launch import Drop

    seed = torch.ones(1, dtype=torch.int64, device="cuda")
    return Drop(seed=seed, levels=(level(rate), level(rate))) if rate else Drop()


def _plain_calls(case: Case) -> Iterator[Timed]:
    """The launches of a layer by plain Triton kernels."""
    import torch

    from model.fused import launch
    from model.fused.launch import Norm

    fields, m, sets = case.fields, case.rows, range(case.sets)
    d, f, post = fields["model.d_model"], fields["model.ffn_dim"], not fields["model.pre_norm"]
    w, drop = case.heads * case.head_dim, _dropout(fields["model.dropout"])
    one, zero = torch.ones(d, device="cuda"), torch.zeros(d, device="cuda")
    norm = Norm(kind="batch", mean=zero, var=one, gamma=one, beta=zero, eps=1e-5)
    wqkv, b3, wo = _random(3 * w, d, dtype="float32"), torch.zeros(3 * w, device="cuda"), _random(d, w, dtype="float32")
    w1, b1, w2 = _random(f, d, dtype="float32"), torch.zeros(f, device="cuda"), _random(d, f, dtype="float32")
    rows, attended, wide = ([_random(m, width) for _ in sets] for width in (d, w, 3 * w))
    pairs = [*rows[1:], rows[0]]
    feed = {"activation": "gelu", "post": post}
    yield "q/k/v forward", "linear", _each(lambda x: launch.linear(x, wqkv, b3, norm, keep=post), rows)
    yield (
        "out forward", "linear",
        _each(lambda x, y: launch.linear(x, wo, zero, residual=y, drop=drop, statistics=True), attended, rows),
    )  # fmt: skip
    yield (
        "feed-forward forward", "feed_forward",
        _each(lambda x: launch.feed_forward(x, norm, w1, b1, w2, zero, drop, statistics=True, **feed), rows),
    )  # fmt: skip
    yield (
        "q/k/v backward", "linear_backward",
        _each(lambda g, x, y: launch.linear_backward(g, wqkv, x, norm, y, xn=y if post else None), wide, rows, pairs),
    )  # fmt: skip
    yield (
        "out backward", "linear_backward",
        _each(lambda x, y: launch.linear_backward(y, wo, x, drop=drop), attended, rows),
    )  # fmt: skip
    yield (
        "feed-forward backward", "feed_forward_backward",
        _each(
            lambda x, y: launch.feed_forward_backward(y, x, norm, w1, b1, w2, drop, training=True, **feed), rows, pairs
        ),
    )  # fmt: skip
    yield from _attention_calls(case, w)


def _hopper_calls(case: Case) -> Iterator[Timed]:
    """The launches of a layer by Hopper kernels, where they compute it."""
    import torch

    from model.fused.hopper import launch, launch_backward
    from model.fused.launch import Norm

    fields, m, sets = case.fields, case.rows, range(case.sets)
    d, f, post = fields["model.d_model"], fields["model.ffn_dim"], not fields["model.pre_norm"]
    w, drop = case.heads * case.head_dim, _dropout(fields["model.dropout"])
    one, zero = torch.ones(d, device="cuda"), torch.zeros(d, device="cuda")
    norm = Norm(mean=zero, var=one, gamma=one, beta=zero, eps=1e-5)
    attention = [(_random(w, d, dtype="float32"), torch.zeros(w, device="cuda")) for _ in range(3)]
    w1, b1, w2 = _random(f, d, dtype="float32"), torch.zeros(f, device="cuda"), _random(d, f, dtype="float32")
    wo, weights = _random(d, w, dtype="float32"), tuple(weight for weight, _ in attention)
    given = attention, (one, zero), wo, (w1, b1), (one, zero), w2, torch.bfloat16
    packed = launch.pack(*given)
    held, width = (packed.up, packed.up_bias, packed.down), packed.out.shape[1]
    rows, attended, wide = ([_random(m, size) for _ in sets] for size in (d, width, 3 * width))
    pairs = [*rows[1:], rows[0]]
    affine, r_sums, feed = (one, zero) if post else None, zero.repeat(2) if post else None, {"post": post, "drop": drop}
    yield "pack", "", [lambda: launch.pack(*given)] * case.sets
    yield "q/k/v forward", "", _each(lambda x: launch.qkv(x, norm, packed.qkv, packed.qkv_bias, keep=True), rows)
    yield (
        "out forward", "",
        _each(
            lambda x, y: launch.out(x, packed.out, zero, y, statistics=True, affine=affine, drop=drop), attended, rows
        ),
    )  # fmt: skip
    yield (
        "feed-forward forward", "",
        _each(lambda x: launch.feed_forward(x, norm, *held, zero, keep=True, statistics=True, **feed), rows),
    )  # fmt: skip
    yield (
        "q/k/v backward", "",
        _each(
            lambda g, x, y: launch_backward.qkv_backward(
                g, x, y, norm, packed.qkv, weights, training=True, r_sums=r_sums
            ),
            wide, rows, pairs,
        ),
    )  # fmt: skip
    yield (
        "out backward", "",
        _each(
            lambda x, y, z: launch_backward.out_backward(y, x, packed.out, w, xhat=z if post else None, drop=drop),
            attended, rows, pairs,
        ),
    )  # fmt: skip
    yield (
        "feed-forward backward", "",
        _each(
            lambda x, y: launch_backward.feed_forward_backward(y, x, norm, held, w1, training=True, **feed), rows, pairs
        ),
    )  # fmt: skip
    yield from _attention_calls(case, width)


def _attention_calls(case: Case, width: int) -> Iterator[Timed]:
    """Attention on packed q, k and v of that width each, as a layer calls it."""
    from model.attention import patch_op

    e, scale = case.head_dim, case.head_dim**-0.5
    heads = width // e
    shape = case.batch * CHANNELS, case.patches, 3, heads, e
    qkv = [_random(*shape) for _ in range(case.sets)]
    gradients = [_random(*shape[:2], heads, e) for _ in range(case.sets)]
    lse = [patch_op.patch_attention_packed(given, scale)[1] for given in qkv]
    yield "attention forward", "", _each(lambda x: patch_op.patch_attention_packed(x, scale), qkv)
    yield (
        "attention backward", "",
        _each(lambda g, x, s: patch_op.patch_attention_packed_backward(g, x, s, scale), gradients, qkv, lse),
    )  # fmt: skip


def _hopper_computes(preset: str) -> bool:
    import torch

    from model.fused.hopper.reason import hopper_reason

    fields = PRESETS[preset]
    return None is hopper_reason(
        d_model=fields["model.d_model"], ffn_dim=fields["model.ffn_dim"],
        head_dim=fields["model.d_model"] // fields["model.num_heads"], norm_type=fields["model.norm_type"],
        pre_norm=fields["model.pre_norm"], activation="gelu", dropout=fields["model.dropout"], dtype="bf16",
        capability=torch.cuda.get_device_capability(),
    )  # fmt: skip


def _tiles(kernel: str, width: int, tune: bool) -> list[Any]:
    """The table's tile first, then others if they are asked for; None for a kernel that the table does not have."""
    import torch

    from model.fused.tiles import Tile, tile

    if not kernel:
        return [None]
    usual = tile(kernel, width, torch.cuda.get_device_capability())
    choices = itertools.product((32, 64, 128), (2, 4, 8), (1, 3)) if tune else ()
    others = [Tile(step=step, warps=warps, stages=stages) for step, warps, stages in choices]
    return [usual, *(other for other in others if other != usual)]


def _time(case: Case, layers: str, options: argparse.Namespace, keep: Callable[[dict[str, Any]], None]) -> None:
    """Print a line for each launch, and their sum."""
    from benchmarks.graph_timing import time_in_graph
    from model.fused import launch

    calls_of = {"hopper": _hopper_calls, "plain": _plain_calls}[layers]
    head, total, table = f"{case.preset:8} {layers:6} {case.heads:2} heads", 0.0, launch.choose
    for name, kernel, calls in calls_of(case):
        usual, *others = _tiles(kernel, case.fields["model.d_model"], options.tune)
        for tile in (usual, *others):
            launch.choose = table if tile is None else lambda asked, width, x, tile=tile: tile
            try:
                timing = time_in_graph(calls, samples=options.samples, kernels=tile == usual)
            except Exception as error:  # a tile that does not fit; the others go on
                print(f"{head} {name:22} {tile}: {type(error).__name__}: {str(error)[:120]}", flush=True)
                continue
            us = 1e3 * timing.median_ms
            total += us if tile == usual else 0.0
            parts = ", ".join(f"{part[:40]} {1e3 * ms:.1f}" for part, ms in timing.kernels.items())
            as_tile = None if tile is None else asdict(tile)
            print(f"{head} {name:22} {us:8.1f}  {as_tile or ''}  {parts}", flush=True)
            keep(asdict(case) | {"layers": layers, "launch": name, "tile": as_tile} | asdict(timing))
        launch.choose = table
    print(f"{head} {'a layer, by sum':22} {total:8.1f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", default="study,ettm,etth")
    parser.add_argument("--layers", choices=("hopper", "plain"), help="default: both, where Hopper kernels compute it")
    parser.add_argument("--heads", help="comma-separated, as pruning leaves them (default: the preset's)")
    parser.add_argument("--batch", type=int, default=128, help="windows")
    parser.add_argument("--samples", type=int, default=15)
    parser.add_argument("--tune", action="store_true", help="time other tiles of the plain kernels, too")
    parser.add_argument("--out", type=Path, default=Path("layers.json"))
    options = parser.parse_args()
    import torch

    cells: list[dict[str, Any]] = []

    def keep(cell: dict[str, Any]) -> None:
        cells.append(cell)
        options.out.write_text(json.dumps(cells))

    print(f"{torch.cuda.get_device_name()}, batch {options.batch}, {CHANNELS} channels; us a launch, cold L2")
    for preset in options.presets.split(","):
        known = ["plain", "hopper"] if _hopper_computes(preset) else ["plain"]
        for heads in options.heads.split(",") if options.heads else [PRESETS[preset]["model.num_heads"]]:
            case = Case(preset=preset, heads=int(heads), batch=options.batch)
            for layers in [name for name in known if options.layers in (None, name)]:
                _time(case, layers, options, keep)


if __name__ == "__main__":
    main()
