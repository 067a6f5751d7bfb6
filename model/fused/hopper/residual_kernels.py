"""A plain Triton kernel before a sublayer's backward pass: dropout before the residual, and the residual's own sums.

Tensors: dy xhat M x D, contiguous; dy is the gradient of what the sublayer leaves. D is a multiple of 16.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _pairs(
    dy: tl.tensor, xhat: tl.tensor, out: tl.tensor, word: tl.tensor, row: tl.tensor, column: tl.tensor, M: tl.tensor,
    D: tl.constexpr, LEVEL: tl.constexpr, POST: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """dy, dy xhat (0 unless POST) and dropout(dy), which goes out, of pairs of neighbours from `column` on.

    word: 16 bits for each element of a pair.
    """
    odd = tl.arange(0, 2)[None, None, :]
    at = row.to(tl.int64)[:, None, None] * D + column[None, :, None] + odd
    there = (row < M)[:, None, None] & (column[None, :, None] + odd < D)
    values = tl.load(dy + at, mask=there, other=0.0)
    grad = values.to(tl.float32)
    product = tl.zeros_like(grad)
    if POST:
        product = grad * tl.load(xhat + at, mask=there, other=0.0).to(tl.float32)
    thin = grad
    if LEVEL > 0:
        stays = ((word[:, :, None] >> (16 * odd)) & 0xFFFF) >= LEVEL
        rounded = tl.where(stays, grad * (65536.0 / (65536 - LEVEL)), 0.0).to(out.dtype.element_ty)
        tl.store(out + at, rounded, mask=there)
        thin = rounded.to(tl.float32)
    return grad, product, thin


@triton.jit(do_not_specialize=["site"])
def fused_residual_gradient(
    dy: tl.tensor, xhat: tl.tensor, seed: tl.tensor, out: tl.tensor, partial: tl.tensor, site: tl.tensor, M: tl.tensor,
    D: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr, STEPS: tl.constexpr, LEVEL: tl.constexpr,
    POST: tl.constexpr,
) -> None:  # fmt: skip
    """partial (programs, 3, D): sums of dy and of dy xhat over rows (0 unless POST), and of dropout(dy).

    LEVEL > 0: dropout(dy) goes to `out`. Grid: programs, each with STEPS tiles of ROWS rows; COLUMNS >= D. A thread
    draws the bits of 8 elements and reads just these (see `model/fused/drop_kernels.py`).
    """
    down, across = tl.arange(0, ROWS // 2), tl.arange(0, COLUMNS // 4)
    column = across // 4 * 16 + across % 4 * 2
    key = 0
    if LEVEL > 0:
        key = tl.load(seed)
    g0 = tl.zeros((ROWS // 2, COLUMNS // 4, 2), dtype=tl.float32)
    g1, p0, p1, t0, t1 = g0, g0, g0, g0, g0
    for step in range(STEPS):
        start = (step * tl.num_programs(0) + tl.program_id(0)) * ROWS
        row = start + down // 8 * 16 + down % 8
        a, b, c, d = tl.philox(key, (start // 2 + down)[:, None], across[None, :], site, 0, 7)
        g, p, t = _pairs(dy, xhat, out, a, row, column, M, D, LEVEL, POST)
        g0, p0, t0 = g0 + g, p0 + p, t0 + t
        g, p, t = _pairs(dy, xhat, out, b, row, column + 8, M, D, LEVEL, POST)
        g1, p1, t1 = g1 + g, p1 + p, t1 + t
        g, p, t = _pairs(dy, xhat, out, c, row + 8, column, M, D, LEVEL, POST)
        g0, p0, t0 = g0 + g, p0 + p, t0 + t
        g, p, t = _pairs(dy, xhat, out, d, row + 8, column + 8, M, D, LEVEL, POST)
        g1, p1, t1 = g1 + g, p1 + p, t1 + t
    to = partial + tl.program_id(0) * (3 * D) + column[:, None] + tl.arange(0, 2)[None, :]
    left = column[:, None] + tl.arange(0, 2)[None, :] < D
    right = column[:, None] + 8 + tl.arange(0, 2)[None, :] < D
    if not POST:
        g0, g1 = p0, p1  # nothing of the residual passes the norm
    tl.store(to, tl.sum(g0, 0), mask=left)
    tl.store(to + 8, tl.sum(g1, 0), mask=right)
    tl.store(to + D, tl.sum(p0, 0), mask=left)
    tl.store(to + D + 8, tl.sum(p1, 0), mask=right)
    tl.store(to + 2 * D, tl.sum(t0, 0), mask=left)
    tl.store(to + 2 * D + 8, tl.sum(t1, 0), mask=right)
