"""A layer of the encoder by the Hopper operators, where they take it: its weights packed once, then its sublayers.

Shapes: M rows, D model width, W = heads x head width, F FFN width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from model.fused.hopper import ops
from model.fused.hopper.launch import Packed
from model.fused.hopper.reason import hopper_reason

DTYPES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}


def packed_weights(layer: Any, x: Tensor, *, activation: str, dropout: float) -> Packed | None:
    """The weights of a PatchTSTEncoderLayer for rows like x (M, D); None where plain Triton kernels compute it.

    dropout: the highest rate inside the layer.
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
    norm1, norm2 = layer.norm_sublayer1.batchnorm, layer.norm_sublayer3.batchnorm
    with torch.no_grad():
        return Packed(
            *ops.pack(
                *_weights(attention), *_biases(attention), norm1.weight, norm1.bias, attention.out_proj.weight,
                up.weight, up.bias, norm2.weight, norm2.bias, down.weight, x.dtype,
            )
        )  # fmt: skip


def attention_projections(rows: Any, attention: Any, packed: Packed, *, training: bool) -> tuple[Tensor, Tensor]:
    """q, k and v (M, 3 W) of the batch norm of rows.x (M, D), and the residual rows.x. rows: a `paths.Normed`."""
    return ops.NormLinear.apply(
        rows.x, rows.mean, rows.var, rows.gamma, rows.beta, *_weights(attention), *_biases(attention), packed.qkv,
        packed.qkv_bias, rows.eps, training, torch.is_grad_enabled(),
    )  # fmt: skip


def output_projection(
    x: Tensor, projection: nn.Linear, packed: Packed, residual: Tensor, *, statistics: bool
) -> tuple[Tensor, Tensor]:
    """residual (M, D) + projection(x) for x (M, W), and its statistics by blocks of rows if asked for."""
    return ops.linear_add(x, projection.weight, projection.bias, packed.out, residual, statistics)


def feed_forward(
    rows: Any, up: Any, down: Any, packed: Packed, *, training: bool, statistics: bool
) -> tuple[Tensor, Tensor]:
    """x + down(gelu(up(norm(x)))) for rows.x (M, D), and its statistics by blocks of rows if asked for."""
    return ops.feed_forward(
        rows.x, rows.mean, rows.var, rows.gamma, rows.beta, up.weight, up.bias, down.weight, down.bias, packed.up,
        packed.up_bias, packed.down, rows.eps, training, torch.is_grad_enabled(), statistics,
    )[:2]  # fmt: skip


@torch.compiler.assume_constant_result
def capability(device: torch.device) -> tuple[int, int] | None:
    """Compute capability of a GPU; None for another device."""
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else None


def _weights(attention: Any) -> tuple[Tensor, ...]:
    return attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight


def _biases(attention: Any) -> tuple[Tensor, ...]:
    return attention.q_proj.bias, attention.k_proj.bias, attention.v_proj.bias
