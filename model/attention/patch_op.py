"""The operators torch.ops.patchtst.patch_attention and ..._backward: which kernel, with which sizes, and autograd.

Shapes: S sequences, N patches, K heads, E head width. All tensors are (S, N, K, E), as the projections of a PatchTST
layer lie in memory, so nothing is copied. Importing this file imports triton.

Each is a custom_op, not a triton_op: inductor then launches our code, with sizes and strides as compile-time constants.
Its own launcher would pass them as plain integers, and Triton would not know that rows are aligned to 16 bytes.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
from torch import Tensor

from model.attention import patch_half_kernels, patch_kernels
from model.attention.patch_launch import MAX_HEAD_DIM, MAX_PATCHES, Choice, choose_launch, constants, options

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def forward(
    q: Tensor, k: Tensor, v: Tensor, scale: float, choice: Choice, *, upcast: bool = False
) -> tuple[Tensor, Tensor]:
    """(o, lse) for q k v as `_same_rows` gives them; lse (S, K, N): log2 of the sum of 2^(score * scale * log2 e).

    `upcast` multiplies half-precision factors as fp32, for Triton's interpreter, whose bf16 product is wrong.
    """
    s, n, heads, _ = q.shape
    o = q.new_empty(q.shape)
    lse = torch.empty((s, heads, n), dtype=torch.float32, device=q.device)
    tensors = (q, k, v, o, lse, scale / math.log(2))
    _launch("forward", tensors, q, choice, constants(q, choice, backward=False, upcast=upcast))
    return o, lse


def backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, lse: Tensor, scale: float, choice: Choice,
    into: tuple[Tensor, Tensor, Tensor], *, upcast: bool = False,
) -> None:  # fmt: skip
    """Writes dq, dk and dv to `into`, with the strides of q, k and v. grad, the gradient of o, is contiguous."""
    tensors = (grad, q, k, v, lse, *into, scale, scale / math.log(2))
    _launch("backward", tensors, q, choice, constants(q, choice, backward=True, upcast=upcast))


def kernel_of(direction: str, choice: Choice) -> Any:
    """The kernel that a launch of "forward" or "backward" runs."""
    name = f"patch_attention_{direction}"
    return getattr(patch_half_kernels, f"{name}_half") if choice.half else getattr(patch_kernels, name)


def _launch(direction: str, tensors: tuple[Any, ...], q: Tensor, choice: Choice, fixed: dict[str, Any]) -> None:
    s, _, heads, _ = q.shape
    if q.numel() == 0:
        return
    if not (q.is_cuda or triton.knobs.runtime.interpret):
        raise ValueError(f"patch needs a CUDA GPU and got tensors on {q.device}: use eager or sdpa")
    with torch.cuda.device_of(q):
        grid = (s * triton.cdiv(heads, fixed["HEADS"]),)
        kernel_of(direction, choice)[grid](*tensors, **fixed, **options(choice))


def _same_rows(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The tensors (S, N, K, E) themselves if all have the same rows, head beside head; otherwise contiguous copies."""
    _, n, _, e = q.shape
    row = q.stride(1)
    if all(tensor.stride() == (n * row, row, e, 1) for tensor in (q, k, v)):
        return q, k, v
    return q.contiguous(), k.contiguous(), v.contiguous()


@torch.library.custom_op("patchtst::patch_attention", mutates_args=())
def patch_attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """softmax(q k^T * scale) v for (S, N, K, E) tensors, heads apart; (o (S, N, K, E), lse (S, K, N) in fp32).

    Parts of one projection's rows are read in place, other layouts are copied first. lse takes no gradient.
    ValueError for shapes, types or a scale that the kernels were not written for.
    """
    _check(q, k, v, scale)
    choice = choose_launch(q.shape[1], q.shape[3], q.dtype, backward=False)
    q, k, v = _same_rows(q, k, v)
    return forward(q, k, v, scale, choice)


@patch_attention.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    _check(q, k, v, scale)
    s, n, heads, _ = q.shape
    return q.new_empty(q.shape), q.new_empty((s, heads, n), dtype=torch.float32)


