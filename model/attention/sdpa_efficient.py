"""sdpa_efficient: PyTorch's memory-efficient attention (the CUTLASS kernel that came from xFormers).

Limits: aten/src/ATen/native/transformers/cuda/sdp_utils.cpp (minimum_gemm_alignment, check_head_dim_size_mem_efficient,
check_mem_efficient_hardware_support) and attention.cu of PyTorch 2.11.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from model.attention.base import (
    AttentionFunction,
    Backend,
    Workload,
    no_cpu_reason,
    refuse_mask,
    takes_gradient,
)
from model.attention.pieces import MostSequences, grid_limit

if TYPE_CHECKING:
    from torch import Tensor, nn


def attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, dropout: float = 0.0,
    scaling: float | None = None, **_: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """Attention over N patches: (B*C, K, N, E) -> (B*C, N, K, E), contiguous; no weights. ValueError for a mask."""
    import torch

    refuse_mask("sdpa_efficient", attention_mask)
    output = torch.ops.aten._scaled_dot_product_efficient_attention(
        query, key, value, None, takes_gradient(query, key, value), dropout, False, scale=scaling
    )[0]
    return output.transpose(1, 2).contiguous(), None


@dataclass(frozen=True)
class SdpaEfficient(Backend):
    """torch.ops.aten._scaled_dot_product_efficient_attention: CUDA only, fp32 and half precision."""

    name: str = "sdpa_efficient"
    description: str = "PyTorch's memory-efficient fused kernel (CUTLASS); CUDA only"
    transformers_name: str = "aten_efficient"
    kernel_patterns: tuple[str, ...] = (r"fmha_cutlassF", r"fmha_cutlassB")
    function: AttentionFunction = attend
    most_sequences: MostSequences | None = grid_limit

    def unsupported_reason(self, work: Workload) -> str | None:
        """CUDA, an aligned head_dim, bf16 only from compute capability 8.0."""
        if work.device_type != "cuda":
            return no_cpu_reason(self.name, "CUDA")
        capability = work.capability
        if work.precision == "bf16" and capability is not None and capability < (8, 0):
            return (
                f"sdpa_efficient needs compute capability 8.0 for bf16, this GPU has {capability[0]}.{capability[1]}: "
                "use fp16 or fp32, or eager"
            )
        alignment = _head_dim_alignment(capability, half=work.precision in ("bf16", "fp16"))
        if work.head_dim % alignment:
            return (
                f"sdpa_efficient needs a head_dim divisible by {alignment} in {work.precision} and got "
                f"{work.head_dim}: change model.d_model or model.num_heads, or use eager"
            )
        return None


def _head_dim_alignment(capability: tuple[int, int] | None, *, half: bool) -> int:
    """What head_dim must be divisible by: 16 bytes where tensor cores are used, 4 elements from 8.0 on."""
    if capability is None or capability >= (8, 0):
        return 8 if half else 4
    return 8 if half and capability >= (7, 0) else 1
