"""Remove heads from a model and its optimizer, permanently.

A head is E rows of q_proj, k_proj and v_proj with their biases and E columns of out_proj: 4 D E + 3 E parameters of a
layer. The remaining model computes exactly what masking the head's output would.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from model.heads import attention_layers, heads_per_layer
from model.residual.reason import PRUNED

MOMENTS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")


def select_heads(scores: Sequence[Tensor], kept: Sequence[Sequence[int]], count: int) -> dict[int, set[int]]:
    """The original numbers of the `count` heads of lowest score in each layer; ties go to the lower number.

    Raises ValueError if a layer would be left without a head.
    """
    chosen: dict[int, set[int]] = {}
    for layer, (score, heads) in enumerate(zip(scores, kept, strict=True)):
        if count >= len(heads):
            raise ValueError(f"layer {layer} has {len(heads)} heads and would lose {count}: at least one must stay")
        order = sorted(range(len(heads)), key=lambda index: (score[index].item(), heads[index]))  # noqa: B023
        chosen[layer] = {heads[index] for index in order[:count]}
    return chosen


def remove_heads(model: nn.Module, optimizer: torch.optim.Optimizer | None, heads: Mapping[int, set[int]]) -> None:
    """Remove `heads` (layer -> original head numbers) from weights, biases, config and the optimizer's moments.

    Smaller parameters replace the old ones, in the optimizer too. Moments of what stays are kept bit for bit, gradients
    are dropped. Raises ValueError, with nothing changed, for a layer or head that is not there, if a layer would be
    left without a head, and for residual attention.
    """
    kept = heads_per_layer(model)
    if getattr(model.config, "residual_attention", False):
        raise ValueError(PRUNED)
    for layer, gone in heads.items():
        if not 0 <= layer < len(kept):
            raise ValueError(f"there is no layer {layer}: the model has layers 0 to {len(kept) - 1}")
        if missing := sorted(gone - set(kept[layer])):
            raise ValueError(f"layer {layer} has no head {missing[0]} (left: {kept[layer]})")
        if len(gone) >= len(kept[layer]):
            raise ValueError(f"layer {layer} would be left without a head: at least one must stay")
    for layer, gone in heads.items():
        if gone:
            stay = [index for index, head in enumerate(kept[layer]) if head not in gone]
            _cut_layer(attention_layers(model)[layer], optimizer, stay)
            kept[layer] = [kept[layer][index] for index in stay]
    config: Any = model.config
    config.kept_heads = kept


def _cut_layer(attention: Any, optimizer: torch.optim.Optimizer | None, stay: list[int]) -> None:
    width = attention.head_dim
    device = attention.q_proj.weight.device
    rows = torch.tensor([head * width + offset for head in stay for offset in range(width)], device=device)
    for projection in (attention.q_proj, attention.k_proj, attention.v_proj):
        _cut(projection, "weight", optimizer, rows, 0)
        _cut(projection, "bias", optimizer, rows, 0)
        projection.out_features = len(rows)
    _cut(attention.out_proj, "weight", optimizer, rows, 1)
    attention.out_proj.in_features = len(rows)


def _cut(module: nn.Module, name: str, optimizer: torch.optim.Optimizer | None, index: Tensor, dimension: int) -> None:
    old = getattr(module, name)
    if old is None:
        return
    new = nn.Parameter(old.detach().index_select(dimension, index), requires_grad=old.requires_grad)
    setattr(module, name, new)
    if optimizer is None:
        return
    for group in optimizer.param_groups:
        group["params"] = [new if parameter is old else parameter for parameter in group["params"]]
    state = optimizer.state.pop(old, None)
    if state:
        optimizer.state[new] = {
            key: value.index_select(dimension, index) if key in MOMENTS else value for key, value in state.items()
        }
