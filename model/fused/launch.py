"""Launches of the fused kernels: grids and scratch memory. No autograd here; importing this imports triton.

Shapes: M rows (batch x channels x patches), D model width, I and O inputs and outputs of a linear layer, F FFN width.
Activations come in the autocast type; weights in that or in fp32; statistics, sums over rows and gradients of weights
are fp32.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import triton
from torch import Tensor

from model.fused import feed_forward_kernels, linear_kernels, norm_kernels
from model.fused.tiles import choose

# Up to this width the backward kernels add up the weights' gradients themselves. A block then writes and reads 16 D F
# bytes of parts, where g and dh take 512 F, and the products of a narrow model leave most of a GPU idle.
MOST_INSIDE = 32
SUM_COLUMNS = 16  # of a program that adds up: few, so that there are many; the order of the sum does not depend on it
SECTOR = 16  # columns of 16 bits in 32 bytes, what memory moves at once
STAT_ROWS = 64  # rows of a block of statistics, and so of a program of every kernel that makes them


@dataclass(frozen=True, kw_only=True)
class Norm:
    """A norm as a prologue. kind: "none", "batch" or "layer". Tensors (D,) fp32; only batch norm has mean and var."""

    kind: str = "none"
    mean: Tensor | None = None
    var: Tensor | None = None
    gamma: Tensor | None = None
    beta: Tensor | None = None
    eps: float = 0.0

    def at(self, unread: Tensor) -> tuple[Tensor, ...]:
        """mean, var, gamma, beta as a kernel takes them; it does not read those that are missing."""
        return tuple(unread if part is None else part for part in (self.mean, self.var, self.gamma, self.beta))


@dataclass(frozen=True, kw_only=True)
class Drop:
    """Dropout in a kernel: the seed (1,) int64, the first site, and a level for each place; 0 drops nothing."""

    seed: Tensor | None = None
    site: int = 0
    levels: tuple[int, ...] = field(default=(0, 0))


def precision(x: Tensor) -> str:
    """How fp32 factors are multiplied; without effect on half precision."""
    return "tf32" if x.dtype == torch.float32 and torch.get_float32_matmul_precision() != "highest" else "ieee"


def whole_sectors(width: int, head_dim: int) -> int:
    """Columns of q, k and v each, for heads of that width in all: one head of zeros more, or none.

    An odd number of heads 8 wide leaves every second row to begin in the middle of 32 bytes. With a head of zeros none
    does: 5 % less for a layer of 11 heads (docs/measurements.md, 2026-12-01).
    """
    more = width + head_dim
    return more if head_dim % 8 == 0 and width % SECTOR and more % SECTOR == 0 else width


def empty_statistics(x: Tensor, width: int, wanted: bool = True) -> Tensor:
    """Room for the statistics of as many rows as x has: (blocks, 2, width) in fp32; no blocks if none are wanted."""
    return x.new_empty((-(-x.shape[0] // STAT_ROWS) if wanted else 0, 2, width), dtype=torch.float32)


def partials(x: Tensor) -> Tensor:
    """Statistics of x (M, D) by blocks of STAT_ROWS rows: (blocks, 2, D) of mean and M2."""
    m, d = x.shape
    out = empty_statistics(x, d)
    norm_kernels.fused_norm_partials[(len(out),)](x, out, m, D=d, ROWS=STAT_ROWS, COLUMNS=_pad(d), num_warps=4)
    return out


def unite(
    parts: Tensor, rows: int, running_mean: Tensor, running_var: Tensor, batches: Tensor, momentum: float
) -> tuple[Tensor, Tensor]:
    """Mean and biased variance (D,) of all rows from their blocks. Running statistics and their count move on."""
    blocks, _, d = parts.shape
    mean, var = (parts.new_empty(d) for _ in range(2))
    at_once = min(1024, _pad(blocks))
    norm_kernels.fused_norm_unite[(triton.cdiv(d, 4),)](
        parts, mean, var, running_mean, running_var, batches, momentum, rows,
        PARTS=blocks, D=d, ROWS=STAT_ROWS, COLUMNS=4, BLOCKS=at_once, num_warps=8 if at_once > 256 else 4,
    )  # fmt: skip
    return mean, var


def normalise(x: Tensor, norm: Norm) -> Tensor:
    """norm(x) (M, D)."""
    m, d = x.shape
    y = torch.empty_like(x)
    norm_kernels.fused_normalise[(triton.cdiv(m, STAT_ROWS),)](
        x, *norm.at(x), y, norm.eps, m, D=d, ROWS=STAT_ROWS, COLUMNS=_pad(d), NORM=norm.kind, num_warps=4
    )
    return y


def normalise_backward(dy: Tensor, x: Tensor, norm: Norm, *, training: bool) -> tuple[Tensor, Tensor]:
    """Gradient of x (M, D), and the gradients of beta and gamma, one after the other (2 D,)."""
    m, d = x.shape
    blocks = triton.cdiv(m, STAT_ROWS)
    dx = torch.empty_like(x)
    partial = x.new_empty((blocks, 2 * d), dtype=torch.float32)
    mean, var, gamma, _ = norm.at(x)
    norm_kernels.fused_normalise_backward[(blocks,)](
        dy, x, mean, var, gamma, dx, partial, norm.eps, m,
        D=d, ROWS=STAT_ROWS, COLUMNS=_pad(d), NORM=norm.kind, num_warps=4,
    )  # fmt: skip
    sums = add_up(partial)
    return (norm_backward(dy, x, None, norm, sums, training=training) if norm.kind == "batch" else dx), sums


def linear(
    x: Tensor, weight: Tensor, bias: Tensor, norm: Norm | None = None, residual: Tensor | None = None, *,
    drop: Drop | None = None, keep: bool = False, statistics: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """dropout(norm(x) weight^T + bias) + residual, norm(x), and statistics by blocks; the latter two empty if unasked.

    keep: asks for norm(x).
    """
    (m, i), o = x.shape, weight.shape[0]
    norm, drop = norm or Norm(), drop or Drop()
    weight = rounded(weight, x)
    y, xn = x.new_empty((m, o)), x.new_empty((m if keep else 0, i))
    parts = empty_statistics(x, o, statistics)
    columns = _pad(o) if statistics else min(128, _pad(o))
    tile = choose("linear", max(i, columns), x)
    inner = _pad(i) if norm.kind == "layer" else min(tile.step, _pad(i))
    linear_kernels.fused_linear_forward[(triton.cdiv(m, STAT_ROWS), triton.cdiv(o, columns))](
        x, weight, bias, *norm.at(bias), x if residual is None else residual, _seed(drop, x), y, xn, parts,
        norm.eps, drop.site, m,
        IN=i, OUT=o, ROWS=STAT_ROWS, INNER=inner, COLUMNS=columns, NORM=norm.kind, KEEP=keep, LEVEL=drop.levels[0],
        RESIDUAL=residual is not None, STATISTICS=statistics, PRECISION=precision(x), **tile.options,
    )  # fmt: skip
    return y, xn, parts


def linear_backward(
    dy: Tensor, weight: Tensor, x: Tensor, norm: Norm | None = None, residual: Tensor | None = None, *,
    xn: Tensor | None = None, drop: Drop | None = None, training: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """dx (M, I); sums over rows, a norm's own (2 I) before the bias' gradient (O,); the weight's gradient (O, I).

    residual: another gradient of norm(x) if `xn`, which is norm(x), is given; else of x. training: batch norm's
    mean and var are those of x.
    """
    (m, o), i = dy.shape, weight.shape[1]
    norm, drop = norm or Norm(), drop or Drop()
    weight = rounded(weight, x)
    tile = choose("linear_backward", i, x)
    blocks, sums, inside = triton.cdiv(m, STAT_ROWS), 2 * i if norm.kind != "none" else 0, i <= MOST_INSIDE
    before, after = (None, residual) if xn is None else (residual, None)
    dx, keep = dy.new_empty((m, i)), xn is None and norm.kind != "none" and not inside
    if xn is None:
        xn = torch.empty_like(x) if keep else x
    dropped = torch.empty_like(dy) if drop.levels[0] and not inside else dy
    partial = dy.new_empty((blocks, sums + o + (o * i if inside else 0)), dtype=torch.float32)
    adds_later = norm.kind == "batch" and after is not None
    linear_kernels.fused_linear_backward[(blocks,)](
        dy, weight, x, *norm.at(weight), dy if residual is None else residual, _seed(drop, x), dx, xn, dropped, partial,
        norm.eps, drop.site, m,
        IN=i, OUT=o, ROWS=STAT_ROWS, INNER=min(tile.step, _pad(o)), COLUMNS=_pad(i), NORM=norm.kind, KEEP=keep,
        WEIGHTS=inside, LEVEL=drop.levels[0], BEFORE=before is not None, AFTER=after is not None and not adds_later,
        PRECISION=precision(dy), **tile.options,
    )  # fmt: skip
    total, *parts = add_up_into(partial, *([(o, i)] if inside else []))
    if norm.kind == "batch":
        dx = norm_backward(dx, x, after, norm, total, training=training)
    return dx, total, parts[0] if inside else over_rows(dropped, xn)


def over_rows(left: Tensor, right: Tensor) -> Tensor:
    """left^T right for (M, A) and (M, B): (A, B) in fp32."""
    if left.is_cuda and left.dtype != torch.float32:
        return torch.mm(left.t(), right, out_dtype=torch.float32)
    return left.t().float() @ right.float()


def norm_backward(
    dxn: Tensor, x: Tensor, residual: Tensor | None, norm: Norm, sums: Tensor, *, training: bool
) -> Tensor:
    """Batch norm: gradient of x (M, D) from that of norm(x), plus the residual's; `sums` begins with the norm's (2 D).

    training: mean and var are those of x.
    """
    m, d = x.shape
    dx = torch.empty_like(x)
    mean, var, gamma, _ = norm.at(x)
    norm_kernels.fused_norm_backward[(triton.cdiv(m, 64),)](
        dxn, x, residual if residual is not None else dxn, mean, var, gamma, sums, dx, norm.eps, m,
        D=d, ROWS=64, COLUMNS=_pad(d), TRAINING=training, RESIDUAL=residual is not None, num_warps=8,
    )  # fmt: skip
    return dx


def feed_forward(
    x: Tensor, norm: Norm, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, drop: Drop, *,
    activation: str, post: bool, statistics: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """residual + dropout(w2 dropout(f(w1 norm(x) + b1)) + b2), and its statistics by blocks if asked for.

    The residual is x, or norm(x) if `post`.
    """
    (m, d), f = x.shape, w1.shape[0]
    w1, w2 = rounded(w1, x), rounded(w2, x)
    tile = choose("feed_forward", d, x)
    y = torch.empty_like(x)
    parts = empty_statistics(x, d, statistics)
    feed_forward_kernels.fused_feed_forward[(triton.cdiv(m, STAT_ROWS),)](
        x, *norm.at(x), w1, b1, w2, b2, _seed(drop, x), y, parts, norm.eps, drop.site, m,
        D=d, F=f, ROWS=STAT_ROWS, COLUMNS=_pad(d), SLICE=min(tile.step, _pad(f)), NORM=norm.kind, POST=post,
        ACTIVATION=activation, INSIDE=drop.levels[0], PATH=drop.levels[1], STATISTICS=statistics,
        PRECISION=precision(x), **tile.options,
    )  # fmt: skip
    return y, parts


def feed_forward_backward(
    dy: Tensor, x: Tensor, norm: Norm, w1: Tensor, b1: Tensor, w2: Tensor, drop: Drop, *,
    activation: str, post: bool, training: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """dx (M, D); sums over rows: the norm's (2 D), db2 (D,), db1 (F,); then dw1 and dw2."""
    (m, d), f = x.shape, w1.shape[0]
    w1, w2 = rounded(w1, x), rounded(w2, x)
    tile = choose("feed_forward_backward", d, x)
    blocks, inside = triton.cdiv(m, STAT_ROWS), d <= MOST_INSIDE
    dxn, xn = torch.empty_like(x), x if inside else torch.empty_like(x)
    dropped = torch.empty_like(dy) if drop.levels[1] and not inside else dy
    g, dh = (x, x) if inside else (x.new_empty((m, f)), x.new_empty((m, f)))
    partial = x.new_empty((blocks, 3 * d + f + (2 * d * f if inside else 0)), dtype=torch.float32)
    feed_forward_kernels.fused_feed_forward_backward[(blocks,)](
        dy, x, *norm.at(x), w1, b1, w2, _seed(drop, x), dxn, xn, dropped, g, dh, partial, norm.eps, drop.site, m,
        D=d, F=f, ROWS=STAT_ROWS, COLUMNS=_pad(d), SLICE=min(tile.step, _pad(f)), NORM=norm.kind, POST=post,
        ACTIVATION=activation, INSIDE=drop.levels[0], PATH=drop.levels[1], WEIGHTS=inside, PRECISION=precision(x),
        **tile.options,
    )  # fmt: skip
    sums, *parts = add_up_into(partial, *([(f, d), (d, f)] if inside else []))
    if norm.kind == "batch":
        dxn = norm_backward(dxn, x, None if post else dy, norm, sums, training=training)
    dw1, dw2 = parts or (over_rows(dh, xn), over_rows(dropped, g))
    return dxn, sums, dw1, dw2


