"""A stand-in for the flash-attn package, which needs a GPU: same arguments and layout, in plain PyTorch."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AttentionInterface  # noqa: F401  imported first: transformers must not find the stand-in


def plain_attention(q_SNKE: Tensor, k_SNKE: Tensor, v_SNKE: Tensor, scale: float, causal: bool) -> Tensor:
    """Attention of shape (S, N, K, E), computed in fp32 and rounded to the type of `q_SNKE`."""
    scores_SKNN = torch.einsum("snke,smke->sknm", q_SNKE.float(), k_SNKE.float()) * scale
    if causal:
        later = torch.ones(scores_SKNN.shape[-2:], dtype=torch.bool).triu(1)
        scores_SKNN = scores_SKNN.masked_fill(later, -torch.inf)
    return torch.einsum("sknm,smke->snke", scores_SKNN.softmax(-1), v_SNKE.float()).to(q_SNKE.dtype)


@pytest.fixture(name="flash_calls")
def flash_calls_fixture(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Install the stand-in where `import flash_attn` finds it. Returns the list of its calls' arguments."""
    calls: list[dict[str, Any]] = []

    def flash_attn_func(
        q: Tensor, k: Tensor, v: Tensor, dropout_p: float = 0.0, softmax_scale: Any = None, causal: bool = False
    ) -> Tensor:
        calls.append({"dtype": {q.dtype, k.dtype, v.dtype}, "dropout_p": dropout_p, "causal": causal})
        return plain_attention(q, k, v, softmax_scale, causal)

    module = ModuleType("flash_attn")
    module.flash_attn_func = flash_attn_func  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flash_attn", module)
    return calls
