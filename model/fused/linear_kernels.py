"""Linear layers of narrow models, fused with the batch norm before and the bias, residual and statistics after them.

Tensors: x M x IN, y M x OUT, weight OUT x IN, all contiguous. M is the number of rows (batch x channels x patches).
IN and OUT are at most a few hundred, so one program multiplies its rows by all of the weight.
"""

from __future__ import annotations

import triton
import triton.language as tl

from model.fused.norm_kernels import normalised, store_norm_sums, store_statistics


@triton.jit
def load_normalised(
    x: tl.tensor,
    row: tl.tensor,
    column: tl.tensor,
    mean: tl.tensor,
    var: tl.tensor,
    gamma: tl.tensor,
    beta: tl.tensor,
    eps: tl.tensor,
    M: tl.tensor,
    IN: tl.constexpr,
    NORM: tl.constexpr,
) -> tl.tensor:
    """A tile of x, as it is or after batch norm, in the type of x; zero outside."""
    inside = column < IN
    there = (row < M)[:, None] & inside[None, :]
    tile = tl.load(x + row.to(tl.int64)[:, None] * IN + column[None, :], mask=there, other=0.0)
    if NORM:
        xhat, _ = normalised(tile.to(tl.float32), column, inside, mean, var, eps)
        scale = tl.load(gamma + column, mask=inside, other=0.0)
        shift = tl.load(beta + column, mask=inside, other=0.0)
        tile = tl.where(there, xhat * scale[None, :] + shift[None, :], 0.0).to(x.dtype.element_ty)
    return tile


@triton.jit
def fused_linear_forward(
    x: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    mean: tl.tensor,
    var: tl.tensor,
    gamma: tl.tensor,
    beta: tl.tensor,
    residual: tl.tensor,
    y: tl.tensor,
    partial: tl.tensor,
    eps: tl.tensor,
    M: tl.tensor,
    IN: tl.constexpr,
    OUT: tl.constexpr,
    ROWS: tl.constexpr,
    INNER: tl.constexpr,
    COLUMNS: tl.constexpr,
    NORM: tl.constexpr,
    RESIDUAL: tl.constexpr,
    PRECISION: tl.constexpr,
) -> None:
    """y = norm(x) weight^T + bias (+ residual, and y's statistics by blocks).

    Grid: ceil(M / ROWS), ceil(OUT / COLUMNS). RESIDUAL asks for COLUMNS >= OUT.
    """
    start = tl.program_id(0) * ROWS
    row = start + tl.arange(0, ROWS)
    out = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    acc = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for first in range(0, IN, INNER):
        inner = first + tl.arange(0, INNER)
        tile = load_normalised(x, row, inner, mean, var, gamma, beta, eps, M, IN, NORM)
        known = (inner < IN)[:, None] & (out < OUT)[None, :]
        factor = tl.load(weight + out[None, :] * IN + inner[:, None], mask=known, other=0.0)
        acc = tl.dot(tile, factor, acc=acc, input_precision=PRECISION)
    acc += tl.load(bias + out, mask=out < OUT, other=0.0).to(tl.float32)[None, :]
    there = (row < M)[:, None] & (out < OUT)[None, :]
    at = row.to(tl.int64)[:, None] * OUT + out[None, :]
    if RESIDUAL:
        acc += tl.load(residual + at, mask=there, other=0.0).to(tl.float32)
    rounded = acc.to(y.dtype.element_ty)
    tl.store(y + at, rounded, mask=there)
    if RESIDUAL:
        store_statistics(partial, rounded.to(tl.float32), there, start, M, OUT, ROWS, COLUMNS)


@triton.jit
def fused_linear_backward(
    dy: tl.tensor,
    weight: tl.tensor,
    x: tl.tensor,
    mean: tl.tensor,
    var: tl.tensor,
    gamma: tl.tensor,
    beta: tl.tensor,
    dx: tl.tensor,
    xn_out: tl.tensor,
    partial: tl.tensor,
    eps: tl.tensor,
    M: tl.tensor,
    IN: tl.constexpr,
    OUT: tl.constexpr,
    ROWS: tl.constexpr,
    INNER: tl.constexpr,
    COLUMNS: tl.constexpr,
    NORM: tl.constexpr,
    PRECISION: tl.constexpr,
) -> None:
    """dx = dy weight, before the norm's own backward pass, and sums over the block's rows. Grid: ceil(M / ROWS).

    partial (blocks, 2 IN + OUT) with NORM: of dx and of dx xhat, for the norm; of dy, the gradient of the bias; then
    the norm's output is left in xn_out for the gradient of the weight. Else (blocks, OUT), of dy. COLUMNS >= IN.
    """
    block = tl.program_id(0)
    row = block * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    inside = column < IN
    base = partial + block * ((2 * IN + OUT) if NORM else OUT)
    acc = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for first in range(0, OUT, INNER):
        inner = first + tl.arange(0, INNER)
        known = (row < M)[:, None] & (inner < OUT)[None, :]
        tile = tl.load(dy + row.to(tl.int64)[:, None] * OUT + inner[None, :], mask=known, other=0.0)
        factor = tl.load(
            weight + inner[:, None] * IN + column[None, :], mask=(inner < OUT)[:, None] & inside[None, :], other=0.0
        )
        acc = tl.dot(tile, factor, acc=acc, input_precision=PRECISION)
        tl.store(base + (2 * IN if NORM else 0) + inner, tl.sum(tile.to(tl.float32), 0), mask=inner < OUT)
    there = (row < M)[:, None] & inside[None, :]
    at = row.to(tl.int64)[:, None] * IN + column[None, :]
    tl.store(dx + at, acc.to(dx.dtype.element_ty), mask=there)
    if NORM:
        store_norm_sums(base, acc, x, at, there, column, inside, mean, var, eps, IN)
        tl.store(xn_out + at, load_normalised(x, row, column, mean, var, gamma, beta, eps, M, IN, True), mask=there)
