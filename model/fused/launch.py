"""Launches of the fused kernels: tile sizes, grids and scratch memory. No autograd here; importing this imports triton.

Shapes: M rows (batch x channels x patches), D model width, I and O inputs and outputs of a linear layer, F FFN width.
Activations and weights come in the autocast type; statistics, sums over rows and gradients of weights are fp32.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from model.fused import feed_forward_kernels, linear_kernels, norm_kernels

STAT_ROWS = 64  # rows of a block of statistics, and so of a program of every kernel that makes them


@dataclass(frozen=True, kw_only=True)
class Norm:
    """Batch norm as a prologue: statistics and affine parameters, each (D,) fp32."""

    mean: Tensor
    var: Tensor
    gamma: Tensor
    beta: Tensor
    eps: float

    def at(self) -> tuple[Tensor, ...]:
        return self.mean, self.var, self.gamma, self.beta


def precision(x: Tensor) -> str:
    """How fp32 factors are multiplied; without effect on half precision."""
    return "tf32" if x.dtype == torch.float32 and torch.get_float32_matmul_precision() != "highest" else "ieee"


def empty_statistics(x: Tensor, width: int) -> Tensor:
    """Room for the statistics of as many rows as x has: (blocks, 2, width) in fp32."""
    return x.new_empty((-(-x.shape[0] // STAT_ROWS), 2, width), dtype=torch.float32)


def partials(x: Tensor) -> Tensor:
    """Statistics of x (M, D) by blocks of STAT_ROWS rows: (blocks, 2, D) of mean and M2."""
    m, d = x.shape
    out = empty_statistics(x, d)
    norm_kernels.fused_norm_partials[(len(out),)](x, out, m, D=d, ROWS=STAT_ROWS, COLUMNS=_pad(d), num_warps=4)
    return out


def unite(parts: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """Mean and biased variance (D,) of all rows from their blocks."""
    blocks, _, d = parts.shape
    mean, var = (parts.new_empty(d) for _ in range(2))
    norm_kernels.fused_norm_unite[(triton.cdiv(d, 4),)](
        parts, mean, var, rows, PARTS=blocks, D=d, ROWS=STAT_ROWS, COLUMNS=4, BLOCKS=256, num_warps=4
    )
    return mean, var


def linear(
    x: Tensor, weight: Tensor, bias: Tensor, norm: Norm | None = None, residual: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """norm(x) weight^T + bias + residual, and its statistics by blocks (empty without residual)."""
    (m, i), o = x.shape, weight.shape[0]
    y = x.new_empty((m, o))
    columns = _pad(o) if residual is not None else min(128, _pad(o))
    parts = x.new_empty((triton.cdiv(m, STAT_ROWS) if residual is not None else 0, 2, o), dtype=torch.float32)
    statistics, eps = _norm_arguments(norm, bias)
    grid = (triton.cdiv(m, STAT_ROWS), triton.cdiv(o, columns))
    linear_kernels.fused_linear_forward[grid](
        x, weight, bias, *statistics, residual if residual is not None else x, y, parts, eps, m,
        IN=i, OUT=o, ROWS=STAT_ROWS, INNER=min(128, _pad(i)), COLUMNS=columns, NORM=norm is not None,
        RESIDUAL=residual is not None, PRECISION=precision(x), num_warps=4, num_stages=1,
    )  # fmt: skip
    return y, parts


def linear_backward(dy: Tensor, weight: Tensor, x: Tensor, norm: Norm | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """dy weight (M, I); sums over rows, a norm's own (2 I) before the bias' gradient (O,); the weight's (O, I)."""
    (m, o), i = dy.shape, weight.shape[1]
    blocks, sums = triton.cdiv(m, STAT_ROWS), 2 * i if norm is not None else 0
    dx = dy.new_empty((m, i))
    xn = torch.empty_like(x) if norm is not None else x
    partial = dy.new_empty((blocks, sums + o), dtype=torch.float32)
    statistics, eps = _norm_arguments(norm, weight)
    linear_kernels.fused_linear_backward[(blocks,)](
        dy, weight, x, *statistics, dx, xn, partial, eps, m,
        IN=i, OUT=o, ROWS=STAT_ROWS, INNER=min(64, _pad(o)), COLUMNS=_pad(i), NORM=norm is not None,
        PRECISION=precision(dy), num_warps=4, num_stages=3,
    )  # fmt: skip
    return dx, add_up(partial), over_rows(dy, xn)


