"""Linear layers of narrow models with what surrounds them: batch norm before, bias, residual and statistics after.

Tensors: x M x I, y M x O, weight O x I, all contiguous. M is the number of rows (batch x channels x patches), I and O
are at most a few hundred, so a tile of rows meets the whole weight and nothing between two layers goes to memory twice.
"""

from __future__ import annotations

import triton
import triton.language as tl

from model.fused.norm_kernels import normalised, store_statistics


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
    I: tl.constexpr,
    NORM: tl.constexpr,
) -> tl.tensor:
    """A tile of x, as it is or after batch norm, in the type of x; zero outside."""
    inside = column < I
    there = (row < M)[:, None] & inside[None, :]
    tile = tl.load(x + row.to(tl.int64)[:, None] * I + column[None, :], mask=there, other=0.0)
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
    I: tl.constexpr,
    O: tl.constexpr,
    ROWS: tl.constexpr,
    INNER: tl.constexpr,
    COLUMNS: tl.constexpr,
    NORM: tl.constexpr,
    RESIDUAL: tl.constexpr,
    PRECISION: tl.constexpr,
) -> None:
    """y = norm(x) weight^T + bias (+ residual, and y's statistics by blocks). Grid: ceil(M / ROWS), ceil(O / COLUMNS).

    RESIDUAL asks for COLUMNS >= O.
    """
    start = tl.program_id(0) * ROWS
    row = start + tl.arange(0, ROWS)
    out = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    acc = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for first in range(0, I, INNER):
        inner = first + tl.arange(0, INNER)
        tile = load_normalised(x, row, inner, mean, var, gamma, beta, eps, M, I, NORM)
        known = (inner < I)[:, None] & (out < O)[None, :]
        factor = tl.load(weight + out[None, :] * I + inner[:, None], mask=known, other=0.0)
        acc = tl.dot(tile, factor, acc=acc, input_precision=PRECISION)
    acc += tl.load(bias + out, mask=out < O, other=0.0).to(tl.float32)[None, :]
    there = (row < M)[:, None] & (out < O)[None, :]
    at = row.to(tl.int64)[:, None] * O + out[None, :]
    if RESIDUAL:
        acc += tl.load(residual + at, mask=there, other=0.0).to(tl.float32)
    rounded = acc.to(y.dtype.element_ty)
    tl.store(y + at, rounded, mask=there)
    if RESIDUAL:
        store_statistics(partial, rounded.to(tl.float32), there, start, M, O, ROWS, COLUMNS)


@triton.jit
def fused_linear_backward_input(
    dy: tl.tensor,
    weight: tl.tensor,
    x: tl.tensor,
    mean: tl.tensor,
    var: tl.tensor,
    dx: tl.tensor,
    partial: tl.tensor,
    eps: tl.tensor,
    M: tl.tensor,
    I: tl.constexpr,
    O: tl.constexpr,
    ROWS: tl.constexpr,
    INNER: tl.constexpr,
    COLUMNS: tl.constexpr,
    NORM: tl.constexpr,
    PRECISION: tl.constexpr,
) -> None:
    """dx = dy weight, before the norm's own backward pass. Grid: ceil(M / ROWS), ceil(I / COLUMNS).

    With NORM also the sums over the block's rows of dx and of dx xhat, to partial (blocks, 2, I); then COLUMNS >= I.
    """
    block = tl.program_id(0)
    row = block * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < I
    acc = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for first in range(0, O, INNER):
        inner = first + tl.arange(0, INNER)
        known = (row < M)[:, None] & (inner < O)[None, :]
        tile = tl.load(dy + row.to(tl.int64)[:, None] * O + inner[None, :], mask=known, other=0.0)
        known = (inner < O)[:, None] & inside[None, :]
        factor = tl.load(weight + inner[:, None] * I + column[None, :], mask=known, other=0.0)
        acc = tl.dot(tile, factor, acc=acc, input_precision=PRECISION)
    there = (row < M)[:, None] & inside[None, :]
    at = row.to(tl.int64)[:, None] * I + column[None, :]
    rounded = acc.to(dx.dtype.element_ty)
    tl.store(dx + at, rounded, mask=there)
    if NORM:
        grad = rounded.to(tl.float32)
        values = tl.load(x + at, mask=there, other=0.0).to(tl.float32)
        xhat, _ = normalised(values, column, inside, mean, var, eps)
        tl.store(partial + block * (2 * I) + column, tl.sum(grad, 0), mask=inside)
        tl.store(partial + block * (2 * I) + I + column, tl.sum(tl.where(there, grad * xhat, 0.0), 0), mask=inside)


@triton.jit
def fused_linear_backward_weight(
    dy: tl.tensor,
    x: tl.tensor,
    mean: tl.tensor,
    var: tl.tensor,
    gamma: tl.tensor,
    beta: tl.tensor,
    partial: tl.tensor,
    eps: tl.tensor,
    M: tl.tensor,
    EACH: tl.constexpr,
    I: tl.constexpr,
    O: tl.constexpr,
    ROWS: tl.constexpr,
    INNER: tl.constexpr,
    COLUMNS: tl.constexpr,
    NORM: tl.constexpr,
    PRECISION: tl.constexpr,
) -> None:
    """This part's share of dweight = dy^T norm(x) and dbias = sum of dy, to partial (parts, O I + O).

    Grid: parts, ceil(O / COLUMNS), ceil(I / INNER); a part is EACH blocks of ROWS rows.
    """
    part = tl.program_id(0)
    out = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inner = tl.program_id(2) * INNER + tl.arange(0, INNER)
    acc = tl.zeros((COLUMNS, INNER), dtype=tl.float32)
    total = tl.zeros((COLUMNS,), dtype=tl.float32)
    for block in range(0, EACH):
        row = (part * EACH + block) * ROWS + tl.arange(0, ROWS)
        there = (row < M)[:, None] & (out < O)[None, :]
        grad = tl.load(dy + row.to(tl.int64)[:, None] * O + out[None, :], mask=there, other=0.0)
        tile = load_normalised(x, row, inner, mean, var, gamma, beta, eps, M, I, NORM)
        acc = tl.dot(tl.trans(grad), tile, acc=acc, input_precision=PRECISION)
        total += tl.sum(grad.to(tl.float32), 0)
    base = partial + part.to(tl.int64) * (O * I + O)
    known = (out < O)[:, None] & (inner < I)[None, :]
    tl.store(base + out[:, None] * I + inner[None, :], acc, mask=known)
    if tl.program_id(2) == 0:
        tl.store(base + O * I + out, total, mask=out < O)