def add_up(partial: Tensor) -> Tensor:
    """Sum over the first dimension of (parts, size), fp32, always in the same order."""
    return add_up_into(partial)[0]


def add_up_into(partial: Tensor, *shapes: tuple[int, int]) -> list[Tensor]:
    """The same sum in a vector and, for its end, in up to two tensors of those shapes."""
    parts, size = partial.shape
    sizes = [rows * columns for rows, columns in shapes]
    first = size - sum(sizes)
    totals = [partial.new_empty(first), *(partial.new_empty(shape) for shape in shapes)]
    ends = (first, first + sizes[0] if sizes else size)
    norm_kernels.fused_sum_partials[(triton.cdiv(size, SUM_COLUMNS),)](
        partial, totals[0], totals[min(1, len(shapes))], totals[-1],
        PARTS=parts, SIZE=size, FIRST=ends[0], SECOND=ends[1], BLOCK=min(1024, _pad(parts)), COLUMNS=SUM_COLUMNS,
        num_warps=8,
    )  # fmt: skip
    return totals


def rounded(weight: Tensor, x: Tensor) -> Tensor:
    """A small weight as it is, which a program rounds as it reads it; a larger one in the type of x. Without gradient.

    For a small model the launch of a cast costs more than reading 4 bytes instead of 2.
    """
    return weight.detach() if weight.numel() <= 64 * 64 else weight.detach().to(x.dtype)


def _seed(drop: Drop, unread: Tensor) -> Any:
    return unread if drop.seed is None else drop.seed


def _pad(size: int) -> int:
    return max(16, triton.next_power_of_2(size))
