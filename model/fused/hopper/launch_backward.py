"""Launches of the Hopper kernels' backward passes. Shapes and types are those of `model/fused/hopper/launch.py`."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from model.fused.hopper import feed_forward_backward as backward_kernels
from model.fused.hopper import input_gradient, residual_gradient, weight_gradient, weights_kernels
from model.fused.hopper import launch as launches
from model.fused.hopper.launch import LINES, ROWS, TWO_GROUPS, Launch, Pieces, box, divide, padded, processors, seed_of
from model.fused.launch import Drop, Norm, add_up


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
    sums: Tensor  # (1 or 3, programs, 128)


@cache
def share(width: int, tiles: int, programs: int) -> Chunks:
    """Chunks for a gradient of `width` rows, so that the last program ends soonest; at most one for each tile.

    Of a tile's time 0.7 is fixed and the rest in proportion to the columns it reads (docs/measurements.md, 2026-12-01).
    """
    slices, rest = divmod(width, 128)
    if not slices or not rest:
        chunks = min(programs // max(1, slices), tiles)
        return Chunks(slices, chunks, 0) if slices else Chunks(0, 0, chunks)
    of_rest = 0.7 + 0.3 * (128 + rest) / 256

    def last(rest_chunks: int) -> float:
        chunks = (programs - rest_chunks) // slices
        return max(triton.cdiv(tiles, chunks), of_rest * triton.cdiv(tiles, rest_chunks))

    rest_chunks = min(range(1, programs - slices + 1), key=last)
    return Chunks(slices, min((programs - rest_chunks) // slices, tiles), min(rest_chunks, tiles))


def feed_forward_backward(
    dy: Tensor, xhat: Tensor, norm: Norm, packed: tuple[Tensor, Tensor, Tensor], w1: Tensor, *, training: bool,
    post: bool = False, drop: Drop | None = None,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Gradients of x (with the residual's), w1, w2, b1, b2, gamma and beta. packed: up, its bias and down."""
    (m, d), (up, up_bias, down), drop = dy.shape, packed, drop or Drop()
    first = post or max(drop.levels) > 0  # a pass over dy comes before
    grad, sums = _residual_gradient(dy, xhat if post else None, drop) if first else (dy, dy)
    f, tiles = up.shape[0], triton.cdiv(m, ROWS)
    shared = share(f, tiles, processors(dy.device))
    dh = dy.new_empty((tiles * f, ROWS))
    parts = _empty_parts(dy, 2, shared, d)
    launches.run(
        Launch(
            kernel=backward_kernels.hopper_feed_forward_backward,
            grid=(shared.programs,),
            arguments={
                "xhat": box(xhat, ROWS, d), "dy": box(grad, ROWS, d), "w1": box(up, 64, d), "w2": box(down, d, 64),
                "dh": box(dh, 64, ROWS), "b1": up_bias, "seed": seed_of(drop, up_bias), "parts1": parts.products[0],
                "parts2": parts.products[1], "partsb": parts.sums, "site": drop.site, "tiles": tiles,
                "chunks": shared.chunks,
            },
            constants={"D": d, "F": f, "BUFFERS": 4, "INSIDE": drop.levels[0]},
            options=TWO_GROUPS,
        )
    )  # fmt: skip
    dw2 = w1.new_empty((d, f))
    lines = 16 if f == 512 else 8 if f > 128 else 4  # programs enough for all multiprocessors
    dw1, db1, terms = _reduce(parts, shared, (f, d), lines=lines, at_once=8, weights=(w1,), norm=norm, turned=dw2)
    dx, dgamma, dbeta, db2 = _input_gradient(
        dh, up, xhat, dy, norm, terms, training=training, r_sums=sums[d:] if post else None, tiled=True, sums=not first
    )
    return dx, dw1, dw2, db1, sums[:d] if first else db2, dgamma, dbeta


