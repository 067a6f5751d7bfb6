"""The feed-forward sublayer in two kernels: x + W2 f(W1 norm(x) + b1) + b2, and its backward pass.

Tensors: x y dy dxn xn M x D, g dh M x F, w1 F x D, w2 D x F; a slice of F is computed at a time. The forward pass
writes none of the M x F activations. The backward pass computes them again from x and writes g and dh. From these,
cuBLAS computes the gradients of the weights, two products over all rows, as fast as memory allows. In a narrow model
the backward pass adds them up by blocks instead, and writes neither.

ACTIVATION: "relu", or "gelu", the exact h Phi(h), as in transformers. Phi comes from Abramowitz and Stegun 7.1.26
(absolute error of erf at most 1.5e-7), so that one exponential serves Phi and its derivative.

INSIDE and PATH: dropout's levels after f and before the residual, 0 for none; their sites are `site` and `site` + 1.
"""

from __future__ import annotations

import triton
import triton.language as tl

from model.fused.dropout_kernels import dropped, kept, load_key, thinned
from model.fused.norm_kernels import load_normalised, norm_gradient, store_part, store_statistics


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
def activated(h: tl.tensor, ACTIVATION: tl.constexpr) -> tl.tensor:
    """f(h) and its derivative."""
    if ACTIVATION == "relu":
        positive = h > 0
        return tl.where(positive, h, 0.0), tl.where(positive, 1.0, 0.0)
    else:
        return gelu_and_slope(h)


@triton.jit(do_not_specialize=["site"])
def fused_feed_forward(
    x: tl.tensor, mean: tl.tensor, var: tl.tensor, gamma: tl.tensor, beta: tl.tensor, w1: tl.tensor, b1: tl.tensor,
    w2: tl.tensor, b2: tl.tensor, seed: tl.tensor, y: tl.tensor, partial: tl.tensor, eps: tl.tensor, site: tl.tensor,
    M: tl.tensor, D: tl.constexpr, F: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, SLICE: tl.constexpr,
    NORM: tl.constexpr, POST: tl.constexpr, ACTIVATION: tl.constexpr, INSIDE: tl.constexpr, PATH: tl.constexpr,
    STATISTICS: tl.constexpr, PRECISION: tl.constexpr,
) -> None:  # fmt: skip
    """y = residual + dropout(w2 dropout(f(w1 norm(x) + b1)) + b2). Grid: ceil(M / ROWS).

    The residual is x, or norm(x) with POST. STATISTICS: y's go to partial by blocks.
    """
    start = tl.program_id(0) * ROWS
    key = load_key(seed, INSIDE + PATH)
    row = start + tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    inside = column < D
    xn = load_normalised(x, row, column, mean, var, gamma, beta, eps, M, D, NORM).to(x.dtype.element_ty)
    there = (row < M)[:, None] & inside[None, :]
    at = row.to(tl.int64)[:, None] * D + column[None, :]
    acc = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for first in range(0, F, SLICE):
        f = first + tl.arange(0, SLICE)
        known = inside[:, None] & (f < F)[None, :]
        up = tl.load(w1 + f[None, :] * D + column[:, None], mask=known, other=0.0).to(x.dtype.element_ty)
        h = tl.dot(xn, up, input_precision=PRECISION) + tl.load(b1 + f, mask=f < F, other=0.0).to(tl.float32)[None, :]
        g, _ = activated(h, ACTIVATION)
        g = dropped(g, key, site, start, first, ROWS, SLICE, INSIDE)
        known = (f < F)[:, None] & inside[None, :]
        down = tl.load(w2 + column[None, :] * F + f[:, None], mask=known, other=0.0).to(x.dtype.element_ty)
        acc = tl.dot(g.to(x.dtype.element_ty), down, acc=acc, input_precision=PRECISION)
    acc += tl.load(b2 + column, mask=inside, other=0.0).to(tl.float32)[None, :]
    acc = dropped(acc, key, site + 1, start, 0, ROWS, COLUMNS, PATH)
    residual = xn.to(tl.float32) if POST else tl.load(x + at, mask=there, other=0.0).to(tl.float32)
    rounded = (acc + residual).to(y.dtype.element_ty)
    tl.store(y + at, rounded, mask=there)
    if STATISTICS:
        store_statistics(partial, rounded.to(tl.float32), there, start, M, D, ROWS, COLUMNS)


