"""Which operators compute a sublayer of the fused encoder: the one place where a path is chosen.

Shapes: M rows, D model width, W = heads x head width, P the same padded, F FFN width. Statistics come by blocks of 64
rows from every path, so that sublayers of different paths can follow each other. Rates of dropout are those in
training; without a seed nothing is dropped. `packed` weights are those of a layer that the Hopper kernels compute, None
of every other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from model.fused import launch, ops
from model.fused.dropout import Dropout, Rates, level
from model.fused.hopper import path as hopper
from model.fused.hopper.launch import Packed
from model.fused.hopper.path import Residual
from model.fused.norm_linear import NormLinear


@dataclass(frozen=True, kw_only=True)
class Normed:
    """Rows x (M, D) with a norm that the next kernel applies as it reads them.

    kind: "batch" (with mean and var (D,), of x itself in training), "layer" or "none".
    """

    x: Tensor
    kind: str = "none"
    mean: Tensor | None = None
    var: Tensor | None = None
    gamma: Tensor | None = None
    beta: Tensor | None = None
    eps: float = 0.0


def packed_weights(layer: Any, x: Tensor, rates: Rates, norms: tuple[Any, Any]) -> Packed | None:
    """A layer's weights for the Hopper kernels, if they compute it for rows like x (M, D); else None.

    norms: those that its attention and its feed-forward read through; the first one None if there is none.
    """
    dropout = max(rates.attention, rates.feed_forward, rates.feed_forward_path)
    return hopper.packed_weights(layer, x, norms, activation=activation(layer), dropout=dropout)


def activation(layer: Any) -> str:
    """The name of a PatchTSTEncoderLayer's activation."""
    return "relu" if isinstance(layer.ff[1], nn.ReLU) else "gelu"


def attention_projections(
    rows: Normed, attention: Any, packed: Packed | None, *, post: bool, training: bool
) -> tuple[Tensor, Tensor | Residual]:
    """q, k and v of a PatchTSTAttention in one tensor (M, 3 P), and the residual (M, D): x, or norm(x) with `post`.

    The residual is for `output_projection` by the same path. P is W, or W and a head of zeros
    (`launch.whole_sectors`), whose result is zeros, too.
    """
    if packed is not None:
        return hopper.attention_projections(rows, attention, packed, post=post, training=training)
    projections = attention.q_proj, attention.k_proj, attention.v_proj
    width = len(projections[0].weight)
    missing = launch.whole_sectors(width, attention.head_dim) - width
    weight = _joined([projection.weight for projection in projections], missing)
    bias = _joined([projection.bias for projection in projections], missing)
    norm = rows.mean, rows.var, rows.gamma, rows.beta
    return NormLinear.apply(rows.x, *norm, weight, bias, rows.eps, rows.kind, post, training)


def _joined(parts: list[Tensor], missing: int) -> Tensor:
    """All rows of the parts, each with so many rows of zeros after it."""
    if not missing:
        return torch.cat(parts)
    zeros = parts[0].new_zeros(missing, *parts[0].shape[1:])
    return torch.cat([rows for part in parts for rows in (part, zeros)])


def output_projection(
    x: Tensor, projection: nn.Linear, packed: Packed | None, residual: Tensor | Residual, *, drop: Dropout | None,
    rate: float, statistics: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """residual (M, D) + dropout(projection(x)) for x (M, P), and its statistics by blocks of rows if asked for."""
    if packed is not None:
        return hopper.output_projection(x, projection, packed, residual, drop=drop, rate=rate, statistics=statistics)
    seed, site = (drop.seed, drop.site) if drop and rate else (None, 0)
    weight, bias = projection.weight, projection.bias
    if missing := x.shape[1] - weight.shape[1]:  # columns for a head of zeros
        weight = nn.functional.pad(weight, (0, missing))
    rounded = launch.rounded(weight, x)
    return ops.linear_add(x, weight, bias, residual, rounded, seed, site, level(rate) if drop else 0, statistics)


def feed_forward(
    rows: Normed, up: Any, down: Any, packed: Packed | None, *, activation: str, post: bool, drop: Dropout | None,
    inside: float, path: float, training: bool, statistics: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """residual + dropout(down(dropout(f(up(norm(x)))))) (M, D), and its statistics by blocks of rows if asked for.

    The residual is x, or norm(x) with `post`. inside, path: rates after f and before the residual.
    """
    if packed is not None:
        return hopper.feed_forward(
            rows, up, down, packed, post=post, drop=drop, inside=inside, path=path, training=training,
            statistics=statistics,
        )  # fmt: skip
    seed, site = (drop.seed, drop.site) if drop and max(inside, path) else (None, 0)
    levels = (level(inside), level(path)) if drop else (0, 0)
    return ops.feed_forward(
        rows.x, rows.mean, rows.var, rows.gamma, rows.beta, up.weight, up.bias, down.weight, down.bias,
        *(launch.rounded(weight, rows.x) for weight in (up.weight, down.weight)), seed, rows.eps, rows.kind, activation,
        post, site, *levels, training, statistics,
    )  # fmt: skip
