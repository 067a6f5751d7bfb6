"""transformers' PatchTST encoder computed by the fused operators; its weights, buffers and names stay.

With norm before a sublayer (pre_norm), rows x pass by it: x + sublayer(norm(x)). With norm after it, what a sublayer
leaves is normalised by the kernels that read it next, as their input and as their residual: norm(x + sublayer(x)).

Shapes: B batch, C channels, N patches, D model width, K heads, E head width; S = B C sequences, M = S N rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PatchTSTForPrediction
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.patchtst.modeling_patchtst import PatchTSTEncoder, eager_attention_forward

from model.attention.packed import PACKED
from model.fused import paths, shape_reason
from model.fused.dropout import Dropout, Rates, attention_site, dropout_seed, feed_forward_site
from model.fused.embedding import embed, position_rate
from model.fused.hopper.launch import Packed
from model.fused.lowering import register_operators
from model.fused.ops import norm_unite, normalise
from model.fused.paths import Normed
from model.guard import Guard
from model.recompute import run_layer

# What a compiled step keeps where layers are computed again: a layer's result, what moves running statistics, and
# weights as kernels read them. The Hopper feed-forward's normalised rows come with its result.
KEPT = (
    torch.ops.patchtst.feed_forward.default,
    torch.ops.patchtst_hopper.feed_forward.default,
    torch.ops.patchtst.norm_unite.default,
    torch.ops.patchtst_hopper.pack.default,
)
Run = Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor]]


def fuse(model: PatchTSTForPrediction, rates: Rates | None = None) -> PatchTSTForPrediction:
    """`model` itself, with an encoder that computes with the fused operators on the same parameters.

    rates: of dropout in every layer; None takes those of the model's own layers. ValueError for a configuration that
    the operators do not support.
    """
    config = model.config
    reason = shape_reason(d_model=config.d_model, ffn_dim=config.ffn_dim, activation=config.activation_function)
    if reason:
        raise ValueError(reason)
    register_operators()
    model.model.encoder.__class__ = FusedEncoder
    model.model.encoder.rates = rates
    return model


class FusedEncoder(PatchTSTEncoder):
    """Replaces the class of a PatchTSTEncoder."""

    rates: Rates | None = None

    def forward(self, patch_input: Tensor, **_: Any) -> BaseModelOutput:
        """patch_input [B, C, N, P] -> last_hidden_state [B, C, N, D] in the autocast type; no attention weights."""
        b, c, n, _ = patch_input.shape
        pre, batch = self.config.pre_norm, self.training and self.config.norm_type == "batchnorm"
        rates = [self.rates or Rates.of(layer) for layer in self.layers]
        drops = any(rate.any for rate in rates) or position_rate(self) > 0
        seed = dropout_seed(patch_input) if self.training and drops else None
        x_MD, partials = embed(self, patch_input, statistics=pre and batch, seed=seed)
        for number, rate in enumerate(rates):
            run = self._layer(number, rate, seed, n, batch)
            if self.gradient_checkpointing:
                x_MD, partials = run_layer(self.layers, run, x_MD, partials, kept=KEPT)
            else:
                x_MD, partials = run(x_MD, partials)
        if not pre:
            rows = _normed(self.layers[-1].norm_sublayer3, x_MD, partials)
            x_MD = normalise(x_MD, rows.mean, rows.var, rows.gamma, rows.beta, rows.eps, rows.kind, self.training)
        return BaseModelOutput(last_hidden_state=x_MD.view(b, c, n, -1))

    def _layer(self, number: int, rate: Rates, seed: Tensor | None, n: int, batch: bool) -> Run:
        """The function of a layer: what the sublayer before it left, with its statistics, to what it leaves itself."""
        layer, pre = self.layers[number], self.config.pre_norm
        last = pre and number == len(self.layers) - 1  # no norm follows
        before = layer.norm_sublayer1 if pre else self.layers[number - 1].norm_sublayer3
        after = layer.norm_sublayer3 if pre else layer.norm_sublayer1

        def run(x_MD: Tensor, partials: Tensor | None) -> tuple[Tensor, Tensor]:
            drop = None if seed is None else Dropout(seed=seed, site=attention_site(number))
            rows = _normed(before, x_MD, partials) if pre or number else Normed(x=x_MD)
            packed = paths.packed_weights(layer, x_MD, rate, (before if pre or number else None, after))
            x_MD, partials = _attention_sublayer(layer, packed, rows, n, drop, rate, batch)
            drop = None if seed is None else Dropout(seed=seed, site=feed_forward_site(number))
            rows = _normed(after, x_MD, partials)
            return _feed_forward_sublayer(layer, packed, rows, drop, rate, batch and not last)

        return run


class GuardedFusedEncoder(Guard, FusedEncoder):
    """A fused encoder that computes only what was checked."""

    keeps_states = False


def _attention_sublayer(
    layer: Any, packed: Packed | None, rows: Normed, n: int, drop: Dropout | None, rates: Rates, statistics: bool
) -> tuple[Tensor, Tensor]:
    attention = layer.self_attn
    qkv, residual = paths.attention_projections(
        rows, attention, packed, post=not layer.pre_norm, training=layer.training
    )
    qkv_SN3KE = qkv.view(-1, n, 3, qkv.shape[1] // (3 * attention.head_dim), attention.head_dim)
    out_MW = _attend(attention, qkv_SN3KE).reshape(len(rows.x), -1)
    return paths.output_projection(
        out_MW, attention.out_proj, packed, residual, drop=drop, rate=rates.attention, statistics=statistics
    )


def _attend(attention: Any, qkv_SN3KE: Tensor) -> Tensor:
    """(S, N, 3, K, E) -> (S, N, K, E)"""
    name = attention.config._attn_implementation
    if name in PACKED:
        return PACKED[name](qkv_SN3KE, attention.scaling)
    function = AttentionInterface().get_interface(name, eager_attention_forward)
    q_SKNE, k_SKNE, v_SKNE = (part.transpose(1, 2) for part in qkv_SN3KE.unbind(2))
    dropout = attention.dropout if attention.training else 0.0
    return function(attention, q_SKNE, k_SKNE, v_SKNE, None, dropout=dropout, scaling=attention.scaling)[0]


def _feed_forward_sublayer(
    layer: Any, packed: Packed | None, rows: Normed, drop: Dropout | None, rates: Rates, statistics: bool
) -> tuple[Tensor, Tensor]:
    return paths.feed_forward(
        rows,
        layer.ff[0],
        layer.ff[3],
        packed,
        activation=paths.activation(layer),
        post=not layer.pre_norm,
        drop=drop,
        inside=rates.feed_forward,
        path=rates.feed_forward_path,
        training=layer.training,
        statistics=statistics,
    )


def _normed(module: Any, x_MD: Tensor, partials: Tensor | None) -> Normed:
    """x with the norm of `module`: its running statistics, or in training those of x, which also move the running."""
    if isinstance(module, nn.LayerNorm):
        return Normed(x=x_MD, kind="layer", gamma=module.weight, beta=module.bias, eps=module.eps)
    norm = module.batchnorm
    mean, var = norm.running_mean, norm.running_var
    if norm.training:
        assert partials is not None
        with torch.no_grad():
            mean, var = norm_unite(partials, len(x_MD), mean, var, norm.num_batches_tracked, norm.momentum)
    return Normed(x=x_MD, kind="batch", mean=mean, var=var, gamma=norm.weight, beta=norm.bias, eps=norm.eps)
