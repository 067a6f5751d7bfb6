"""Linear layers of narrow models, fused with the norm before and with bias, dropout, residual and statistics after.

Tensors: x M x IN, y M x OUT, weight OUT x IN, all contiguous. M is the number of rows (batch x channels x patches).
IN and OUT are at most a few hundred, so one program multiplies its rows by all of the weight. Weights may be fp32: they
are rounded to the type of x as they are read. NORM: see norm_kernels. LEVEL: dropout's level, 0 for none.
"""

from __future__ import annotations

import triton
import triton.language as tl

from model.fused.dropout_kernels import dropped, load_key
from model.fused.norm_kernels import load_normalised, norm_gradient, store_part, store_statistics


@triton.jit(do_not_specialize=["site"])
def fused_linear_forward(
    x: tl.tensor, weight: tl.tensor, bias: tl.tensor, mean: tl.tensor, var: tl.tensor, gamma: tl.tensor,
    beta: tl.tensor, residual: tl.tensor, seed: tl.tensor, y: tl.tensor, xn_out: tl.tensor, partial: tl.tensor,
    eps: tl.tensor, site: tl.tensor, M: tl.tensor, IN: tl.constexpr, OUT: tl.constexpr, ROWS: tl.constexpr,
    INNER: tl.constexpr, COLUMNS: tl.constexpr, NORM: tl.constexpr, KEEP: tl.constexpr, LEVEL: tl.constexpr,
    RESIDUAL: tl.constexpr, STATISTICS: tl.constexpr, PRECISION: tl.constexpr,
) -> None:  # fmt: skip
    """y = dropout(norm(x) weight^T + bias) (+ residual). Grid: ceil(M / ROWS), ceil(OUT / COLUMNS).

    KEEP: norm(x) goes to xn_out. STATISTICS: y's go to partial, which asks for COLUMNS >= OUT. Layer norm asks for
    INNER >= IN.
    """
    start = tl.program_id(0) * ROWS
    row = start + tl.arange(0, ROWS)
    first_out = tl.program_id(1) * COLUMNS
    out = first_out + tl.arange(0, COLUMNS)
    acc = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for first in range(0, IN, INNER):
        inner = first + tl.arange(0, INNER)
        if NORM == "none":
            known = (row < M)[:, None] & (inner < IN)[None, :]
            tile = tl.load(x + row.to(tl.int64)[:, None] * IN + inner[None, :], mask=known, other=0.0)
        else:
            tile = load_normalised(x, row, inner, mean, var, gamma, beta, eps, M, IN, NORM).to(x.dtype.element_ty)
        if KEEP:
            known = (row < M)[:, None] & (inner < IN)[None, :] & (first_out == 0)
            tl.store(xn_out + row.to(tl.int64)[:, None] * IN + inner[None, :], tile, mask=known)
        known = (inner < IN)[:, None] & (out < OUT)[None, :]
        factor = tl.load(weight + out[None, :] * IN + inner[:, None], mask=known, other=0.0).to(x.dtype.element_ty)
        acc = tl.dot(tile, factor, acc=acc, input_precision=PRECISION)
    acc += tl.load(bias + out, mask=out < OUT, other=0.0).to(tl.float32)[None, :]
    acc = dropped(acc, load_key(seed, LEVEL), site, start, first_out, ROWS, COLUMNS, LEVEL)
    there = (row < M)[:, None] & (out < OUT)[None, :]
    at = row.to(tl.int64)[:, None] * OUT + out[None, :]
    if RESIDUAL:
        acc += tl.load(residual + at, mask=there, other=0.0).to(tl.float32)
    rounded = acc.to(y.dtype.element_ty)
    tl.store(y + at, rounded, mask=there)
    if STATISTICS:
        store_statistics(partial, rounded.to(tl.float32), there, start, M, OUT, ROWS, COLUMNS)


