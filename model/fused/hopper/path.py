"""A layer of the encoder by the Hopper operators, where they take it: its weights packed once, then its sublayers.

Shapes: M rows, D model width, W = heads x head width, F FFN width.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from model.fused.dropout import Dropout, level
from model.fused.hopper import ops
from model.fused.hopper.launch import Packed
from model.fused.hopper.reason import hopper_reason


class Residual(NamedTuple):
    """What is added to a sublayer's output: rows (M, D), by gamma and beta (D,) if they are given."""

    rows: Tensor
    gamma: Tensor | None = None
    beta: Tensor | None = None
    sums: Tensor | None = None  # holds nothing; its gradient is the sums that gamma's and beta's gradients need


DTYPES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}


def packed_weights(layer: Any, x: Tensor, norms: tuple[Any, Any], *, activation: str, dropout: float) -> Packed | None:
    """The weights of a PatchTSTEncoderLayer for rows like x (M, D); None where plain Triton kernels compute it.

    norms: those that its attention and its feed-forward read through; the first one None if there is none. dropout:
    the highest rate inside the layer.
    """
    attention, up, down = layer.self_attn, layer.ff[0], layer.ff[3]
    reason = hopper_reason(
        d_model=x.shape[1],
        ffn_dim=up.out_features,
        head_dim=attention.head_dim,
        norm_type="layernorm" if isinstance(layer.norm_sublayer1, nn.LayerNorm) else "batchnorm",
        pre_norm=layer.pre_norm,
        activation=activation,
        dropout=dropout,
        dtype=DTYPES.get(x.dtype, str(x.dtype)),
        capability=capability(x.device),
    )
    if reason is not None:
        return None
    norm1, norm2 = norms[0] and norms[0].batchnorm, norms[1].batchnorm
    with torch.no_grad():
        gamma, beta = (norm1.weight, norm1.bias) if norm1 is not None else _identity(up.weight)
        return Packed(
            *ops.pack(
                *_weights(attention), *_biases(attention), gamma, beta, attention.out_proj.weight,
                up.weight, up.bias, norm2.weight, norm2.bias, down.weight, x.dtype,
            )
        )  # fmt: skip


def attention_projections(
    rows: Any, attention: Any, packed: Packed, *, post: bool, training: bool
) -> tuple[Tensor, Residual]:
    """q, k and v (M, 3 W) of the batch norm of rows.x (M, D), and the residual: rows.x, or its norm with `post`.

    rows: a `paths.Normed`; those without a norm are taken as they are.
    """
    gamma, beta = (rows.gamma, rows.beta) if rows.kind != "none" else _identity(attention.q_proj.weight)
    qkv, residual, sums = ops.NormLinear.apply(
        rows.x, rows.mean, rows.var, gamma, beta, *_weights(attention), *_biases(attention), packed.qkv,
        packed.qkv_bias, rows.eps, training, torch.is_grad_enabled(), post,
    )  # fmt: skip
    return qkv, Residual(residual, gamma, beta, sums) if post else Residual(residual)


def output_projection(
    x: Tensor, projection: nn.Linear, packed: Packed, residual: Residual, *, drop: Dropout | None, rate: float,
    statistics: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """residual (M, D) + dropout(projection(x)) for x (M, W), and its statistics by blocks of rows if asked for."""
    seed, site = (drop.seed, drop.site) if drop and rate else (None, 0)
    return ops.linear_add(
        x, projection.weight, projection.bias, packed.out, *residual, seed, site, level(rate) if drop else 0, statistics
    )


def feed_forward(
    rows: Any, up: Any, down: Any, packed: Packed, *, post: bool, drop: Dropout | None, inside: float, path: float,
    training: bool, statistics: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """residual + dropout(down(dropout(gelu(up(norm(x)))))) (M, D), and its statistics by blocks if asked for.

    The residual is x, or norm(x) with `post`. inside, path: rates after gelu and before the residual.
    """
    seed, site = (drop.seed, drop.site) if drop and max(inside, path) else (None, 0)
    levels = (level(inside), level(path)) if drop else (0, 0)
    return ops.feed_forward(
        rows.x, rows.mean, rows.var, rows.gamma, rows.beta, up.weight, up.bias, down.weight, down.bias, packed.up,
        packed.up_bias, packed.down, seed, rows.eps, post, site, *levels, training, torch.is_grad_enabled(), statistics,
    )[:2]  # fmt: skip


@torch.compiler.assume_constant_result
def capability(device: torch.device) -> tuple[int, int] | None:
    """Compute capability of a GPU; None for another device."""
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else None


def _weights(attention: Any) -> tuple[Tensor, ...]:
    return attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight


def _biases(attention: Any) -> tuple[Tensor, ...]:
    return attention.q_proj.bias, attention.k_proj.bias, attention.v_proj.bias


def _identity(like: Tensor) -> tuple[Tensor, Tensor]:
    """gamma and beta (D,) of no norm, for a weight (O, D)."""
    return like.new_ones(like.shape[1]), like.new_zeros(like.shape[1])
