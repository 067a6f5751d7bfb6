"""sdpa_flash: the FlashAttention-2 that PyTorch ships (CUDA), and its flash kernel for CPUs.

Limits: aten/src/ATen/native/transformers/cuda/sdp_utils.cpp (check_flash_attention_hardware_support,
check_requires_grad_and_head_dim_gt192_constraints_on_sm86_89_or_120) and flash_attn/flash_api.cpp of PyTorch 2.11;
fa2_reason in base.py has those it shares with the flash-attn package.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from model.attention.base import (
    AttentionFunction,
    Backend,
    Workload,
    capability_reason,
    fa2_reason,
    half_precision_reason,
    head_dim_reason,
    refuse_mask,
)
from model.attention.pieces import MostSequences, fa2_limit

if TYPE_CHECKING:
    from torch import Tensor, nn


def attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, dropout: float = 0.0,
    scaling: float | None = None, **_: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """Attention over N patches: (B*C, K, N, E) -> (B*C, N, K, E), contiguous; no weights. ValueError for a mask."""
    import torch

    refuse_mask("sdpa_flash", attention_mask)
    if query.device.type == "cuda":
        output = torch.ops.aten._scaled_dot_product_flash_attention(
            query, key, value, dropout, False, False, scale=scaling
        )[0]
    else:
        output = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, dropout, False, attn_mask=None, scale=scaling
        )[0]
    return output.transpose(1, 2).contiguous(), None


@dataclass(frozen=True)
class SdpaFlash(Backend):
    """torch.ops.aten._scaled_dot_product_flash_attention, on CPUs ..._flash_attention_for_cpu."""

    name: str = "sdpa_flash"
    description: str = "PyTorch's own FlashAttention-2 (half precision on CUDA); its flash kernel on CPU"
    transformers_name: str = "aten_fa2"
    # The flash-attn package has the same kernels in the namespace flash.
    kernel_patterns: tuple[str, ...] = (r"\bpytorch_flash::flash_fwd", r"\bpytorch_flash::flash_bwd")
    cpu_patterns: tuple[str, ...] = (
        r"aten::_scaled_dot_product_flash_attention_for_cpu$",
        r"aten::_scaled_dot_product_flash_attention_for_cpu_backward$",
    )
    function: AttentionFunction = attend
    most_sequences: MostSequences | None = fa2_limit

    def unsupported_reason(self, work: Workload) -> str | None:
        """CPU: no attention dropout. CUDA: fp16 or bf16, capability 8.0, head_dim divisible by 8 and at most 256."""
        if work.device_type != "cuda":
            if work.attention_dropout > 0:
                return "sdpa_flash has no attention dropout on CPU: set model.attention_dropout=0, or use eager"
            return None
        return (
            half_precision_reason(self.name, work)
            or capability_reason(self.name, work, (8, 0), "sdpa_efficient or eager")
            or head_dim_reason(self.name, work, multiple=8, most=256)
            or fa2_reason(self.name, work)
        )
