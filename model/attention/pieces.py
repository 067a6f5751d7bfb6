"""More sequences than a kernel takes at once, computed in pieces.

Sequences are independent, so output and gradients of a piece are those of the whole; a backend that gives the same
bits each time still does. Attention dropout draws another mask than one launch would, with the same chances. The price
is one launch more per piece and a copy of the output.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

# CUDA's limit for the second and third dimension of a kernel's grid, where the fused kernels put the sequences
# (pytorch/pytorch#142228, #146704; CUDA C++ Programming Guide, "Technical Specifications per Compute Capability").
MAX_GRID_YZ = 65_535
# FlashAttention-2's backward pass indexes its dQ accumulator with a 32-bit product: q_offset() of
# csrc/flash_attn/src/block_info.h takes the type of its arguments, and flash_bwd_kernel.h passes ints. Past 2^31 it
# reads out of bounds (measured in PriorLabs/TabPFN#1184). The flash-attn package and PyTorch share this code.
MAX_FA2_ACCUMULATOR = 2**31

MostSequences = Callable[[int, int, int], int]  # of one launch, from heads K, patches N and head width E


def grid_limit(heads: int, patches: int, head_dim: int) -> int:
    """For kernels that put the sequences on the grid's second or third axis."""
    return MAX_GRID_YZ


def fa2_limit(heads: int, patches: int, head_dim: int) -> int:
    """For FlashAttention-2, PyTorch's copy and the package's alike; 0 where not even one sequence fits."""
    rows, width = -(-patches // 128) * 128, -(-head_dim // 32) * 32
    return min(MAX_GRID_YZ, MAX_FA2_ACCUMULATOR // (heads * rows * width))


@functools.cache  # one function for each pair: torch.compile looks at which one it is
def in_pieces(attend: Callable[..., tuple[Tensor, None]], most: MostSequences) -> Callable[..., tuple[Tensor, None]]:
    """`attend`, called for pieces of nearly equal size along the first dimension where one launch takes fewer."""

    @functools.wraps(attend)
    def attend_pieces(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
    ) -> tuple[Tensor, None]:
        sequences, heads, patches, head_dim = query.shape
        count = -(-sequences // most(heads, patches, head_dim))
        if count <= 1:
            return attend(module, query, key, value, attention_mask, **options)
        import torch

        parts = zip(*(tensor.tensor_split(count) for tensor in (query, key, value)), strict=True)
        return torch.cat([attend(module, *part, attention_mask, **options)[0] for part in parts]), None

    return attend_pieces