@triton.jit(do_not_specialize=["site"])
def fused_feed_forward_backward(
    dy: tl.tensor, x: tl.tensor, mean: tl.tensor, var: tl.tensor, gamma: tl.tensor, beta: tl.tensor, w1: tl.tensor,
    b1: tl.tensor, w2: tl.tensor, seed: tl.tensor, dxn: tl.tensor, xn_out: tl.tensor, dy_out: tl.tensor,
    g_out: tl.tensor, dh_out: tl.tensor, partial: tl.tensor, eps: tl.tensor, site: tl.tensor, M: tl.tensor,
    D: tl.constexpr, F: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, SLICE: tl.constexpr,
    NORM: tl.constexpr, POST: tl.constexpr, ACTIVATION: tl.constexpr, INSIDE: tl.constexpr, PATH: tl.constexpr,
    WEIGHTS: tl.constexpr, PRECISION: tl.constexpr,
) -> None:  # fmt: skip
    """dxn: gradient of x through layer norm, or of batch norm's output; sums over rows; factors of weights' gradients.

    Grid: blocks. partial (blocks, 3 D + F): the norm's sums; of dropout(dy), the gradient of b2; of dh, that of b1. The
    factors: dh^T xn and dropout(dy)^T g; PATH: dropout(dy) goes to dy_out. dy itself, the residual's gradient, is added
    before the norm with POST, else after layer norm, or later with batch norm. WEIGHTS: no factors are left; parts of
    the weights' gradients follow in partial, (F, D) and (D, F) a block.
    """
    block = tl.program_id(0)
    key = load_key(seed, INSIDE + PATH)
    row = block * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    inside = column < D
    there = (row < M)[:, None] & inside[None, :]
    at = row.to(tl.int64)[:, None] * D + column[None, :]
    base = partial + block.to(tl.int64) * (3 * D + F + (2 * D * F if WEIGHTS else 0))
    parts = base + 3 * D + F
    xn = load_normalised(x, row, column, mean, var, gamma, beta, eps, M, D, NORM).to(x.dtype.element_ty)
    if not WEIGHTS:
        tl.store(xn_out + at, xn, mask=there)
    grad = tl.load(dy + at, mask=there, other=0.0)
    if PATH > 0:
        grad = dropped(grad.to(tl.float32), key, site + 1, block * ROWS, 0, ROWS, COLUMNS, PATH).to(x.dtype.element_ty)
        if not WEIGHTS:
            tl.store(dy_out + at, grad, mask=there)
    tl.store(base + 2 * D + column, tl.sum(grad.to(tl.float32), 0), mask=inside)
    acc = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for first in range(0, F, SLICE):
        f = first + tl.arange(0, SLICE)
        known = (f < F)[:, None] & inside[None, :]
        factor = tl.load(w1 + f[:, None] * D + column[None, :], mask=known, other=0.0).to(x.dtype.element_ty)
        known = inside[:, None] & (f < F)[None, :]
        down = tl.load(w2 + column[:, None] * F + f[None, :], mask=known, other=0.0).to(x.dtype.element_ty)
        h = tl.dot(xn, tl.trans(factor), input_precision=PRECISION)
        h += tl.load(b1 + f, mask=f < F, other=0.0).to(tl.float32)[None, :]
        g, slope = activated(h, ACTIVATION)
        dh = slope * tl.dot(grad, down, input_precision=PRECISION)
        if INSIDE > 0:
            stays = kept(key, site, block * ROWS, first, ROWS, SLICE, INSIDE)
            g, dh = thinned(g, stays, INSIDE), thinned(dh, stays, INSIDE)
        g, rounded = g.to(x.dtype.element_ty), dh.to(x.dtype.element_ty)
        wide = row.to(tl.int64)[:, None] * F + f[None, :]
        known = (row < M)[:, None] & (f < F)[None, :]
        if WEIGHTS:
            store_part(parts, rounded, xn, f, column, F, D, PRECISION)
            store_part(parts + F * D, grad, g, column, f, D, F, PRECISION)
        else:
            tl.store(g_out + wide, g, mask=known)
            tl.store(dh_out + wide, rounded, mask=known)
        tl.store(base + 3 * D + f, tl.sum(dh, 0), mask=f < F)
        acc = tl.dot(rounded, factor, acc=acc, input_precision=PRECISION)
    if POST:
        acc += tl.load(dy + at, mask=there, other=0.0).to(tl.float32)
    if NORM == "batch":
        tl.store(dxn + at, acc.to(dxn.dtype.element_ty), mask=there)
    acc = norm_gradient(acc, x, at, there, column, inside, mean, var, gamma, base, eps, D, NORM)
    if NORM == "layer":
        if not POST:
            acc += tl.load(dy + at, mask=there, other=0.0).to(tl.float32)
        tl.store(dxn + at, acc.to(dxn.dtype.element_ty), mask=there)
