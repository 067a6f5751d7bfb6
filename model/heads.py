"""A PatchTST model's attention layers, the heads left in each, and its parameters. Importable without torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn
    from transformers.models.patchtst.modeling_patchtst import PatchTSTAttention


def attention_layers(model: nn.Module) -> list[PatchTSTAttention]:
    """The self-attention of each encoder layer, in order."""
    return [layer.self_attn for layer in model.model.encoder.layers]


def heads_per_layer(model: nn.Module) -> list[list[int]]:
    """The original numbers of the heads that are left, per layer."""
    config: Any = model.config
    kept = getattr(config, "kept_heads", None)
    if kept is None:
        return [list(range(config.num_attention_heads)) for _ in range(config.num_hidden_layers)]
    return [list(layer) for layer in kept]


def count_parameters(model: nn.Module) -> int:
    """Elements of all parameters, trained or not (the fixed position table counts)."""
    return sum(parameter.numel() for parameter in model.parameters())
