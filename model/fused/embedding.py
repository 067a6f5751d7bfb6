"""The first lines of the fused encoder: patches to rows, positions, positional dropout, and the first statistics.

Shapes: B batch, C channels, N patches, P patch length, D model width; M = B C N rows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from model.fused.ops import norm_partials


def embed(encoder: Any, patch_input: Tensor, *, statistics: bool) -> tuple[Tensor, Tensor | None]:
    """patch_input (B, C, N, P) -> rows (M, D) in the autocast type, and their statistics by blocks (blocks, 2, D).

    encoder: a PatchTSTEncoder, whose `embedder` and `positional_encoder` are used. statistics: whether they are asked
    for; else None.
    """
    hidden_BCND = encoder.positional_encoder(encoder.embedder(patch_input))
    x_MD = hidden_BCND.to(compute_type(hidden_BCND)).reshape(-1, hidden_BCND.shape[-1])
    with torch.no_grad():  # the operators that use the statistics compute their part of the gradient
        partials = norm_partials(x_MD) if statistics else None
    return x_MD, partials


def compute_type(x: Tensor) -> torch.dtype:
    """The type in which the layers compute: autocast's, or that of x."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
