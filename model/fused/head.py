"""The forecasting head: dropout, flatten and linear layer, with dropout's backward pass inside the product.

The loss stays PyTorch's: under torch.compile bias, scaling back and squared error become one kernel.

Shapes: B batch, C channels, N patches, D model width, H forecast steps; S = B C sequences of I = N D features.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PatchTSTForPrediction
from transformers.models.patchtst.modeling_patchtst import PatchTSTPredictionHead

from model import unproven
from model.fused import ends_launch
from model.fused.drop import drop
from model.fused.dropout import HEAD_SITE, dropout_seed, level
from model.fused.embedding import compute_type


def fuse_head(model: PatchTSTForPrediction) -> None:
    """Lets the head of `model` compute with our kernels where `head_reason` is None; its weights and names stay."""
    if unproven.HEAD and head_reason(model.head) is None:
        model.head.__class__ = FusedHead


def head_reason(head: Any) -> str | None:
    """Why PyTorch's operators compute this head; None where our kernels can."""
    if not head.share_projection:
        return "every channel has a head of its own"
    if head.use_cls_token or head.pooling_type:
        return "the head reads one vector of a sequence, not all of its patches"
    return None if isinstance(head.projection, nn.Linear) else "the head gives a distribution"


class FusedHead(PatchTSTPredictionHead):
    """Replaces the class of a PatchTSTPredictionHead and stores nothing of its own."""

    def forward(self, embedding: Tensor) -> Tensor:
        """embedding (B, C, N, D) -> forecasts (B, H, C) in the autocast type, scaled."""
        b, c, n, d = embedding.shape
        x_SI = embedding.to(compute_type(embedding)).reshape(b * c, n * d)
        drops = self.training and isinstance(self.dropout, nn.Dropout)
        seed, drop_level = (dropout_seed(x_SI), level(self.dropout.p)) if drops else (None, 0)
        y_SH = DroppedLinear.apply(x_SI, self.projection.weight, self.projection.bias, seed, drop_level)
        return y_SH.view(b, c, -1).transpose(2, 1)


class DroppedLinear(torch.autograd.Function):
    """dropout(x) weight^T + bias for x (S, I), weight (H, I) and bias (H,), both fp32; nothing drops without a seed."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, seed: Tensor | None, drop_level: int) -> Tensor:
        rounded = weight.to(x.dtype)
        kept = x if seed is None else drop(x, seed, HEAD_SITE, drop_level)
        ctx.save_for_backward(kept, rounded, seed)
        ctx.drop_level = drop_level
        return torch.nn.functional.linear(kept, rounded, bias.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        kept, rounded, seed = ctx.saved_tensors
        dx, dweight = head_backward(dy.contiguous(), kept, rounded, seed, ctx.drop_level)
        return dx, dweight, dy.sum(0, dtype=torch.float32), None, None


@torch.library.custom_op("patchtst::head_backward", mutates_args=())
def head_backward(
    dy: Tensor, kept: Tensor, weight: Tensor, seed: Tensor | None, drop_level: int
) -> tuple[Tensor, Tensor]:
    """Gradients of x (S, I), in its type, and of weight (H, I), in fp32, from that of the output (S, H).

    kept: what dropout left of x.
    """
    return ends_launch.head_backward(dy, kept, weight, seed, drop_level)


@head_backward.register_fake
def _(dy: Tensor, kept: Tensor, weight: Tensor, seed: Tensor | None, drop_level: int) -> tuple[Tensor, Tensor]:
    return torch.empty_like(kept), torch.empty_like(weight, dtype=torch.float32)
