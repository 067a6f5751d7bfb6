"""sdpa_flash: the FlashAttention-2 that PyTorch ships (CUDA), and its flash kernel for CPUs.

Limits: aten/src/ATen/native/transformers/cuda/sdp_utils.cpp (check_flash_attention_hardware_support,
check_requires_grad_and_head_dim_gt192_constraints_on_sm86_89_or_120) and flash_attn/flash_api.cpp of PyTorch 2.11;
fa2_reason in base.py has those it shares with the flash-attn package.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from model.attention.base import (
    Workload,
    capability_reason,
    fa2_reason,
    half_precision_reason,
    head_dim_reason,
    refuse_mask,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

# Not "..flash..": transformers takes any name with "flash" in it for the flash-attn package and tries to import that.
TRANSFORMERS_NAME = "aten_fa2"


@dataclass(frozen=True)
class SdpaFlash:
    """torch.ops.aten._scaled_dot_product_flash_attention, on CPUs ..._flash_attention_for_cpu."""

    name: str = "sdpa_flash"
    description: str = "PyTorch's own FlashAttention-2 (half precision on CUDA); its flash kernel on CPU"
    # The flash-attn package has the same kernels in the namespace flash.
    kernel_patterns: tuple[str, ...] = (r"\bpytorch_flash::flash_fwd", r"\bpytorch_flash::flash_bwd")
    cpu_patterns: tuple[str, ...] = (
        r"aten::_scaled_dot_product_flash_attention_for_cpu$",
        r"aten::_scaled_dot_product_flash_attention_for_cpu_backward$",
    )

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

    def missing_package(self, *, importing: bool) -> str | None:
        """None: PyTorch has it."""
        return None

    def register(self) -> str:
        """Installs the function under a name of ours; calling it again changes nothing."""
        from transformers import AttentionInterface

        AttentionInterface.register(TRANSFORMERS_NAME, attend)
        return TRANSFORMERS_NAME


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
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
