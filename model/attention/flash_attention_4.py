"""flash_attention_4: FlashAttention-4, written in CuTe-DSL (package flash-attn-4, module flash_attn.cute).

Limits: flash_attn/cute/interface.py of flash-attn-4 4.0.0b36 (_validate_head_dims, dtypes; there is no dropout) and
tile_scheduler.py (sequences on the grid's third axis). Its functions compile kernels in Python when they are called,
which torch.compile cannot trace: forward and backward are wrapped as two operators of ours.
"""

from __future__ import annotations

import functools
import importlib.metadata
import sys
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

FORWARD = "(Tensor q, Tensor k, Tensor v, float scale) -> (Tensor, Tensor)"
BACKWARD = (
    "(Tensor grad, Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse, float scale) -> (Tensor, Tensor, Tensor)"
)


def attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, dropout: float = 0.0,
    scaling: float | None = None, **_: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """Attention over N patches: (B*C, K, N, E) -> (B*C, N, K, E), contiguous; no weights. ValueError for a mask."""
    import torch

    refuse_mask("flash_attention_4", attention_mask)
    refuse_dropout("flash_attention_4", dropout)
    scaling = query.size(-1) ** -0.5 if scaling is None else scaling
    # The package takes (B*C, N, K, E), the layout that the projections wrote.
    query, key, value = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
    output, _log_sum_exp = torch.ops.attention_package.fa4_forward(query, key, value, scaling)
    return output, None


@dataclass(frozen=True)
class FlashAttention4(Backend):
    """flash_attn.cute: Hopper and Blackwell, half precision, no dropout."""

    name: str = "flash_attention_4"
    description: str = "FlashAttention-4 of the flash-attn-4 package; Hopper (9.0) and Blackwell (10.x), no dropout"
    transformers_name: str = "package_fa4"
    # kernel_cutlass_kernel_flash_attncuteflash_fwd_sm90FlashAttentionForwardSm90_object_at__tensor...
    kernel_patterns: tuple[str, ...] = (r"FlashAttentionForwardSm", r"FlashAttentionBackwardSm")
    function: AttentionFunction = attend
    most_sequences: MostSequences | None = grid_limit
    module: str | None = "flash_attn.cute.interface"
    install: str = 'pip install --pre "flash-attn-4[cu13]"'

    def unsupported_reason(self, work: Workload) -> str | None:
        """fp16 or bf16, capability 9.0 or 10.x, head_dim a multiple of 8 up to 256 (10.x: 128), no dropout."""
        if work.device_type != "cuda":
            return no_cpu_reason(self.name, "Hopper or Blackwell")
        if work.capability is not None and work.capability != (9, 0) and work.capability[0] != 10:
            return (
                "flash_attention_4 trains on compute capability 9.0 and 10.x and this GPU has "
                f"{work.capability[0]}.{work.capability[1]}: use flash_attention_2 or sdpa_efficient"
            )
        widest = 256 if work.capability is None or work.capability == (9, 0) else 128
        return (
            half_precision_reason(self.name, work)
            or head_dim_reason(self.name, work, multiple=8, most=widest)
            or no_dropout_reason(self.name, work)
        )

    def is_installed(self) -> bool:
        """By the package's name: the flash_attn.cute inside of flash-attn 2.8 is unfinished."""
        if "flash_attn.cute.interface" in sys.modules:
            return True
        try:
            importlib.metadata.version("flash-attn-4")
        except importlib.metadata.PackageNotFoundError:
            return False
        return True

    def register(self) -> str:
        """As Backend.register, with our two operators defined."""
        _operator()
        return super().register()


@functools.cache
def _operator() -> Any:
    """Defines attention_package::fa4_forward and ::fa4_backward once: opaque to torch.compile, with their gradients."""
    import torch

    @torch.library.custom_op("attention_package::fa4_forward", mutates_args=(), schema=FORWARD)
    def forward(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        from flash_attn.cute.interface import _flash_attn_fwd

        output, log_sum_exp = _flash_attn_fwd(q, k, v, softmax_scale=scale, causal=False, return_lse=True)[:2]
        return output, log_sum_exp

    @forward.register_fake
    def _(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        sequences, patches, heads, _width = q.shape
        return q.new_empty(q.shape), q.new_empty((sequences, heads, patches), dtype=torch.float32)

    @torch.library.custom_op("attention_package::fa4_backward", mutates_args=(), schema=BACKWARD)
    def backward(
        grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, scale: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        from flash_attn.cute.interface import _flash_attn_bwd

        dq, dk, dv = q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)
        _flash_attn_bwd(q, k, v, out, grad.contiguous(), lse, softmax_scale=scale, causal=False, dq=dq, dk=dk, dv=dv)
        return dq, dk, dv

    @backward.register_fake
    def _(
        grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, scale: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)

    def save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(*inputs[:3], *output)
        ctx.scale = inputs[3]

    def differentiate(ctx: Any, grad: Tensor, _grad_lse: Tensor) -> tuple[Any, ...]:
        return (*backward(grad, *ctx.saved_tensors, ctx.scale), None)

    forward.register_autograd(differentiate, setup_context=save)
    return forward
