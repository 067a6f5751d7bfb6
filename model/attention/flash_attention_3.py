"""flash_attention_3: FlashAttention-3, the Hopper kernels of the flash-attention repository (its folder hopper/).

Limits: hopper/flash_api.cpp (dtype, head_dim) and hopper/flash_bwd_launch_template.h (sequences on the grid's third
axis; its dQ accumulator has 64-bit strides). Its interface wraps forward and backward as operators of torch since
late 2025; an older build runs in the eager engine only, since torch.compile then stops at it with an error.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from model.attention.base import (
    Workload,
    half_precision_reason,
    has_module,
    head_dim_reason,
    no_dropout_reason,
    package_reason,
    refuse_mask,
    sequences_reason,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

# Not "..flash..": transformers takes any name with "flash" in it for its own use of the package.
TRANSFORMERS_NAME = "package_fa3"
INSTALL = (
    'pip install --no-build-isolation "flash_attn_3 @ '
    'git+https://github.com/Dao-AILab/flash-attention.git#subdirectory=hopper"'
)


@dataclass(frozen=True)
class FlashAttention3:
    """flash_attn_interface.flash_attn_func: Hopper only, half precision, no dropout."""

    name: str = "flash_attention_3"
    description: str = "FlashAttention-3, built from the flash-attention repository; Hopper (9.0) only, no dropout"
    # cutlass::device_kernel<flash::enable_sm90_or_later<flash::FlashAttnFwdSm90<...>>>
    kernel_patterns: tuple[str, ...] = (r"flash::FlashAttnFwdSm", r"flash::FlashAttnBwdSm")
    cpu_patterns: tuple[str, ...] = ()

    def unsupported_reason(self, work: Workload) -> str | None:
        """fp16 or bf16, capability 9.0 exactly, head_dim a multiple of 8 up to 256, no attention dropout."""
        if work.device_type != "cuda":
            return "flash_attention_3 has no CPU kernel: use eager or sdpa_flash here, or a Hopper GPU"
        if work.capability is not None and work.capability != (9, 0):
            return (
                "flash_attention_3 has kernels for compute capability 9.0 (H100, H200) and this GPU has "
                f"{work.capability[0]}.{work.capability[1]}: use flash_attention_2 or sdpa_efficient"
            )
        return (
            half_precision_reason(self.name, work)
            or head_dim_reason(self.name, work, multiple=8, most=256)
            or no_dropout_reason(self.name, work)
            or sequences_reason(self.name, work)
        )

    def missing_package(self, *, importing: bool) -> str | None:
        """What to do where the hopper build is absent or does not fit this torch."""
        module = "flash_attn_interface" if importing else None
        return package_reason(self.name, install=INSTALL, present=has_module("flash_attn_interface"), module=module)

    def register(self) -> str:
        """Installs the function under a name of ours; calling it again changes nothing.

        ImportError where the package is there and broken; where it is absent, calling the function raises it.
        """
        from transformers import AttentionInterface

        if self.missing_package(importing=False) is None:
            importlib.import_module("flash_attn_interface")  # here, so that none happens while a model is traced
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
    refuse_mask("flash_attention_3", attention_mask)
    if dropout:
        raise ValueError("flash_attention_3 has no attention dropout: set model.attention_dropout=0")
    from flash_attn_interface import flash_attn_func

    # The package takes (B*C, N, K, E), the layout that the projections wrote.
    query, key, value = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
    output = flash_attn_func(query, key, value, softmax_scale=scaling, causal=False)
    output = output[0] if isinstance(output, tuple) else output  # builds of 2024 return the log-sum-exp beside it
    return output.contiguous(), None
