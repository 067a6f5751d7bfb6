"""transformers' PatchTST encoder computed by the fused operators; its weights, buffers and names stay.

Shapes: B batch, C channels, N patches, D model width, K heads, E head width; S = B C sequences, M = S N rows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PatchTSTForPrediction
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.patchtst.modeling_patchtst import PatchTSTEncoder, eager_attention_forward

from model.attention.packed import PACKED
from model.fused import paths, shape_reason
from model.fused.embedding import embed
from model.fused.ops import norm_unite


def fuse(model: PatchTSTForPrediction) -> PatchTSTForPrediction:
    """`model` itself, with an encoder that computes with the fused operators on the same parameters.

    ValueError for a configuration that they do not support.
    """
    config = model.config
    reason = shape_reason(
        d_model=config.d_model,
        ffn_dim=config.ffn_dim,
        norm_type=config.norm_type,
        pre_norm=config.pre_norm,
        dropout=max(config.path_dropout, config.ff_dropout),
    )
    if reason:
        raise ValueError(reason)
    model.model.encoder.__class__ = FusedEncoder
    return model


class FusedEncoder(PatchTSTEncoder):
    """Replaces the class of a PatchTSTEncoder and stores nothing of its own."""

    def forward(self, patch_input: Tensor, **_: Any) -> BaseModelOutput:
        """patch_input [B, C, N, P] -> last_hidden_state [B, C, N, D] in the autocast type; no attention weights."""
        b, c, n, _ = patch_input.shape
        x_MD, partials = embed(self, patch_input, statistics=self.training)
        for layer in self.layers:
            x_MD, partials = _attention_sublayer(layer, x_MD, partials, n)
            x_MD, partials = _feed_forward_sublayer(layer, x_MD, partials)
        return BaseModelOutput(last_hidden_state=x_MD.view(b, c, n, -1))


def _attention_sublayer(layer: Any, x_MD: Tensor, partials: Tensor | None, n: int) -> tuple[Tensor, Tensor]:
    attention, norm = layer.self_attn, layer.norm_sublayer1.batchnorm
    projections = attention.q_proj, attention.k_proj, attention.v_proj
    weight = torch.cat([projection.weight for projection in projections])
    bias = torch.cat([projection.bias for projection in projections])
    mean, var = _statistics(norm, partials, len(x_MD))
    qkv = paths.attention_projections(x_MD, mean, var, norm, weight, bias, layer.training)
    qkv_SN3KE = qkv.view(-1, n, 3, qkv.shape[1] // (3 * attention.head_dim), attention.head_dim)
    out_MW = _attend(attention, qkv_SN3KE).reshape(len(x_MD), -1)
    return paths.output_projection(out_MW, attention.out_proj, x_MD)


def _attend(attention: Any, qkv_SN3KE: Tensor) -> Tensor:
    """(S, N, 3, K, E) -> (S, N, K, E)"""
    name = attention.config._attn_implementation
    if name in PACKED:
        return PACKED[name](qkv_SN3KE, attention.scaling)
    function = AttentionInterface().get_interface(name, eager_attention_forward)
    q_SKNE, k_SKNE, v_SKNE = (part.transpose(1, 2) for part in qkv_SN3KE.unbind(2))
    dropout = attention.dropout if attention.training else 0.0
    return function(attention, q_SKNE, k_SKNE, v_SKNE, None, dropout=dropout, scaling=attention.scaling)[0]


def _feed_forward_sublayer(layer: Any, x_MD: Tensor, partials: Tensor | None) -> tuple[Tensor, Tensor]:
    norm = layer.norm_sublayer3.batchnorm
    mean, var = _statistics(norm, partials, len(x_MD))
    return paths.feed_forward(x_MD, mean, var, norm, layer.ff[0], layer.ff[3], layer.training)


def _statistics(norm: nn.BatchNorm1d, partials: Tensor | None, rows: int) -> tuple[Tensor, Tensor]:
    """Mean and variance (D,): in training of these rows, which also update the running ones; else the running ones."""
    if not norm.training:
        return norm.running_mean, norm.running_var
    assert partials is not None
    with torch.no_grad():
        mean, var = norm_unite(partials, rows)
        norm.running_mean.lerp_(mean, norm.momentum)
        norm.running_var.lerp_(var * (rows / (rows - 1)), norm.momentum)
        norm.num_batches_tracked.add_(1)
    return mean, var
