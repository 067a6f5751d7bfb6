"""eager: matrix product, softmax, matrix product, as transformers' PatchTST does it. The reference of every gate.

It is not transformers' own function. Inductor's pattern matcher replaces that sequence of operators by
F.scaled_dot_product_attention (torch/_inductor/fx_passes/fuse_attention.py, PyTorch 2.11), so the compiled arm named
eager would run another backend. Here softmax reads the scores as one matrix, a view that costs nothing. That is the
same arithmetic and matches none of the patterns; a test checks it for the installed PyTorch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from model.attention.base import AttentionFunction, Backend, Workload, refuse_mask

if TYPE_CHECKING:
    from torch import Tensor, nn


def attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, dropout: float = 0.0,
    scaling: float | None = None, **_: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """Attention over N patches: (B*C, K, N, E) -> (B*C, N, K, E), contiguous; no weights. ValueError for a mask."""
    import torch

    refuse_mask("eager", attention_mask)
    scores = torch.matmul(query, key.transpose(2, 3)) * (query.size(-1) ** -0.5 if scaling is None else scaling)
    weights = torch.softmax(scores.flatten(0, 2), dim=-1)
    weights = torch.nn.functional.dropout(weights, p=dropout, training=module.training).view(scores.shape)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), None


@dataclass(frozen=True)
class Eager(Backend):
    """Plain PyTorch: the (N, N) scores are written to memory and read again."""

    name: str = "eager"
    description: str = "matmul, softmax, matmul in plain PyTorch; runs everywhere; the reference"
    transformers_name: str = "eager_unfused"
    # Without compilation softmax_warp_forward/backward; compiled, inductor names its kernel triton_..._softmax_...
    kernel_patterns: tuple[str, ...] = (r"(?i)softmax(?!\w*backward)", r"(?i)softmax\w*backward")
    cpu_patterns: tuple[str, ...] = (r"aten::_softmax$", r"aten::_softmax_backward_data$")
    function: AttentionFunction = attend

    def unsupported_reason(self, work: Workload) -> str | None:
        """None: it runs on every device, precision and shape."""
        return None
