"""Dropout on its own, where no other kernel has the elements in registers. Tensors: x y M x D, contiguous."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _drop_pairs(
    x: tl.tensor,
    y: tl.tensor,
    word: tl.tensor,
    row: tl.tensor,
    column: tl.tensor,
    M: tl.tensor,
    D: tl.constexpr,
    LEVEL: tl.constexpr,
) -> None:
    """Dropout of pairs of neighbours: `word` holds 16 bits for each, of the element at (row, column) and the next."""
    odd = tl.arange(0, 2)[None, None, :]
    at = row.to(tl.int64)[:, None, None] * D + column[None, :, None] + odd
    there = (row < M)[:, None, None] & (column[None, :, None] + odd < D)
    stays = ((word[:, :, None] >> (16 * odd)) & 0xFFFF) >= LEVEL
    values = tl.load(x + at, mask=there, other=0.0).to(tl.float32)
    thinned = tl.where(stays, values * (65536.0 / (65536 - LEVEL)), 0.0)
    tl.store(y + at, thinned.to(y.dtype.element_ty), mask=there)


@triton.jit(do_not_specialize=["site"])
def fused_dropout(
    x: tl.tensor,
    seed: tl.tensor,
    site: tl.tensor,
    y: tl.tensor,
    M: tl.tensor,
    D: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    LEVEL: tl.constexpr,
) -> None:
    """y = dropout(x), with the bits of `dropout_kernels.kept`. Grid: ceil(M / ROWS), ceil(D / COLUMNS).

    A thread draws the bits of 8 elements and reads just these. In a tile as `kept` gives it, threads that read
    neighbours would each draw the bits of four times as many.
    """
    start, first = tl.program_id(0) * ROWS, tl.program_id(1) * COLUMNS
    down, across = tl.arange(0, ROWS // 2), tl.arange(0, COLUMNS // 4)
    a, b, c, d = tl.philox(tl.load(seed), (start // 2 + down)[:, None], (first // 4 + across)[None, :], site, 0, 7)
    row = start + down // 8 * 16 + down % 8
    column = first + across // 4 * 16 + across % 4 * 2
    _drop_pairs(x, y, a, row, column, M, D, LEVEL)
    _drop_pairs(x, y, b, row, column + 8, M, D, LEVEL)
    _drop_pairs(x, y, c, row + 8, column, M, D, LEVEL)
    _drop_pairs(x, y, d, row + 8, column + 8, M, D, LEVEL)
