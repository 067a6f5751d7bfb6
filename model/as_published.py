"""Arms of the study that this project replaces, as published. They are neither in BACKENDS nor in SCORES.

github.com/divyatadimeti/patchtst_flashattention, described from its patchtst_flash.py and pruning_utils.py. Its flash
arm is another function than its vanilla arm. It sees only earlier patches, leaves the output projection out, and casts
queries, keys and values to fp16 while everything else is fp32. Two of the classes here each correct one of these, to
show the effect of each. Its vanilla arm is transformers' model, unchanged.

Shapes: S sequences (batch x channels), N patches, K heads, E head width, D = K E model width.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.patchtst.modeling_patchtst import PatchTSTAttention

from model.heads import attention_layers

KERNEL_DTYPE = torch.float16


class PublishedFlash(PatchTSTAttention):
    """The study's flash arm: causal, without output projection, in fp16. Needs the flash-attn package and a GPU."""

    causal = True
    projects_out = False

    def forward(self, hidden_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, None]:
        """(S, N, D) -> (S, N, D) in the type of the input; no weights. Masks are ignored, as they were."""
        shape_SNKE = (*hidden_states.shape[:2], -1, self.head_dim)
        q_SNKE, k_SNKE, v_SNKE = (
            projection(hidden_states).view(shape_SNKE).to(KERNEL_DTYPE)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        from flash_attn import flash_attn_func

        dropout = self.dropout if self.training else 0.0
        out_SNKE = flash_attn_func(
            q_SNKE, k_SNKE, v_SNKE, dropout_p=dropout, softmax_scale=self.scaling, causal=self.causal
        )
        out_SND = out_SNKE.to(hidden_states.dtype).flatten(2)
        return self.out_proj(out_SND) if self.projects_out else out_SND, None


class BidirectionalFlash(PublishedFlash):
    """PublishedFlash where every patch sees all patches."""

    causal = False


class CompleteFlash(BidirectionalFlash):
    """BidirectionalFlash with the output projection: vanilla's function, its attention in fp16."""

    projects_out = True


FLASH: dict[str, type[PublishedFlash]] = {
    "flash": PublishedFlash,
    "flash_bidirectional": BidirectionalFlash,
    "flash_complete": CompleteFlash,
}


def use_published_attention(model: nn.Module, name: str) -> None:
    """Give every layer of `model` the attention `name` of FLASH; weights and their names stay. KeyError for another."""
    for attention in attention_layers(model):
        attention.__class__ = FLASH[name]


def unread_parameters(model: nn.Module) -> set[nn.Parameter]:
    """Parameters that the forward pass does not read, so that they get no gradient: the skipped output projections'."""
    skipped = (part for part in model.modules() if isinstance(part, PublishedFlash) and not part.projects_out)
    return {parameter for attention in skipped for parameter in attention.out_proj.parameters()}


def zero_head_columns(model: nn.Module, heads: Collection[int]) -> None:
    """The study's pruning of `heads` in every layer: input columns of the q, k and v weights, rows of their biases.

    This removes no head. A head's own weights are rows, so every head loses the same inputs. No parameter is removed,
    and since the zeros are not recorded, the next update overwrites them.
    """
    for attention in attention_layers(model):
        _zero_columns(attention, heads)


def _zero_columns(attention: PatchTSTAttention, heads: Iterable[int]) -> None:
    width = attention.head_dim
    for projection in _projections(attention):
        for head in heads:
            columns = slice(head * width, (head + 1) * width)
            with torch.no_grad():
                projection.weight[:, columns] = 0
                projection.bias[columns] = 0


def zero_weakest_heads(model: nn.Module) -> None:
    """The study's dynamic pruning: rank heads by the norm of their weights, zero columns for the weakest.

    Raises AttributeError at its first statement, which reads a layer's `device`: a module has none. Otherwise it would
    zero every head, since it overwrites its own argument with the number of heads.
    """
    for attention in attention_layers(model):
        layer: Any = attention
        norms_K = torch.zeros(layer.num_heads).to(layer.device)
        for projection in _projections(attention):
            norms_K += projection.weight.detach().unflatten(0, (layer.num_heads, -1)).norm(dim=(1, 2))
        _zero_columns(attention, norms_K.topk(layer.num_heads, largest=False).indices.tolist())


def _projections(attention: PatchTSTAttention) -> tuple[nn.Linear, nn.Linear, nn.Linear]:
    return attention.q_proj, attention.k_proj, attention.v_proj
