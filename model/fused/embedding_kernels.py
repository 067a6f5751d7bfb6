"""The first lines of the encoder in one kernel: patches, their linear layer, positions, dropout and first statistics.

Tensors: patch M x P, contiguous; y dy M x D; weight D x P; position N x D. M = sequences x N rows; row m is patch m % N
of its sequence. P is narrow (12 to 192), so a program multiplies its rows by all of the weight, a slice of P at a time.
"""

from __future__ import annotations

import triton
import triton.language as tl

from model.fused.dropout_kernels import dropped, load_key
from model.fused.norm_kernels import store_statistics


@triton.jit
def fused_embedding(
    patch: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    position: tl.tensor,
    seed: tl.tensor,
    y: tl.tensor,
    partial: tl.tensor,
    M: tl.tensor,
    N: tl.constexpr,
    P: tl.constexpr,
    D: tl.constexpr,
    ROWS: tl.constexpr,
    INNER: tl.constexpr,
    COLUMNS: tl.constexpr,
    SITE: tl.constexpr,
    LEVEL: tl.constexpr,
    STATISTICS: tl.constexpr,
    PRECISION: tl.constexpr,
) -> None:
    """y = dropout(patch weight^T + bias + position), and its statistics by blocks. Grid: ceil(M / ROWS)."""
    start = tl.program_id(0) * ROWS
    row = start + tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    inside = column < D
    there = (row < M)[:, None] & inside[None, :]
    acc = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for first in range(0, P, INNER):
        inner = first + tl.arange(0, INNER)
        known = (row < M)[:, None] & (inner < P)[None, :]
        tile = tl.load(patch + row.to(tl.int64)[:, None] * P + inner[None, :], mask=known, other=0.0)
        known = (inner < P)[:, None] & inside[None, :]
        factor = tl.load(weight + column[None, :] * P + inner[:, None], mask=known, other=0.0)
        element = y.dtype.element_ty
        acc = tl.dot(tile.to(element), factor.to(element), acc=acc, input_precision=PRECISION)
    acc += tl.load(bias + column, mask=inside, other=0.0)[None, :]
    acc += tl.load(position + (row % N)[:, None] * D + column[None, :], mask=there, other=0.0)
    acc = dropped(acc, load_key(seed, LEVEL), SITE, start, 0, ROWS, COLUMNS, LEVEL)
    rounded = acc.to(y.dtype.element_ty)
    tl.store(y + row.to(tl.int64)[:, None] * D + column[None, :], rounded, mask=there)
    if STATISTICS:
        store_statistics(partial, rounded.to(tl.float32), there, start, M, D, ROWS, COLUMNS)


@triton.jit
def fused_embedding_backward(
    dy: tl.tensor,
    patch: tl.tensor,
    partial: tl.tensor,
    M: tl.tensor,
    P: tl.constexpr,
    D: tl.constexpr,
    TILES: tl.constexpr,
    ROWS: tl.constexpr,
    INNER: tl.constexpr,
    COLUMNS: tl.constexpr,
    PRECISION: tl.constexpr,
) -> None:
    """partial (programs, D P + D): over TILES tiles of rows, dy^T patch and the column sums of dy.

    Grid: programs, ceil(P / INNER). The first of each row of programs adds up the columns.
    """
    column = tl.arange(0, COLUMNS)
    inside = column < D
    inner = tl.program_id(1) * INNER + tl.arange(0, INNER)
    base = partial + tl.program_id(0).to(tl.int64) * (D * P + D)
    acc = tl.zeros((COLUMNS, INNER), dtype=tl.float32)
    sums = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for turn in range(TILES):
        start = (tl.program_id(0) * TILES + turn) * ROWS
        row = start + tl.arange(0, ROWS)
        there = (row < M)[:, None] & inside[None, :]
        grad = tl.load(dy + row.to(tl.int64)[:, None] * D + column[None, :], mask=there, other=0.0)
        known = (row < M)[:, None] & (inner < P)[None, :]
        tile = tl.load(patch + row.to(tl.int64)[:, None] * P + inner[None, :], mask=known, other=0.0)
        acc = tl.dot(tl.trans(grad), tile.to(dy.dtype.element_ty), acc=acc, input_precision=PRECISION)
        sums += grad.to(tl.float32)
    tl.store(base + column[:, None] * P + inner[None, :], acc, mask=inside[:, None] & (inner < P)[None, :])
    if tl.program_id(1) == 0:
        tl.store(base + D * P + column, tl.sum(sums, 0), mask=inside)
