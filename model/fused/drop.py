"""Dropout as an operator without a gradient of its own: its backward pass is the operator itself, on the gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from model.fused import embedding_launch


@torch.library.custom_op("patchtst::drop", mutates_args=())
def drop(x: Tensor, seed: Tensor, site: int, drop_level: int) -> Tensor:
    """dropout(x) for x (M, D), by the mask of that seed (1,) and site (`dropout.dropout_mask`)."""
    return embedding_launch.drop(x.contiguous(), seed, site, drop_level)


@drop.register_fake
def _(x: Tensor, seed: Tensor, site: int, drop_level: int) -> Tensor:
    return x.new_empty(x.shape)
