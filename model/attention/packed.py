"""Attention functions, by transformers' name, that take q, k and v packed as one projection leaves them: no copies.

A function takes (S, N, 3, K, E) and the scale, and gives (S, N, K, E). Backends without one get three views.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from model.attention.patch import Patch


def _patch(qkv: Tensor, scale: float) -> Tensor:
    from model.attention.patch_op import patch_attention_packed

    return patch_attention_packed(qkv, scale)[0]


PACKED: dict[str, Callable[[Tensor, float], Tensor]] = {Patch.transformers_name: _patch}
