"""Plain Triton kernels around the Hopper ones: a layer's weights packed before, their gradients summed after them.

Shapes: D model width, W width of all heads, P that width padded (launch.py), F FFN width. Weights and gradients are
fp32, packed weights bf16. What a padded width adds is zeros.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _fold(
    w: tl.tensor, bias: tl.tensor, gamma: tl.tensor, beta: tl.tensor, w_out: tl.tensor, bias_out: tl.tensor,
    row: tl.tensor, to: tl.tensor, SIZE: tl.constexpr, D: tl.constexpr, COLUMNS: tl.constexpr,
) -> None:  # fmt: skip
    """Rows of w gamma, rounded, and of bias + w beta, from `row` on, to rows `to` and on; w has SIZE rows."""
    column = tl.arange(0, COLUMNS)
    inside = column < D
    there = (row < SIZE)[:, None] & inside[None, :]
    values = tl.load(w + row[:, None] * D + column[None, :], mask=there, other=0.0)
    scale = tl.load(gamma + column, mask=inside, other=0.0)
    shift = tl.load(beta + column, mask=inside, other=0.0)
    folded = values * scale[None, :]
    into = (to >= 0)[:, None] & inside[None, :]
    tl.store(w_out + to[:, None] * D + column[None, :], folded.to(w_out.dtype.element_ty), mask=into)
    tl.store(bias_out + to, tl.load(bias + row, mask=row < SIZE, other=0.0) + tl.sum(values * shift[None, :], 1))


@triton.jit
def _cast(
    w: tl.tensor, out: tl.tensor, row: tl.tensor, SIZE: tl.constexpr, PADDED: tl.constexpr, COLUMNS: tl.constexpr
) -> None:
    """Rows of SIZE numbers of w, rounded, to rows of PADDED numbers."""
    for first in tl.static_range(0, PADDED, COLUMNS):
        column = first + tl.arange(0, COLUMNS)
        there = (row >= 0)[:, None] & (column < SIZE)[None, :]
        values = tl.load(w + row[:, None] * SIZE + column[None, :], mask=there, other=0.0)
        into = (row >= 0)[:, None] & (column < PADDED)[None, :]
        tl.store(out + row[:, None] * PADDED + column[None, :], values.to(out.dtype.element_ty), mask=into)


@triton.jit
def fused_pack_weights(
    wq: tl.tensor, wk: tl.tensor, wv: tl.tensor, bq: tl.tensor, bk: tl.tensor, bv: tl.tensor, gamma1: tl.tensor,
    beta1: tl.tensor, wo: tl.tensor, w1: tl.tensor, b1: tl.tensor, gamma2: tl.tensor, beta2: tl.tensor, w2: tl.tensor,
    qkv: tl.tensor, qkv_bias: tl.tensor, out: tl.tensor, up: tl.tensor, up_bias: tl.tensor, down: tl.tensor,
    D: tl.constexpr, W: tl.constexpr, P: tl.constexpr, F: tl.constexpr, LINES: tl.constexpr, COLUMNS: tl.constexpr,
) -> None:  # fmt: skip
    """A layer's weights for the Hopper kernels. Grid: (3 P + F + 2 D) / LINES; LINES divides P, F and D.

    qkv (3 P, D) and up (F, D) hold gamma, their biases hold beta; out (D, P) and down (D, F) are rounded.
    """
    pid = tl.program_id(0)
    line = tl.arange(0, LINES)
    heads: tl.constexpr = P // LINES
    wide: tl.constexpr = F // LINES
    if pid < 3 * heads:
        row = (pid % heads) * LINES + line
        to = pid * LINES + line
        if pid < heads:
            _fold(wq, bq, gamma1, beta1, qkv, qkv_bias, row, to, W, D, COLUMNS)
        elif pid < 2 * heads:
            _fold(wk, bk, gamma1, beta1, qkv, qkv_bias, row, to, W, D, COLUMNS)
        else:
            _fold(wv, bv, gamma1, beta1, qkv, qkv_bias, row, to, W, D, COLUMNS)
    elif pid < 3 * heads + wide:
        row = (pid - 3 * heads) * LINES + line
        _fold(w1, b1, gamma2, beta2, up, up_bias, row, row, F, D, COLUMNS)
    elif pid < 3 * heads + wide + D // LINES:
        _cast(wo, out, (pid - 3 * heads - wide) * LINES + line, W, P, COLUMNS)
    else:
        _cast(w2, down, (pid - 3 * heads - wide - D // LINES) * LINES + line, F, F, COLUMNS)


@triton.jit
def fused_reduce_weight_gradients(
    parts: tl.tensor, partsb: tl.tensor, dw: tl.tensor, dw_turned: tl.tensor, dbias: tl.tensor, w0: tl.tensor,
    w1: tl.tensor, w2: tl.tensor, gamma: tl.tensor, beta: tl.tensor, sums: tl.tensor, PROGRAMS: tl.constexpr,
    SLICES: tl.constexpr, CHUNKS: tl.constexpr, REST_CHUNKS: tl.constexpr, ROWS: tl.constexpr,
    WEIGHT_ROWS: tl.constexpr, STRIDE: tl.constexpr, IN: tl.constexpr, INNER: tl.constexpr, LINES: tl.constexpr,
    COLUMNS: tl.constexpr, AT_ONCE: tl.constexpr, NORM: tl.constexpr, BIASES: tl.constexpr,
) -> None:  # fmt: skip
    """Weights' gradients from the parts of all programs, added in a fixed order. LINES divides 128 and STRIDE.

    parts (1 or 2, PROGRAMS, 128, INNER), partsb (BIASES, PROGRAMS, 128): program p holds 128 rows of the gradient,
    slice p mod SLICES of chunk p / SLICES; those after SLICES CHUNKS hold the last rows. Gradients: dw (ROWS, IN),
    dbias (BIASES, ROWS), of which the first is the bias', BIASES is 1 or 3, and the second parts' turned, (IN, ROWS).
    IN is at most INNER. Grid: ROWS / LINES, ceil(IN / COLUMNS), 1 or 2.

    NORM: parts are products with xhat, so dw = parts gamma + dbias beta; and sums (ROWS / LINES, 2, IN) are the terms
    of dbeta = w^T dbias and dgamma = colsum(w parts). w is w0, w1 and w2, of WEIGHT_ROWS rows each, which are those of
    the gradient from row 0, STRIDE and 2 STRIDE on.
    """
    start = tl.program_id(0) * LINES
    row = start + tl.arange(0, LINES)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < IN
    part = tl.arange(0, AT_ONCE)
    slice = start // 128
    is_whole = slice < SLICES
    first = tl.where(is_whole, slice, SLICES * CHUNKS)
    step = tl.where(is_whole, SLICES, 1)
    count = tl.where(is_whole, CHUNKS, REST_CHUNKS)
    most: tl.constexpr = CHUNKS if CHUNKS > REST_CHUNKS else REST_CHUNKS
    local = (row % 128)[:, None] * INNER + column[None, :]
    base = parts + tl.program_id(2) * (PROGRAMS * 128 * INNER)
    acc = tl.zeros((AT_ONCE, LINES, COLUMNS), dtype=tl.float32)
    bias = tl.zeros((AT_ONCE, LINES), dtype=tl.float32)
    bias1, bias2 = bias, bias
    # Not tl.static_range, and no mask shared by loads and stores: see tests/kits/ptx_kit.py
    for begin in range(0, most, AT_ONCE):
        chunk = begin + part
        program = first + chunk * step
        there = (chunk < count)[:, None, None] & ((local >= 0) & inside[None, :])[None, :, :]
        acc += tl.load(base + program[:, None, None] * (128 * INNER) + local[None, :, :], mask=there, other=0.0)
        known = (chunk < count)[:, None] & (row >= 0)[None, :]
        at = partsb + program[:, None] * 128 + (row % 128)[None, :]
        bias += tl.load(at, mask=known, other=0.0)
        if BIASES == 3:
            bias1 += tl.load(at + PROGRAMS * 128, mask=known, other=0.0)
            bias2 += tl.load(at + PROGRAMS * 256, mask=known, other=0.0)
    product = tl.sum(acc, 0)
    if tl.program_id(2) == 1:
        tl.store(dw_turned + column[None, :] * ROWS + row[:, None], product, mask=(row >= 0)[:, None] & inside[None, :])
    else:
        total = tl.sum(bias, 0)
        if tl.program_id(1) == 0:
            tl.store(dbias + row, total)
            if BIASES == 3:
                tl.store(dbias + ROWS + row, tl.sum(bias1, 0))
                tl.store(dbias + 2 * ROWS + row, tl.sum(bias2, 0))
        at = row[:, None] * IN + column[None, :]
        known = (row >= 0)[:, None] & inside[None, :]
        if NORM:
            scale = tl.load(gamma + column, mask=inside, other=0.0)
            shift = tl.load(beta + column, mask=inside, other=0.0)
            tl.store(dw + at, product * scale[None, :] + total[:, None] * shift[None, :], mask=known)
            of = start // STRIDE
            w = w0
            if of == 1:
                w = w1
            elif of == 2:
                w = w2
            own = row - of * STRIDE
            real = (own < WEIGHT_ROWS)[:, None] & inside[None, :]
            weight = tl.load(w + own[:, None] * IN + column[None, :], mask=real, other=0.0)
            to = sums + tl.program_id(0) * (2 * IN) + column
            tl.store(to, tl.sum(weight * total[:, None], 0), mask=inside)
            tl.store(to + IN, tl.sum(weight * product, 0), mask=inside)
        else:
            tl.store(dw + at, product, mask=known)
