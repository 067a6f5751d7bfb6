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
    AttentionFunction,
    Backend,
    Workload,
    half_precision_reason,
    head_dim_reason,
    no_cpu_reason,
    no_dropout_reason,
    refuse_dropout,
    refuse_mask,
)
from model.attention.pieces import MostSequences, grid_limit

if TYPE_CHECKING:
    from torch import Tensor, nn


def attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, dropout: float = 0.0,
    scaling: float | None = None, **_: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """Attention over N patches: (B*C, K, N, E) -> (B*C, N, K, E), contiguous; no weights. ValueError for a mask."""
    refuse_mask("flash_attention_3", attention_mask)
    refuse_dropout("flash_attention_3", dropout)
    from flash_attn_interface import flash_attn_func

    # The package takes (B*C, N, K, E), the layout that the projections wrote.
    query, key, value = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
    output = flash_attn_func(query, key, value, softmax_scale=scaling, causal=False)
    output = output[0] if isinstance(output, tuple) else output  # builds of 2024 return the log-sum-exp beside it
    return output.contiguous(), None


@dataclass(frozen=True)
class FlashAttention3(Backend):
    """flash_attn_interface.flash_attn_func: Hopper only, half precision, no dropout."""

    name: str = "flash_attention_3"
    description: str = "FlashAttention-3, built from the flash-attention repository; Hopper (9.0) only, no dropout"
    transformers_name: str = "package_fa3"
    # cutlass::device_kernel<flash::enable_sm90_or_later<flash::FlashAttnFwdSm90<...>>>
    kernel_patterns: tuple[str, ...] = (r"flash::FlashAttnFwdSm", r"flash::FlashAttnBwdSm")
    function: AttentionFunction = attend
    most_sequences: MostSequences | None = grid_limit
    module: str | None = "flash_attn_interface"
    install: str = (
        'pip install --no-build-isolation "flash_attn_3 @ '
        'git+https://github.com/Dao-AILab/flash-attention.git#subdirectory=hopper"'
    )

    def unsupported_reason(self, work: Workload) -> str | None:
        """fp16 or bf16, capability 9.0 exactly, head_dim a multiple of 8 up to 256, no attention dropout."""
        if work.device_type != "cuda":
            return no_cpu_reason(self.name, "Hopper")
        if work.capability is not None and work.capability != (9, 0):
            return (
                "flash_attention_3 has kernels for compute capability 9.0 (H100, H200) and this GPU has "
                f"{work.capability[0]}.{work.capability[1]}: use flash_attention_2 or sdpa_efficient"
            )
        return (
            half_precision_reason(self.name, work)
            or head_dim_reason(self.name, work, multiple=8, most=256)
            or no_dropout_reason(self.name, work)
        )

    def register(self) -> str:
        """As Backend.register, with the package imported here, so that no import happens while a model is traced.

        ImportError for a broken package; where it is absent, calling the function raises it.
        """
        if self.missing_package(importing=False) is None:
            importlib.import_module("flash_attn_interface")
        return super().register()