@triton.jit(do_not_specialize=["site"])
def fused_linear_backward(
    dy: tl.tensor, weight: tl.tensor, x: tl.tensor, mean: tl.tensor, var: tl.tensor, gamma: tl.tensor,
    beta: tl.tensor, residual: tl.tensor, seed: tl.tensor, dx: tl.tensor, xn_out: tl.tensor, dy_out: tl.tensor,
    partial: tl.tensor, eps: tl.tensor, site: tl.tensor, M: tl.tensor, IN: tl.constexpr, OUT: tl.constexpr,
    ROWS: tl.constexpr, INNER: tl.constexpr, COLUMNS: tl.constexpr, NORM: tl.constexpr, KEEP: tl.constexpr,
    WEIGHTS: tl.constexpr, LEVEL: tl.constexpr, BEFORE: tl.constexpr, AFTER: tl.constexpr, PRECISION: tl.constexpr,
) -> None:  # fmt: skip
    """dx = dropout(dy) weight, through layer norm or before batch norm's own backward pass, and sums over rows.

    Grid: ceil(M / ROWS). COLUMNS >= IN. partial (blocks, 2 IN + OUT) with a norm: the norm's sums, then those of
    dropout(dy), the gradient of the bias; without (blocks, OUT). For the weight's gradient, KEEP: norm(x) goes to
    xn_out; LEVEL: dropout(dy) to dy_out; or WEIGHTS: its parts follow in partial, (OUT, IN) a block. BEFORE and AFTER:
    residual, the gradient of another use of norm(x) or of x, is added before or after the norm.
    """
    block = tl.program_id(0)
    key = load_key(seed, LEVEL)
    row = block * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    inside = column < IN
    sums = OUT if NORM == "none" else 2 * IN + OUT
    base = partial + block.to(tl.int64) * (sums + OUT * IN if WEIGHTS else sums)
    if WEIGHTS:
        xn = load_normalised(x, row, column, mean, var, gamma, beta, eps, M, IN, NORM).to(dy.dtype.element_ty)
    acc = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for first in range(0, OUT, INNER):
        inner = first + tl.arange(0, INNER)
        known = (row < M)[:, None] & (inner < OUT)[None, :]
        wide = row.to(tl.int64)[:, None] * OUT + inner[None, :]
        tile = tl.load(dy + wide, mask=known, other=0.0)
        if LEVEL > 0:
            tile = dropped(tile.to(tl.float32), key, site, block * ROWS, first, ROWS, INNER, LEVEL).to(
                dy.dtype.element_ty
            )
            if not WEIGHTS:
                tl.store(dy_out + wide, tile, mask=known)
        at = inner[:, None] * IN + column[None, :]
        factor = tl.load(weight + at, mask=(inner < OUT)[:, None] & inside[None, :], other=0.0).to(dy.dtype.element_ty)
        acc = tl.dot(tile, factor, acc=acc, input_precision=PRECISION)
        tl.store(base + sums - OUT + inner, tl.sum(tile.to(tl.float32), 0), mask=inner < OUT)
        if WEIGHTS:
            store_part(base + sums, tile, xn, inner, column, OUT, IN, PRECISION)
    there = (row < M)[:, None] & inside[None, :]
    at = row.to(tl.int64)[:, None] * IN + column[None, :]
    if BEFORE:
        acc += tl.load(residual + at, mask=there, other=0.0).to(tl.float32)
    if NORM == "batch":
        tl.store(dx + at, acc.to(dx.dtype.element_ty), mask=there)
    if NORM != "none":
        acc = norm_gradient(acc, x, at, there, column, inside, mean, var, gamma, base, eps, IN, NORM)
    if AFTER:
        acc += tl.load(residual + at, mask=there, other=0.0).to(tl.float32)
    if NORM != "batch":
        tl.store(dx + at, acc.to(dx.dtype.element_ty), mask=there)
    if KEEP:
        xn = load_normalised(x, row, column, mean, var, gamma, beta, eps, M, IN, NORM)
        tl.store(xn_out + at, xn.to(xn_out.dtype.element_ty), mask=there)
