"""Launches of the Hopper kernels: tiles, grids, TMA descriptors and scratch memory. Importing this imports triton.

Shapes: M rows, D = 128 model width, W width of all heads, P the same padded, O = 3 P, F FFN width. Activations and
packed weights are bf16; statistics, sums over rows and gradients of weights are fp32. TMA descriptors are kernel
parameters, so a captured launch keeps its own.

P is W rounded up to 16 columns, which are 32 bytes, what memory moves at once: an odd number of heads 8 wide gets a
head of zeros. Without it every second row of q, k and v would begin in the middle of 32 bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from triton.experimental.gluon.language import NVMMASharedLayout
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from model.fused.hopper import feed_forward as feed_forward_kernels
from model.fused.hopper import projections, weights_kernels
from model.fused.launch import SECTOR, Drop, Norm, empty_statistics

ROWS = 64  # of a tile
LINES = 8  # rows of a weight that one program packs or reduces; divides every width
# Registers of a thread when the kernel starts; its warpgroups then take from each other what `warp_specialize` says.
TWO_GROUPS = {"num_warps": 4, "maxnreg": 168}
THREE_GROUPS = {"num_warps": 4, "maxnreg": 128}


@dataclass(frozen=True, kw_only=True)
class Launch:
    """One launch: what a kernel is called with, by name."""

    kernel: Any
    grid: tuple[int, ...]
    arguments: dict[str, Any]
    constants: dict[str, Any]
    options: dict[str, int]


class Packed(NamedTuple):
    """A layer's weights in bf16 and biases in fp32; qkv and up hold their norm's gamma, their biases hold its beta."""

    qkv: Tensor  # (O, D)
    qkv_bias: Tensor  # (O,)
    out: Tensor  # (D, P)
    up: Tensor  # (F, D)
    up_bias: Tensor  # (F,)
    down: Tensor  # (D, F)


class Pieces(NamedTuple):
    """How a width that is a multiple of 8 is divided: pieces of 128, then one of `rest` columns (0: none)."""

    whole: int
    rest: int


def run(launch: Launch) -> None:
    """Launch it on the current stream."""
    launch.kernel[launch.grid](**launch.arguments, **launch.constants, **launch.options)


@cache
def processors(device: torch.device) -> int:
    """Multiprocessors of a GPU: persistent kernels have so many programs."""
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def divide(width: int) -> Pieces:
    """A last piece over 64 wide counts as whole: its tiles are the same, and TMA skips what is not there."""
    whole, left = divmod(width, 128)
    if left > 64:
        return Pieces(whole + 1, 0)
    return Pieces(whole, max(16, triton.next_power_of_2(left)) if left else 0)


def box(tensor: Tensor, rows: int, columns: int) -> TensorDescriptor:
    """A TMA descriptor that moves tiles of that shape."""
    return TensorDescriptor.from_tensor(tensor, [rows, columns], NVMMASharedLayout(min(128, 2 * columns), 16, 2))


def empty_packed(wo: Tensor, w1: Tensor, dtype: torch.dtype) -> Packed:
    """Room for a layer's packed weights."""
    (d, w), f = wo.shape, w1.shape[0]
    p = -(-w // SECTOR) * SECTOR
    return Packed(
        qkv=wo.new_empty((3 * p, d), dtype=dtype),
        qkv_bias=wo.new_empty(3 * p),
        out=wo.new_empty((d, p), dtype=dtype),
        up=wo.new_empty((f, d), dtype=dtype),
        up_bias=wo.new_empty(f),
        down=wo.new_empty((d, f), dtype=dtype),
    )


def pack(
    projections_: list[tuple[Tensor, Tensor]], norm1: tuple[Tensor, Tensor], wo: Tensor, up: tuple[Tensor, Tensor],
    norm2: tuple[Tensor, Tensor], w2: Tensor, dtype: torch.dtype,
) -> Packed:  # fmt: skip
    """A layer's weights for the kernels, in one launch. Pairs are weight and bias; norms are gamma and beta."""
    (d, w), f = wo.shape, up[0].shape[0]
    packed = empty_packed(wo, up[0], dtype)
    p = packed.out.shape[1]
    names = ("wq", "bq", "wk", "bk", "wv", "bv")
    given = dict(zip(names, (tensor for pair in projections_ for tensor in pair), strict=True))
    run(
        Launch(
            kernel=weights_kernels.fused_pack_weights,
            grid=((3 * p + f + 2 * d) // LINES,),
            arguments=given
            | {"gamma1": norm1[0], "beta1": norm1[1], "wo": wo, "w1": up[0], "b1": up[1]}
            | {"gamma2": norm2[0], "beta2": norm2[1], "w2": w2, "qkv": packed.qkv, "qkv_bias": packed.qkv_bias}
            | {"out": packed.out, "up": packed.up, "up_bias": packed.up_bias, "down": packed.down},
            constants={"D": d, "W": w, "P": p, "F": f, "LINES": LINES, "COLUMNS": 128},
            options={"num_warps": 4},
        )
    )
    return packed


def qkv(x: Tensor, norm: Norm, weight: Tensor, bias: Tensor, *, keep: bool) -> tuple[Tensor, Tensor]:
    """norm(x) weight^T + bias (M, O) from packed weights, and the normalised x (M, D), empty unless kept."""
    (m, d), o = x.shape, weight.shape[0]
    y, xhat = x.new_empty((m, o)), x.new_empty((m if keep else 0, d))
    tiles, pieces = triton.cdiv(m, ROWS), divide(o)
    rest = pieces.rest or 64
    run(
        Launch(
            kernel=projections.hopper_qkv,
            grid=(min(processors(x.device), tiles),),
            arguments={
                "x": box(x, ROWS, d), "w": box(weight, 128, d), "w_rest": box(weight, rest, d),
                "y": box(y, ROWS, 128), "y_rest": box(y, ROWS, rest), "xhat": box(xhat if keep else x, ROWS, d),
                "bias": bias, "mean": norm.mean, "var": norm.var, "eps": norm.eps, "tiles": tiles,
            },
            constants={
                "D": d, "OUT": o, "PIECES": pieces.whole, "REST": pieces.rest, "SLOTS": 4, "KEEP": keep,
            },
            options=TWO_GROUPS,
        )
    )  # fmt: skip
    return y, xhat


def out(
    x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor, *, statistics: bool,
    affine: tuple[Tensor, Tensor] | None = None, drop: Drop | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """dropout(x (M, P) weight^T + bias) + residual (M, D), and its statistics by blocks (empty unless asked for).

    affine: a norm's gamma and beta, which are applied to the residual.
    """
    (m, w), d, drop = x.shape, residual.shape[1], drop or Drop()
    gamma, beta = affine or (bias, bias)
    y = torch.empty_like(residual)
    partial = empty_statistics(residual, d, statistics)
    tiles, inner = triton.cdiv(m, ROWS), padded(w)
    run(
        Launch(
            kernel=projections.hopper_out,
            grid=(min(processors(x.device), tiles),),
            arguments={
                "x": box(x, ROWS, inner), "r": box(residual, ROWS, d), "w": box(weight, d, inner), "y": box(y, ROWS, d),
                "bias": bias, "gamma": gamma, "beta": beta, "seed": seed_of(drop, bias), "partial": partial,
                "site": drop.site, "M": m, "tiles": tiles,
            },
            constants={
                "D": d, "INNER": inner, "SLOTS": 4, "POST": affine is not None, "LEVEL": drop.levels[0],
                "STATISTICS": statistics,
            },
            options=TWO_GROUPS,
        )
    )  # fmt: skip
    return y, partial


def feed_forward(
    x: Tensor, norm: Norm, up: Tensor, up_bias: Tensor, down: Tensor, b2: Tensor, *, keep: bool, statistics: bool,
    post: bool = False, drop: Drop | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """residual + dropout(down dropout(gelu(up norm(x) + up_bias)) + b2), its statistics by blocks, and x normalised.

    Weights are packed. The residual is x, or norm(x) if `post`.
    """
    (m, d), f, drop = x.shape, up.shape[0], drop or Drop()
    y, xhat = torch.empty_like(x), x.new_empty((m if keep else 0, d))
    partial = empty_statistics(x, d, statistics)
    tiles = triton.cdiv(m, ROWS)
    run(
        Launch(
            kernel=feed_forward_kernels.hopper_feed_forward,
            grid=(min(processors(x.device), tiles),),
            arguments={
                "x_rows": box(x, ROWS, d), "w1": box(up, 64, d), "w2": box(down, d, 64), "y": box(y, ROWS, d),
                "xhat": box(xhat if keep else x, ROWS, d), "x": x, "b1": up_bias, "b2": b2, "mean": norm.mean,
                "var": norm.var, "gamma": norm.gamma, "beta": norm.beta, "seed": seed_of(drop, b2), "partial": partial,
                "eps": norm.eps, "site": drop.site, "M": m, "tiles": tiles,
            },
            constants={
                "D": d, "F": f, "SLICE": 64, "BUFFERS": 4, "POST": post, "INSIDE": drop.levels[0],
                "PATH": drop.levels[1], "KEEP": keep, "STATISTICS": statistics,
            },
            options=THREE_GROUPS,
        )
    )  # fmt: skip
    return y, partial, xhat


def seed_of(drop: Drop, unread: Tensor) -> Tensor:
    """The seed, or a tensor that a kernel without dropout does not read."""
    return unread if drop.seed is None else drop.seed


def padded(width: int) -> int:
    """The power of two that a projection's input is padded to."""
    return 64 if width <= 64 else 128