def qkv_backward(
    dy: Tensor, xhat: Tensor, residual: Tensor | None, norm: Norm, packed: Tensor, weights: tuple[Tensor, ...], *,
    training: bool, r_sums: Tensor | None = None,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Gradients of x (with the residual's), the weight (O, D), the bias (O,), gamma and beta. weights: q, k and v.

    r_sums: given if the residual is norm(x), not x: sums of its gradient and of that times xhat (2 D,).
    Rows that the padding adds to the gradients are zeros.
    """
    (m, o), d = dy.shape, xhat.shape[1]
    shared = share(o, triton.cdiv(m, ROWS), processors(dy.device))
    parts = _weight_gradient(dy, xhat, shared, None, buffers=6)[0]
    lines = LINES if o > 192 else LINES // 2  # few rows for as many programs: 1.4 us less with 8 heads, 2.2 with 4
    dw, dbias, terms = _reduce(parts, shared, (o, d), lines=lines, at_once=16, weights=weights, norm=norm)
    dx, dgamma, dbeta, _ = _input_gradient(dy, packed, xhat, residual, norm, terms, training=training, r_sums=r_sums)
    return dx, dw, dbias, dgamma, dbeta


def out_backward(
    dy: Tensor, x: Tensor, packed: Tensor, width: int, *, xhat: Tensor | None = None, drop: Drop | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x (M, P) and the weight (D, W), and that of the bias (D,). width: W.

    xhat: given if the residual is a norm of it; then the last is longer by the sums over rows of dy and dy xhat (3 D,).
    """
    m, d = dy.shape
    shared = share(d, triton.cdiv(m, ROWS), processors(dy.device))
    buffers = 5 if xhat is None else 3
    parts, dx = _weight_gradient(dy, x, shared, packed, buffers=buffers, xhat=xhat, drop=drop)
    dw, sums, _ = _reduce(parts, shared, (d, width), lines=4, at_once=32)
    return dx, dw, sums


def _residual_gradient(dy: Tensor, xhat: Tensor | None, drop: Drop) -> tuple[Tensor, Tensor]:
    """What stands for dy (M, D) in the feed-forward's backward kernel, and sums over rows (D, or 3 D with xhat).

    It is dy after the path's dropout over the share that stays inside. The sums are those of it without that division,
    of dy and of dy xhat; xhat is given if the residual is a norm of it.
    """
    (m, d), (inside, path) = dy.shape, drop.levels
    tiles = triton.cdiv(m, ROWS)
    programs = min(2 * processors(dy.device), tiles)  # two fit into a multiprocessor's shared memory
    write, post = inside + path > 0, xhat is not None
    out = torch.empty_like(dy) if write else dy
    partial = dy.new_empty((programs, 3 * d if post else d), dtype=torch.float32)
    launches.run(
        Launch(
            kernel=residual_gradient.hopper_residual_gradient,
            grid=(programs,),
            arguments={
                "dy": box(dy, ROWS, 64), "xhat": box(dy if xhat is None else xhat, ROWS, 64),
                "out": box(out, ROWS, 64), "seed": seed_of(drop, partial), "partial": partial,
                "site": drop.site + 1, "tiles": tiles,
            },
            constants={
                "D": d, "LEVEL": path, "SCALE": 65536 / (65536 - inside), "WRITE": write, "POST": post,
            },
            options={"num_warps": 4},
        )
    )  # fmt: skip
    return out, add_up(partial)


def _empty_parts(like: Tensor, products: int, shared: Chunks, inner: int, sums: int = 1) -> Parts:
    return Parts(
        like.new_empty((products, shared.programs, 128, inner), dtype=torch.float32),
        like.new_empty((sums, shared.programs, 128), dtype=torch.float32),
    )


def _weight_gradient(
    dy: Tensor, x: Tensor, shared: Chunks, weight: Tensor | None, *, buffers: int, xhat: Tensor | None = None,
    drop: Drop | None = None,
) -> tuple[Parts, Tensor]:  # fmt: skip
    """Parts of dropout(dy)^T x and, given the weight, dx = dropout(dy) weight. xhat: as for `out_backward`."""
    inner, drop, post = padded(x.shape[1]), drop or Drop(), xhat is not None
    parts = _empty_parts(dy, 1, shared, inner, 3 if post else 1)
    dx = torch.empty_like(x) if weight is not None else x
    launches.run(
        Launch(
            kernel=weight_gradient.hopper_weight_gradient,
            grid=(shared.programs,),
            arguments={
                "dy": box(dy, ROWS, 64), "x": box(x, ROWS, inner),
                "w": box(weight if weight is not None else x, 64, inner // 2), "dx": box(dx, ROWS, inner // 2),
                "xhat": box(xhat if xhat is not None else dy, ROWS, 64), "seed": seed_of(drop, parts.sums),
                "parts": parts.products, "partsb": parts.sums, "site": drop.site, "tiles": triton.cdiv(len(dy), ROWS),
                "chunks": shared.chunks, "rest_chunks": shared.rest_chunks,
            },
            constants={
                "SLICES": shared.slices, "INNER": inner, "BUFFERS": buffers, "DX": weight is not None,
                "POST": post, "LEVEL": drop.levels[0],
            },
            options=TWO_GROUPS,
        )
    )  # fmt: skip
    return parts, dx


def _reduce(
    parts: Parts, shared: Chunks, shape: tuple[int, int], *, lines: int, at_once: int,
    weights: tuple[Tensor, ...] = (), norm: Norm | None = None, turned: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The gradient of `shape` (rows, I), sums (1 or 3 rows,) and, with a norm, the terms of its own (blocks, 2, I)."""
    rows, i = shape
    dw, dbias = parts.sums.new_empty(shape), parts.sums.new_empty(len(parts.sums) * rows)
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
                "REST_CHUNKS": shared.rest_chunks, "ROWS": rows, "WEIGHT_ROWS": len(weights[0]) if weights else rows,
                "STRIDE": rows // max(1, len(weights)), "IN": i, "INNER": parts.products.shape[3], "LINES": lines,
                "COLUMNS": 32, "AT_ONCE": at_once,
                "NORM": norm is not None, "BIASES": len(parts.sums),
            },
            options={"num_warps": 8},
        )
    )  # fmt: skip
    return dw, dbias, terms


def _input_gradient(
    a: Tensor, packed: Tensor, xhat: Tensor, residual: Tensor | None, norm: Norm, terms: Tensor, *, training: bool,
    r_sums: Tensor | None = None, tiled: bool = False, sums: bool = False,
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
                "var": norm.var, "gamma": norm.gamma, "sums": terms,
                "r_sums": terms if r_sums is None else r_sums, "dgamma": dgamma, "dbeta": dbeta,
                "row_sums": row_sums, "eps": norm.eps, "M": m, "tiles": tiles,
            },
            constants={
                "D": d, "PIECES": pieces.whole, "REST": pieces.rest, "BUFFERS": buffers,
                "TILED": tiled, "TRAINING": training, "RESIDUAL": residual is not None,
                "POST": r_sums is not None, "SUMS": sums,
                "PARTS": len(terms), "PADDED": triton.next_power_of_2(len(terms)),
            },
            options=TWO_GROUPS,
        )
    )  # fmt: skip
    return dx, dgamma, dbeta, add_up(row_sums) if sums else row_sums
