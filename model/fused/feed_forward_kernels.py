"""The feed-forward sublayer in two kernels: x + W2 gelu(W1 norm(x) + b1) + b2, and its backward pass.

Tensors: x y dy M x D, w1 F x D, w2 D x F. The M x F activations are never written: the backward pass computes them
again from x, a slice of F at a time, and leaves only their gradient dh (M x F) for the product with w1.

GELU is the exact one, h Phi(h), as in transformers. Phi comes from Abramowitz and Stegun 7.1.26 (absolute error of erf
at most 1.5e-7): one exponential serves Phi and its derivative.
"""

from __future__ import annotations

import triton
import triton.language as tl

from model.fused.linear_kernels import load_normalised
from model.fused.norm_kernels import store_statistics


@triton.jit
def gelu_and_slope(h: tl.tensor) -> tl.tensor:
    """h Phi(h) and its derivative Phi(h) + h phi(h)."""
    size = tl.abs(h)
    t = 1.0 / (1.0 + 0.2316418882 * size)  # 0.3275911 / sqrt(2)
    bell = tl.exp2(h * h * -0.7213475204)  # exp(-h^2 / 2)
    poly = 0.5307027145
    poly = poly * t - 0.7265760135
    poly = poly * t + 0.7107068705
    poly = poly * t - 0.142248368
    poly = poly * t + 0.127414796
    tail = poly * t * bell  # 1 - Phi(|h|)
    phi = tl.where(h >= 0, 1.0 - tail, tail)
    return h * phi, phi + h * bell * 0.3989422804


@triton.jit
def fused_feed_forward(
    x: tl.tensor,
    mean: tl.tensor,
    var: tl.tensor,
    gamma: tl.tensor,
    beta: tl.tensor,
    w1: tl.tensor,
    b1: tl.tensor,
    w2: tl.tensor,
    b2: tl.tensor,
    y: tl.tensor,
    partial: tl.tensor,
    eps: tl.tensor,
    M: tl.tensor,
    D: tl.constexpr,
    F: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    SLICE: tl.constexpr,
    PRECISION: tl.constexpr,
) -> None:
    """y = x + w2 gelu(w1 norm(x) + b1) + b2, and y's statistics by blocks. Grid: ceil(M / ROWS)."""
    start = tl.program_id(0) * ROWS
    row = start + tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    inside = column < D
    xn = load_normalised(x, row, column, mean, var, gamma, beta, eps, M, D, True)
    acc = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for first in range(0, F, SLICE):
        f = first + tl.arange(0, SLICE)
        known = inside[:, None] & (f < F)[None, :]
        up = tl.load(w1 + f[None, :] * D + column[:, None], mask=known, other=0.0)
        h = tl.dot(xn, up, input_precision=PRECISION) + tl.load(b1 + f, mask=f < F, other=0.0).to(tl.float32)[None, :]
        g, _ = gelu_and_slope(h)
        known = (f < F)[:, None] & inside[None, :]
        down = tl.load(w2 + column[None, :] * F + f[:, None], mask=known, other=0.0)
        acc = tl.dot(g.to(x.dtype.element_ty), down, acc=acc, input_precision=PRECISION)
    acc += tl.load(b2 + column, mask=inside, other=0.0).to(tl.float32)[None, :]
    there = (row < M)[:, None] & inside[None, :]
    at = row.to(tl.int64)[:, None] * D + column[None, :]
    rounded = (acc + tl.load(x + at, mask=there, other=0.0).to(tl.float32)).to(y.dtype.element_ty)
    tl.store(y + at, rounded, mask=there)
    store_statistics(partial, rounded.to(tl.float32), there, start, M, D, ROWS, COLUMNS)


@triton.jit
def fused_feed_forward_backward(
    dy: tl.tensor,
    x: tl.tensor,
    mean: tl.tensor,
    var: tl.tensor,
    gamma: tl.tensor,
    beta: tl.tensor,
    w1: tl.tensor,
    b1: tl.tensor,
    w2: tl.tensor,
    dh: tl.tensor,
    partial: tl.tensor,
    eps: tl.tensor,
    M: tl.tensor,
    EACH: tl.constexpr,
    D: tl.constexpr,
    F: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    SLICE: tl.constexpr,
    PRECISION: tl.constexpr,
) -> None:
    """dh, and this part's share of dw1 (F x D), dw2 (D x F), db1 (F) and db2 (D), in this order, to partial.

    Grid: parts, ceil(F / SLICE); a part is EACH blocks of ROWS rows.
    """
    part = tl.program_id(0)
    f = tl.program_id(1) * SLICE + tl.arange(0, SLICE)
    column = tl.arange(0, COLUMNS)
    inside = column < D
    known = inside[:, None] & (f < F)[None, :]
    up = tl.load(w1 + f[None, :] * D + column[:, None], mask=known, other=0.0)
    down = tl.load(w2 + column[:, None] * F + f[None, :], mask=known, other=0.0)
    shift = tl.load(b1 + f, mask=f < F, other=0.0).to(tl.float32)
    dw1 = tl.zeros((SLICE, COLUMNS), dtype=tl.float32)
    dw2 = tl.zeros((COLUMNS, SLICE), dtype=tl.float32)
    db1 = tl.zeros((SLICE,), dtype=tl.float32)
    db2 = tl.zeros((COLUMNS,), dtype=tl.float32)
    for block in range(0, EACH):
        row = (part * EACH + block) * ROWS + tl.arange(0, ROWS)
        xn = load_normalised(x, row, column, mean, var, gamma, beta, eps, M, D, True)
        there = (row < M)[:, None] & inside[None, :]
        grad = tl.load(dy + row.to(tl.int64)[:, None] * D + column[None, :], mask=there, other=0.0)
        g, slope = gelu_and_slope(tl.dot(xn, up, input_precision=PRECISION) + shift[None, :])
        slope = slope * tl.dot(grad, down, input_precision=PRECISION)
        rounded = slope.to(x.dtype.element_ty)
        known = (row < M)[:, None] & (f < F)[None, :]
        tl.store(dh + row.to(tl.int64)[:, None] * F + f[None, :], rounded, mask=known)
        dw1 = tl.dot(tl.trans(rounded), xn, acc=dw1, input_precision=PRECISION)
        dw2 = tl.dot(tl.trans(grad), g.to(x.dtype.element_ty), acc=dw2, input_precision=PRECISION)
        db1 += tl.sum(slope, 0)
        db2 += tl.sum(grad.to(tl.float32), 0)
    base = partial + part.to(tl.int64) * (2 * F * D + F + D)
    known = (f < F)[:, None] & inside[None, :]
    tl.store(base + f[:, None] * D + column[None, :], dw1, mask=known)
    known = inside[:, None] & (f < F)[None, :]
    tl.store(base + F * D + column[:, None] * F + f[None, :], dw2, mask=known)
    tl.store(base + 2 * F * D + f, db1, mask=f < F)
    if tl.program_id(1) == 0:
        tl.store(base + 2 * F * D + F + column, db2, mask=inside)
