"""Launches of the Hopper kernels' backward passes. Shapes and types are those of `model/fused/hopper/launch.py`."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
from torch import Tensor

from model.fused.hopper import feed_forward_backward as backward_kernels
from model.fused.hopper import input_gradient, weight_gradient, weights_kernels
from model.fused.hopper import launch as launches
from model.fused.hopper.launch import LINES, ROWS, TWO_GROUPS, Launch, Pieces, box, divide, padded, processors
from model.fused.launch import Norm, add_up


class Chunks(NamedTuple):
    """How programs share a weight's gradient: `slices` of 128 of its rows by `chunks` of the tiles, then the rest's."""

    slices: int
    chunks: int
    rest_chunks: int

    @property
    def programs(self) -> int:
        return self.slices * self.chunks + self.rest_chunks


class Parts(NamedTuple):
    """What each program leaves to be added up."""

    products: Tensor  # (1 or 2, programs, 128, I padded)
    sums: Tensor  # (programs, 128)


def share(width: int, tiles: int, programs: int) -> Chunks:
    """Chunks for a gradient of `width` rows, in proportion to what a tile reads; at most one for each tile."""
    slices, rest = divmod(width, 128)
    rest_chunks = 0
    if rest:
        rest_chunks = max(1, round(programs * (128 + rest) / (256 * slices + 128 + rest)))
    chunks = (programs - rest_chunks) // slices if slices else 0
    return Chunks(slices, min(chunks, tiles), min(rest_chunks, tiles))


def feed_forward_backward(
    dy: Tensor, xhat: Tensor, norm: Norm, packed: tuple[Tensor, Tensor, Tensor], w1: Tensor, *, training: bool
) -> tuple[Tensor, ...]:
    """Gradients of x (with the residual's), w1, w2, b1, b2, gamma and beta. packed: up, its bias and down."""
    (m, d), (up, up_bias, down) = dy.shape, packed
    f, tiles = up.shape[0], triton.cdiv(m, ROWS)
    shared = share(f, tiles, processors(dy.device))
    dh = dy.new_empty((tiles * f, ROWS))
    parts = _empty_parts(dy, 2, shared, d)
    launches.run(
        Launch(
            kernel=backward_kernels.hopper_feed_forward_backward,
            grid=(shared.programs,),
            arguments={
                "xhat": box(xhat, ROWS, d), "dy": box(dy, ROWS, d), "w1": box(up, 64, d), "w2": box(down, d, 64),
                "dh": box(dh, 64, ROWS), "b1": up_bias, "parts1": parts.products[0], "parts2": parts.products[1],
                "partsb": parts.sums, "tiles": tiles, "chunks": shared.chunks,
            },
            constants={"D": d, "F": f, "BUFFERS": 4},
            options=TWO_GROUPS,
        )
    )  # fmt: skip
    dw2 = w1.new_empty((d, f))
    dw1, db1, terms = _reduce(parts, shared, (f, d), lines=16, at_once=8, weights=(w1,), norm=norm, turned=dw2)
    dx, dgamma, dbeta, db2 = _input_gradient(dh, up, xhat, dy, norm, terms, training=training, tiled=True, sums=True)
    return dx, dw1, dw2, db1, db2, dgamma, dbeta


def qkv_backward(
    dy: Tensor, xhat: Tensor, residual: Tensor | None, norm: Norm, packed: Tensor, weights: tuple[Tensor, ...], *,
    training: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Gradients of x (with the residual's), the weight (O, D), the bias (O,), gamma and beta. weights: q, k and v."""
    (m, o), d = dy.shape, xhat.shape[1]
    shared = share(o, triton.cdiv(m, ROWS), processors(dy.device))
    parts = _weight_gradient(dy, xhat, shared, None, buffers=6)[0]
    dw, dbias, terms = _reduce(parts, shared, (o, d), lines=LINES, at_once=16, weights=weights, norm=norm)
    dx, dgamma, dbeta, _ = _input_gradient(dy, packed, xhat, residual, norm, terms, training=training)
    return dx, dw, dbias, dgamma, dbeta


def out_backward(dy: Tensor, x: Tensor, packed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x (M, W), the weight (D, W) and the bias (D,)."""
    (m, d), w = dy.shape, x.shape[1]
    shared = share(d, triton.cdiv(m, ROWS), processors(dy.device))
    parts, dx = _weight_gradient(dy, x, shared, packed, buffers=5)
    dw, dbias, _ = _reduce(parts, shared, (d, w), lines=4, at_once=32)
    return dx, dw, dbias


def _empty_parts(like: Tensor, products: int, shared: Chunks, inner: int) -> Parts:
    return Parts(
        like.new_empty((products, shared.programs, 128, inner), dtype=torch.float32),
        like.new_empty((shared.programs, 128), dtype=torch.float32),
    )


def _weight_gradient(
    dy: Tensor, x: Tensor, shared: Chunks, weight: Tensor | None, *, buffers: int
) -> tuple[Parts, Tensor]:
    """Parts of dy^T x and, given the weight, dx = dy weight."""
    inner = padded(x.shape[1])
    parts = _empty_parts(dy, 1, shared, inner)
    dx = torch.empty_like(x) if weight is not None else x
    launches.run(
        Launch(
            kernel=weight_gradient.hopper_weight_gradient,
            grid=(shared.programs,),
            arguments={
                "dy": box(dy, ROWS, 64), "x": box(x, ROWS, inner),
                "w": box(weight if weight is not None else x, 64, inner // 2), "dx": box(dx, ROWS, inner // 2),
                "parts": parts.products, "partsb": parts.sums, "tiles": triton.cdiv(len(dy), ROWS),
                "chunks": shared.chunks, "rest_chunks": shared.rest_chunks,
            },
            constants={"SLICES": shared.slices, "INNER": inner, "BUFFERS": buffers, "DX": weight is not None},
            options=TWO_GROUPS,
        )
    )  # fmt: skip
    return parts, dx


def _reduce(
    parts: Parts, shared: Chunks, shape: tuple[int, int], *, lines: int, at_once: int,
    weights: tuple[Tensor, ...] = (), norm: Norm | None = None, turned: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The gradient of `shape` (rows, I), the bias' (rows,) and, with a norm, the terms of its sums (blocks, 2, I)."""
    rows, i = shape
    dw, dbias = parts.sums.new_empty(shape), parts.sums.new_empty(rows)
    terms = parts.sums.new_empty((rows // lines if norm is not None else 0, 2, i))
    w = (*weights, *[parts.sums] * 3)[:3]  # what stands for a weight that there is not is never read
    launches.run(
        Launch(
            kernel=weights_kernels.fused_reduce_weight_gradients,
            grid=(rows // lines, triton.cdiv(i, 32), len(parts.products)),
            arguments={
                "parts": parts.products, "partsb": parts.sums, "dw": dw,
                "dw_turned": turned if turned is not None else dw, "dbias": dbias, "w0": w[0], "w1": w[1], "w2": w[2],
                "gamma": norm.gamma if norm is not None else dbias, "beta": norm.beta if norm is not None else dbias,
                "sums": terms,
            },
            constants={
                "PROGRAMS": shared.programs, "SLICES": shared.slices, "CHUNKS": shared.chunks,
                "REST_CHUNKS": shared.rest_chunks, "ROWS": rows, "WEIGHT_ROWS": rows // max(1, len(weights)), "IN": i,
                "INNER": parts.products.shape[3], "LINES": lines, "COLUMNS": 32, "AT_ONCE": at_once,
                "NORM": norm is not None,
            },
            options={"num_warps": 8},
        )
    )  # fmt: skip
    return dw, dbias, terms


def _input_gradient(
    a: Tensor, packed: Tensor, xhat: Tensor, residual: Tensor | None, norm: Norm, terms: Tensor, *, training: bool,
    tiled: bool = False, sums: bool = False,
) -> tuple[Tensor, ...]:  # fmt: skip
    """dx, dgamma, dbeta and, with `sums`, those of the residual's gradient over all rows (else empty)."""
    (m, d), k = xhat.shape, packed.shape[0]
    tiles = triton.cdiv(m, ROWS)
    programs = min(processors(xhat.device), tiles)
    pieces = Pieces(k // 128, 0) if tiled else divide(k)
    dx = torch.empty_like(xhat)
    dgamma, dbeta = terms.new_empty(d), terms.new_empty(d)
    row_sums = terms.new_empty((programs if sums else 0, d))
    rest = pieces.rest or 64
    buffers = 1 if pieces.whole == 4 else 2  # shared memory holds four pieces and one xhat and r
    launches.run(
        Launch(
            kernel=input_gradient.hopper_input_gradient,
            grid=(programs,),
            arguments={
                "a": box(a, 128, ROWS) if tiled else box(a, ROWS, 128),
                "a_rest": box(a, ROWS, 64 if tiled else rest),
                "w_piece": box(packed, 128, 64), "w_rest": box(packed, rest, 64), "xhat": box(xhat, ROWS, 64),
                "r": box(residual if residual is not None else xhat, ROWS, 64), "dx": box(dx, ROWS, 64),
                "var": norm.var, "gamma": norm.gamma, "sums": terms, "dgamma": dgamma, "dbeta": dbeta,
                "row_sums": row_sums, "eps": norm.eps, "M": m, "tiles": tiles,
            },
            constants={
                "D": d, "PIECES": pieces.whole, "REST": pieces.rest, "BUFFERS": buffers,
                "TILED": tiled, "TRAINING": training, "RESIDUAL": residual is not None, "SUMS": sums,
                "PARTS": len(terms), "PADDED": triton.next_power_of_2(len(terms)),
            },
            options=TWO_GROUPS,
        )
    )  # fmt: skip
    return dx, dgamma, dbeta, add_up(row_sums) if sums else row_sums
