"""sdpa_cudnn: cuDNN's fused attention, through the operator that PyTorch has for it.

Limits: aten/src/ATen/native/transformers/cuda/sdp_utils.cpp of PyTorch (check_cudnn_tensor_shapes, check_cudnn_dropout,
check_cudnn_hardware_support); it takes wider heads than 128 on some pairs of GPU and cuDNN, which we do not use.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from model.attention.base import (
    AttentionFunction,
    Backend,
    Workload,
    capability_reason,
    half_precision_reason,
    head_dim_reason,
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

    refuse_mask("sdpa_cudnn", attention_mask)
    output = torch.ops.aten._scaled_dot_product_cudnn_attention(
        query, key, value, None, takes_gradient(query, key, value), dropout, False, False, scale=scaling
    )[0]
    return output.transpose(1, 2).contiguous(), None


@dataclass(frozen=True)
class SdpaCudnn(Backend):
    """torch.ops.aten._scaled_dot_product_cudnn_attention: CUDA only, half precision only."""

    name: str = "sdpa_cudnn"
    description: str = "cuDNN's fused kernel, as PyTorch ships it; CUDA from capability 8.0, half precision"
    transformers_name: str = "aten_cudnn"
    # cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_7_64x128x128_4x1x1_cga1x1x1_kernel0_0
    kernel_patterns: tuple[str, ...] = (r"cudnn\w*_sdpa_\w*fprop", r"cudnn\w*_sdpa_\w*bprop")
    function: AttentionFunction = attend
    most_sequences: MostSequences | None = grid_limit

    def unsupported_reason(self, work: Workload) -> str | None:
        """fp16 or bf16, capability 8.0, head_dim a multiple of 8 up to 128, 2 patches, dropout in sixteenths."""
        if work.device_type != "cuda":
            return no_cpu_reason(self.name, "CUDA")
        return (
            half_precision_reason(self.name, work)
            or capability_reason(self.name, work, (8, 0), "sdpa_efficient or eager")
            or head_dim_reason(self.name, work, multiple=8, most=128)
            or _cudnn_reason(work)
        )


def _cudnn_reason(work: Workload) -> str | None:
    if work.patches < 2:
        return f"sdpa_cudnn needs at least 2 patches and got {work.patches}: lower model.patch_length, or use eager"
    if (work.attention_dropout * 16) % 1:
        return (
            f"sdpa_cudnn drops attention weights in sixteenths only and got {work.attention_dropout}: "
            "set model.attention_dropout to a multiple of 0.0625, or use sdpa_efficient or eager"
        )
    return None
