"""How much memory the gate's fp64 reference needs. Pure arithmetic: plans use it too.

Shapes: B batch, C channels, N patches, K heads, D model width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from model.flops import count_patches


def patches(model: Mapping[str, Any]) -> int:
    """N of a model with these arguments of build_model."""
    names = ("context_length", "patch_length", "patch_stride")
    return count_patches(**{name: model[name] for name in names}, end_padding=model.get("end_padding", False))


def bytes_of_a_window(model: Mapping[str, Any], heads: int) -> int:
    """Memory of an fp64 training step for each window of its batch, estimated.

    In each layer a step keeps about four tensors of scores (B*C, K, N, N), four of feed-forward width, sixteen of D.
    """
    wide, tokens = 16 * model["d_model"] + 4 * model["ffn_dim"], patches(model)
    return int(8 * model["num_layers"] * model["num_channels"] * tokens * (4 * heads * tokens + wide))


def reference_bytes(model: Mapping[str, Any], heads: int, batch_size: int) -> int:
    """Memory of the fp64 training step at a trial's batch, estimated."""
    return batch_size * bytes_of_a_window(model, heads)
