"""The forecasting head's own kernel: the backward pass through its linear layer and the dropout before it.

Tensors: dx S x I, contiguous (S sequences, I = patches x width features); weight H x I; dy S x H for H forecast steps.
The other products are cuBLAS': S and H are short, and it splits I among programs.
"""

from __future__ import annotations

import triton
import triton.language as tl

from model.fused.dropout_kernels import dropped, load_key


@triton.jit
def fused_head_backward(
    dy: tl.tensor,
    weight: tl.tensor,
    seed: tl.tensor,
    dx: tl.tensor,
    S: tl.tensor,
    I: tl.constexpr,  # noqa: E741
    H: tl.constexpr,
    ROWS: tl.constexpr,
    INNER: tl.constexpr,
    COLUMNS: tl.constexpr,
    SITE: tl.constexpr,
    LEVEL: tl.constexpr,
    PRECISION: tl.constexpr,
) -> None:
    """dx = dropout's backward pass of dy weight. Grid: ceil(S / ROWS), ceil(I / COLUMNS)."""
    start, first = tl.program_id(0) * ROWS, tl.program_id(1) * COLUMNS
    row, column = start + tl.arange(0, ROWS), first + tl.arange(0, COLUMNS)
    acc = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for begin in range(0, H, INNER):
        inner = begin + tl.arange(0, INNER)
        known = (row < S)[:, None] & (inner < H)[None, :]
        tile = tl.load(dy + row.to(tl.int64)[:, None] * H + inner[None, :], mask=known, other=0.0)
        known = (inner < H)[:, None] & (column < I)[None, :]
        factor = tl.load(weight + inner.to(tl.int64)[:, None] * I + column[None, :], mask=known, other=0.0)
        acc = tl.dot(tile, factor, acc=acc, input_precision=PRECISION)
    acc = dropped(acc, load_key(seed, LEVEL), SITE, start, first, ROWS, COLUMNS, LEVEL)
    there = (row < S)[:, None] & (column < I)[None, :]
    tl.store(dx + row.to(tl.int64)[:, None] * I + column[None, :], acc.to(dx.dtype.element_ty), mask=there)
