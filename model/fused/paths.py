"""Which operators compute a sublayer of the fused encoder: the one place where a path is chosen.

Shapes: M rows, D model width, W = heads x head width, F FFN width. Statistics come by blocks of 64 rows from every
path, so that sublayers of different paths can follow each other.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from model.fused import ops


def attention_projections(
    x: Tensor, mean: Tensor, var: Tensor, norm: nn.BatchNorm1d, weight: Tensor, bias: Tensor, training: bool
) -> Tensor:
    """norm(x) for x (M, D), then weight (3 W, D) and bias: q, k and v in one tensor (M, 3 W)."""
    return ops.norm_linear(x, mean, var, norm.weight, norm.bias, weight, bias, norm.eps, training)


def output_projection(x: Tensor, projection: nn.Linear, residual: Tensor) -> tuple[Tensor, Tensor]:
    """residual (M, D) + projection(x) for x (M, W), and the statistics of it by blocks of rows."""
    return ops.linear_add(x, projection.weight, projection.bias, residual)


def feed_forward(
    x: Tensor, mean: Tensor, var: Tensor, norm: nn.BatchNorm1d, up: Any, down: Any, training: bool
) -> tuple[Tensor, Tensor]:
    """x + down(gelu(up(norm(x)))) for x (M, D), and the statistics of it by blocks of rows."""
    return ops.feed_forward(
        x, mean, var, norm.weight, norm.bias, up.weight, up.bias, down.weight, down.bias, norm.eps, training
    )
