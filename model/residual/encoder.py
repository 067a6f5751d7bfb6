"""transformers' encoder with residual attention: three of its classes hand scores from layer to layer.

Scores must be in memory, so attention is a function of its own, and neither a fused kernel nor the fused layers.

Shapes: S sequences (batch x channels), N patches, K heads, E head width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PatchTSTForPrediction
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.patchtst.modeling_patchtst import PatchTSTAttention, PatchTSTEncoder, PatchTSTEncoderLayer

ATTENTION = "eager_residual"  # `attn_implementation` of these models


def use_residual_attention(model: PatchTSTForPrediction) -> None:
    """Give the encoder of `model` the classes below; weights and their names stay."""
    AttentionInterface.register(ATTENTION, attend)
    model.config._attn_implementation = ATTENTION
    encoder: Any = model.model.encoder
    encoder.__class__ = ResidualEncoder
    for layer in encoder.layers:
        layer.__class__ = ResidualLayer
        layer.self_attn.__class__ = ResidualAttention


class ResidualEncoder(PatchTSTEncoder):
    """Replaces the class of a PatchTSTEncoder."""

    def forward(self, patch_input: Tensor, **_: Any) -> BaseModelOutput:
        """patch_input [B, C, N, P] -> last_hidden_state [B, C, N, D]; neither hidden states nor attention weights."""
        hidden_BCND, scores = self.positional_encoder(self.embedder(patch_input)), None
        for layer in self.layers:
            hidden_BCND, scores = layer(hidden_BCND, scores)
        return BaseModelOutput(last_hidden_state=hidden_BCND)


class ResidualLayer(PatchTSTEncoderLayer):
    """Replaces the class of a PatchTSTEncoderLayer."""

    def forward(self, hidden_state: Tensor, scores_SKNN: Tensor | None) -> tuple[Tensor, Tensor]:
        """The layer's output [B, C, N, D] and its scores, from its input and the scores of the layer before it."""
        attention: Any = self.self_attn
        attention.scores_before = scores_SKNN
        try:
            hidden_BCND, scores = super().forward(hidden_state, output_attentions=True)
        finally:
            attention.scores_before = None
        return hidden_BCND, scores


class ResidualAttention(PatchTSTAttention):
    """Replaces the class of a PatchTSTAttention. Its mask holds the scores of the layer before."""

    scores_before: Tensor | None = None

    def forward(self, hidden_states: Tensor, **_: Any) -> tuple[Tensor, Tensor]:
        """(S, N, D) -> (S, N, D), and the scores (S, K, N, N) before the softmax, with those before them added."""
        return super().forward(hidden_states, attention_mask=self.scores_before)


def attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, dropout: float = 0.0,
    scaling: float | None = None, **_: Any,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """(S, K, N, E) -> (S, N, K, E), contiguous, and the scores (S, K, N, N) with `attention_mask` added."""
    scores = torch.matmul(query, key.transpose(2, 3)) * (query.size(-1) ** -0.5 if scaling is None else scaling)
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = torch.softmax(scores.flatten(0, 2), dim=-1)  # of a view, as model/attention/eager.py says
    weights = nn.functional.dropout(weights, p=dropout, training=module.training).view(scores.shape)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), scores