def over_rows(left: Tensor, right: Tensor) -> Tensor:
    """left^T right for (M, A) and (M, B): (A, B) in fp32."""
    if left.is_cuda and left.dtype != torch.float32:
        return torch.mm(left.t(), right, out_dtype=torch.float32)
    return left.t().float() @ right.float()


def norm_backward(
    dxn: Tensor, x: Tensor, residual: Tensor | None, norm: Norm, sums: Tensor, *, training: bool
) -> Tensor:
    """Gradient of x (M, D) from that of norm(x), plus the residual's; `sums` begins with the norm's (2 D)."""
    m, d = x.shape
    dx = torch.empty_like(x)
    norm_kernels.fused_norm_backward[(triton.cdiv(m, 64),)](
        dxn, x, residual if residual is not None else dxn, norm.mean, norm.var, norm.gamma, sums, dx, norm.eps, m,
        D=d, ROWS=64, COLUMNS=_pad(d), TRAINING=training, RESIDUAL=residual is not None, num_warps=8,
    )  # fmt: skip
    return dx


def feed_forward(x: Tensor, norm: Norm, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> tuple[Tensor, Tensor]:
    """x + w2 gelu(w1 norm(x) + b1) + b2, and its statistics by blocks."""
    (m, d), f = x.shape, w1.shape[0]
    y = torch.empty_like(x)
    parts = empty_statistics(x, d)
    feed_forward_kernels.fused_feed_forward[(len(parts),)](
        x, *norm.at(), w1, b1, w2, b2, y, parts, norm.eps, m,
        D=d, F=f, ROWS=STAT_ROWS, COLUMNS=_pad(d), SLICE=min(32, _pad(f)), PRECISION=precision(x),
        num_warps=4, num_stages=3,
    )  # fmt: skip
    return y, parts


def feed_forward_backward(
    dy: Tensor, x: Tensor, norm: Norm, w1: Tensor, b1: Tensor, w2: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradient of the norm's output (M, D); sums over rows: the norm's (2 D), db2 (D,), db1 (F,); then dw1 and dw2."""
    (m, d), f = x.shape, w1.shape[0]
    blocks = triton.cdiv(m, STAT_ROWS)
    dxn, xn = torch.empty_like(x), torch.empty_like(x)
    g, dh = x.new_empty((m, f)), x.new_empty((m, f))
    partial = x.new_empty((blocks, 3 * d + f), dtype=torch.float32)
    feed_forward_kernels.fused_feed_forward_backward[(blocks,)](
        dy, x, *norm.at(), w1, b1, w2, dxn, xn, g, dh, partial, norm.eps, m,
        D=d, F=f, ROWS=STAT_ROWS, COLUMNS=_pad(d), SLICE=min(64, _pad(f)), PRECISION=precision(x),
        num_warps=4, num_stages=1,
    )  # fmt: skip
    return dxn, add_up(partial), over_rows(dh, xn), over_rows(dy, g)


def add_up(partial: Tensor) -> Tensor:
    """Sum over the first dimension of (parts, size), fp32, always in the same order."""
    parts, size = partial.shape
    total = partial.new_empty(size)
    block = min(1024, _pad(parts))
    norm_kernels.fused_sum_partials[(triton.cdiv(size, 16),)](
        partial, total, PARTS=parts, SIZE=size, BLOCK=block, COLUMNS=16, num_warps=8
    )
    return total


def _norm_arguments(norm: Norm | None, unread: Tensor) -> tuple[tuple[Tensor, ...], float]:
    """What a kernel with an optional norm takes; without one it reads none of the tensors."""
    return (norm.at(), norm.eps) if norm is not None else ((unread,) * 4, 0.0)


def _pad(size: int) -> int:
    return max(16, triton.next_power_of_2(size))