@torch.library.custom_op("patchtst::patch_attention_backward", mutates_args=())
def patch_attention_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, lse: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """(dq, dk, dv), contiguous (S, N, K, E), from the gradient of patch_attention's o."""
    choice = choose_launch(q.shape[1], q.shape[3], q.dtype, backward=True)
    into = (q.new_empty(q.shape), q.new_empty(q.shape), q.new_empty(q.shape))
    backward(grad.contiguous(), q.contiguous(), k.contiguous(), v.contiguous(), lse, scale, choice, into)
    return into


@patch_attention_backward.register_fake
def _(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, lse: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), q.new_empty(q.shape), q.new_empty(q.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, ctx.scale = inputs
    ctx.save_for_backward(q, k, v, output[1])
    ctx.mark_non_differentiable(output[1])


def _differentiate(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor, Tensor, Tensor, None]:
    return *patch_attention_backward(grad, *ctx.saved_tensors, ctx.scale), None


patch_attention.register_autograd(_differentiate, setup_context=_setup_context)


@torch.library.custom_op("patchtst::patch_attention_packed", mutates_args=())
def patch_attention_packed(qkv: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """patch_attention of qkv (S, N, 3, K, E), contiguous, as one projection leaves them: (o (S, N, K, E), lse)."""
    q, k, v = qkv.contiguous().unbind(2)
    _check(q, k, v, scale)
    return forward(q, k, v, scale, choose_launch(q.shape[1], q.shape[3], q.dtype, backward=False))


@patch_attention_packed.register_fake
def _(qkv: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    q, k, v = qkv.unbind(2)
    _check(q, k, v, scale)
    s, n, _, heads, e = qkv.shape
    return qkv.new_empty((s, n, heads, e)), qkv.new_empty((s, heads, n), dtype=torch.float32)


@torch.library.custom_op("patchtst::patch_attention_packed_backward", mutates_args=())
def patch_attention_packed_backward(grad: Tensor, qkv: Tensor, lse: Tensor, scale: float) -> Tensor:
    """The gradient of qkv (S, N, 3, K, E), contiguous."""
    dqkv, choice = qkv.new_empty(qkv.shape), choose_launch(qkv.shape[1], qkv.shape[4], qkv.dtype, backward=True)
    q, k, v = qkv.contiguous().unbind(2)
    dq, dk, dv = dqkv.unbind(2)
    backward(grad.contiguous(), q, k, v, lse, scale, choice, (dq, dk, dv))
    return dqkv


@patch_attention_packed_backward.register_fake
def _(grad: Tensor, qkv: Tensor, lse: Tensor, scale: float) -> Tensor:
    return qkv.new_empty(qkv.shape)


def _setup_packed_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    qkv, ctx.scale = inputs
    ctx.save_for_backward(qkv, output[1])
    ctx.mark_non_differentiable(output[1])


def _differentiate_packed(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor, None]:
    return patch_attention_packed_backward(grad, *ctx.saved_tensors, ctx.scale), None


patch_attention_packed.register_autograd(_differentiate_packed, setup_context=_setup_packed_context)


def _check(q: Tensor, k: Tensor, v: Tensor, scale: float) -> None:
    if q.dim() != 4 or not q.shape == k.shape == v.shape or not q.dtype == k.dtype == v.dtype:
        raise ValueError(
            "patch takes q, k and v of one type and one shape (sequences, patches, heads, width) and got "
            f"{', '.join(f'{tensor.dtype} {tuple(tensor.shape)}' for tensor in (q, k, v))}: use eager"
        )
    if q.dtype not in DTYPES:
        raise ValueError(f"patch computes in fp32, bf16 or fp16 and got {q.dtype}: use eager")
    if not (q.shape[1] <= MAX_PATCHES and q.shape[3] <= MAX_HEAD_DIM and scale > 0):
        raise ValueError(
            f"patch takes at most {MAX_PATCHES} patches, a head_dim of at most {MAX_HEAD_DIM} and a scale above 0, and "
            f"got {q.shape[1]}, {q.shape[3]} and {scale}: use eager"
        )
