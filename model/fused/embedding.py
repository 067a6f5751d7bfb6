"""The first lines of the fused encoder: patches to rows, positions, positional dropout, and the first statistics.

Shapes: B batch, C channels, N patches, P patch length, D model width; M = B C N rows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from model.fused import embedding_launch, launch
from model.fused.drop import drop
from model.fused.dropout import POSITION_SITE, level
from model.fused.ops import norm_partials
from model.guard import compute_type


def embed(
    encoder: Any, patch_input: Tensor, *, statistics: bool, seed: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """patch_input (B, C, N, P) -> rows (M, D) in the autocast type, and their statistics by blocks (blocks, 2, D).

    encoder: a PatchTSTEncoder, whose `embedder` and `positional_encoder` are used. statistics: whether they are asked
    for; else None. seed: of this step's dropout, as `dropout_seed` draws it; without one our own kernel drops nothing.
    """
    if embedding_reason(encoder) is None and not patch_input.requires_grad:  # the kernel gives them no gradient
        linear, positions = encoder.embedder.input_embedding, encoder.positional_encoder.position_enc
        drop_level = 0 if seed is None else level(position_rate(encoder))
        x_MD, partials = embed_patches(
            patch_input.contiguous(), linear.weight, linear.bias, positions, seed if drop_level else None, drop_level,
            compute_type(patch_input), statistics,
        )  # fmt: skip
        return x_MD, partials if statistics else None
    hidden_BCND = encoder.positional_encoder(encoder.embedder(patch_input))
    x_MD = hidden_BCND.to(compute_type(hidden_BCND)).reshape(-1, hidden_BCND.shape[-1])
    with torch.no_grad():  # the operators that use the statistics compute their part of the gradient
        partials = norm_partials(x_MD) if statistics else None
    return x_MD, partials


def embedding_reason(encoder: Any) -> str | None:
    """Why PyTorch's operators embed this encoder's patches and not our kernel; None where the kernel does."""
    if not (encoder.config.pre_norm and encoder.config.norm_type == "batchnorm"):
        return "no batch norm reads the rows first, and it is its statistics that the kernel saves a pass for"
    if not isinstance(encoder.embedder.input_embedding, nn.Linear):
        return "every channel has an embedding of its own"
    if encoder.positional_encoder.use_cls_token:
        return "a class token lies before the patches"
    return None


def position_rate(encoder: Any) -> float:
    """The rate of positional dropout that needs a seed of ours; 0 where PyTorch's operators embed."""
    dropout = encoder.positional_encoder.positional_dropout
    return dropout.p if isinstance(dropout, nn.Dropout) and embedding_reason(encoder) is None else 0.0


@torch.library.custom_op("patchtst::embed_patches", mutates_args=())
def embed_patches(
    patches: Tensor, weight: Tensor, bias: Tensor, positions: Tensor, seed: Tensor | None, drop_level: int,
    dtype: torch.dtype, statistics: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """dropout(patches weight^T + bias + positions) (M, D) in `dtype`, and its statistics by blocks if asked for.

    patches (B, C, N, P), contiguous, takes no gradient; weight (D, P), bias (D,) and positions (N, D) are fp32.
    """
    return embedding_launch.embedding(patches, weight, bias, positions, seed, drop_level, dtype, statistics=statistics)


@embed_patches.register_fake
def _(
    patches: Tensor, weight: Tensor, bias: Tensor, positions: Tensor, seed: Tensor | None, drop_level: int,
    dtype: torch.dtype, statistics: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    y = patches.new_empty((patches.shape[:3].numel(), weight.shape[0]), dtype=dtype)
    return y, launch.empty_statistics(y, weight.shape[0], statistics)


@torch.library.custom_op("patchtst::embed_patches_backward", mutates_args=())
def embed_patches_backward(dy: Tensor, patches: Tensor) -> Tensor:
    """Gradients of weight (D, P) and bias (D,), one after the other (D P + D,), fp32. dy: (M, D), after dropout."""
    return embedding_launch.embedding_backward(dy.contiguous(), patches)


@embed_patches_backward.register_fake
def _(dy: Tensor, patches: Tensor) -> Tensor:
    return dy.new_empty(dy.shape[1] * (patches.shape[3] + 1), dtype=torch.float32)


def _context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    patches, _, _, _, seed, ctx.drop_level, _, _ = inputs
    ctx.save_for_backward(patches, seed)
    ctx.mark_non_differentiable(output[1])


def _gradient(ctx: Any, dy: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    patches, seed = ctx.saved_tensors
    (n, p), d = patches.shape[2:], dy.shape[1]
    if seed is not None:
        dy = drop(dy, seed, POSITION_SITE, ctx.drop_level)
    dweight, dbias = embed_patches_backward(dy, patches).split([d * p, d])
    dpositions = dy.view(-1, n, d).sum(0, dtype=torch.float32) if ctx.needs_input_grad[3] else None
    return None, dweight.view(d, p), dbias, dpositions, None, None, None, None


embed_patches.register_autograd(_gradient, setup_context=_context)
