"""sdpa_flash: the FlashAttention-2 that PyTorch ships (CUDA), and its flash kernel for CPUs.

Limits: aten/src/ATen/native/transformers/cuda/sdp_utils.cpp (check_flash_attention_hardware_support,
check_requires_grad_and_head_dim_gt192_constraints_on_sm86_89_or_120) and flash_attn/flash_api.cpp of PyTorch 2.11.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from model.attention.base import MAX_GRID_YZ, Workload

if TYPE_CHECKING:
    from torch import Tensor, nn

# Not "..flash..": transformers takes any name with "flash" in it for the flash-attn package and tries to import that.
TRANSFORMERS_NAME = "aten_fa2"
# The CUDA backward pass indexes its dQ accumulator with 32 bits: B*C x K x N rounded up to 128 x E at least 32.
# Past 2^31 it reads outside of it (reported and measured in PriorLabs/TabPFN#1184, PyTorch's kernel).
MAX_ACCUMULATOR = 2**31


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
        if work.precision not in ("bf16", "fp16"):
            return f"sdpa_flash computes in bf16 or fp16 on CUDA and got {work.precision}: set train.precision=bf16"
        capability = work.capability
        if capability is not None and capability < (8, 0):
            return (
                f"sdpa_flash needs compute capability 8.0 and this GPU has {capability[0]}.{capability[1]}: "
                "use sdpa_efficient or eager"
            )
        return _shape_reason(work)

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

    if attention_mask is not None:
        raise ValueError("sdpa_flash got an attention mask, which PatchTST has none of: use eager")
    if query.device.type == "cuda":
        output = torch.ops.aten._scaled_dot_product_flash_attention(
            query, key, value, dropout, False, False, scale=scaling
        )[0]
    else:
        output = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, dropout, False, attn_mask=None, scale=scaling
        )[0]
    return output.transpose(1, 2).contiguous(), None


def _shape_reason(work: Workload) -> str | None:
    capability = work.capability
    if work.head_dim % 8 or work.head_dim > 256:
        return (
            f"sdpa_flash needs a head_dim divisible by 8 and at most 256 on CUDA and got {work.head_dim}: "
            "change model.d_model or model.num_heads, or use eager"
        )
    small_shared_memory = capability is not None and ((8, 6) <= capability <= (8, 9) or capability >= (12, 0))
    if small_shared_memory and work.head_dim > 192 and (work.head_dim <= 224 or work.attention_dropout > 0):
        return (
            f"sdpa_flash cannot train with head_dim {work.head_dim} on this GPU generation: "
            "raise model.num_heads so that head_dim is at most 192, or use sdpa_efficient"
        )
    if work.sequences > MAX_GRID_YZ:
        return (
            f"sdpa_flash takes at most {MAX_GRID_YZ:,} sequences (batch x channels) at once and got "
            f"{work.sequences:,}: lower train.batch_size, or use eager"
        )
    if work.num_heads is not None:
        rows = -(-work.patches // 128) * 128
        accumulator = work.sequences * work.num_heads * rows * max(work.head_dim, 32)
        if accumulator > MAX_ACCUMULATOR:
            return (
                f"sdpa_flash's backward pass indexes at most 2^31 elements and {work.sequences:,} sequences of "
                f"{work.num_heads} heads make {accumulator:,}: lower train.batch_size, or use sdpa_efficient or eager"
            )
    return None
