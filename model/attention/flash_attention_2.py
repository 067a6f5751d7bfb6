"""flash_attention_2: FlashAttention-2 from the flash-attn package, whose build is newer than PyTorch's copy.

Limits: csrc/flash_attn/flash_api.cpp and flash_attn/flash_attn_interface.py of flash-attn 2.8.3 (head_dim is padded to
a multiple of 8 there; the grid has the sequences on its second axis); fa2_reason in base.py has those it shares with
PyTorch's copy. The package wraps its kernels as operators of torch, so torch.compile sees one graph.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from model.attention.base import (
    AttentionFunction,
    Backend,
    Workload,
    capability_reason,
    fa2_reason,
    half_precision_reason,
    has_module,
    head_dim_reason,
    no_cpu_reason,
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
    refuse_mask("flash_attention_2", attention_mask)
    from flash_attn import flash_attn_func

    # The package takes (B*C, N, K, E), the layout that the projections wrote.
    query, key, value = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
    output = flash_attn_func(query, key, value, dropout_p=dropout, softmax_scale=scaling, causal=False)
    return output.contiguous(), None


@dataclass(frozen=True)
class FlashAttention2(Backend):
    """flash_attn.flash_attn_func: CUDA only, half precision only."""

    name: str = "flash_attention_2"
    description: str = "FlashAttention-2 of the flash-attn package; CUDA from capability 8.0, half precision"
    transformers_name: str = "package_fa2"
    # PyTorch's copy is in the namespace pytorch_flash.
    kernel_patterns: tuple[str, ...] = (r"(?<!\w)flash::flash_fwd", r"(?<!\w)flash::flash_bwd")
    function: AttentionFunction = attend
    most_sequences: MostSequences | None = fa2_limit
    module: str | None = "flash_attn.flash_attn_interface"
    install: str = "pip install --no-build-isolation -r requirements-gpu.txt"

    def unsupported_reason(self, work: Workload) -> str | None:
        """fp16 or bf16, capability 8.0, head_dim at most 256."""
        if work.device_type != "cuda":
            return no_cpu_reason(self.name, "CUDA")
        return (
            half_precision_reason(self.name, work)
            or capability_reason(self.name, work, (8, 0), "sdpa_efficient or eager")
            or head_dim_reason(self.name, work, multiple=1, most=256)
            or fa2_reason(self.name, work)
        )

    def is_installed(self) -> bool:
        """By the extension's name: flash-attn-4 alone has a folder flash_attn too."""
        return has_module("flash_attn_2_cuda")

    def register(self) -> str:
        """As Backend.register, with the package imported here, so that no import happens while a model is traced.

        ImportError for a broken package; where it is absent, calling the function raises it.
        """
        if self.missing_package(importing=False) is None:
            importlib.import_module("flash_attn")
        return super().register()
