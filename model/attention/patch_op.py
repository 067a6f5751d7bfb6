"""The operators torch.ops.patchtst.patch_attention and ..._backward: which kernel, with which sizes, and autograd.

Shapes: S sequences, N patches, K heads, E head width. All tensors are (S, N, K, E), as the projections of a PatchTST
layer lie in memory, so nothing is copied. Importing this file imports triton.

Each is a custom_op, not a triton_op: inductor then launches our code, with sizes and strides as compile-time constants.
Its own launcher would pass them as plain integers, and Triton would not know that rows are aligned to 16 bytes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor

from model.attention import patch_kernels

MAX_PATCHES = 128
MAX_HEAD_DIM = 64
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """How one kernel is launched."""

    heads: int  # heads of a tile
    rows: int = 16  # queries taken at a time: a power of two from 16
    warps: int = 1  # per program
    stages: int = 1  # of the loop over the queries: 1 loads when needed, more load ahead into shared memory
    recompute: bool = False  # backward takes maximum and sum again instead of reading lse
    registers: int | None = None  # most per thread: with fewer, more programs run side by side; None: ptxas chooses


def choose_launch(n: int, e: int, dtype: torch.dtype, *, backward: bool) -> Choice:
    """The launch for N patches of head width E. Fixed, not tuned at run time, so that trials time nothing but training.

    Half precision: what `benchmarks/attention.py --tune` measured as fastest on an H100 (docs/measurements.md).
    """
    heads = max(1, 16 // e)
    if dtype == torch.float32:  # products without tensor cores: a tile's factors must be spread over more threads
        return Choice(heads=heads, rows=16, warps=4 if n <= 64 else 8, recompute=backward)
    if n > 64 or e > 32:
        return Choice(heads=heads, rows=32 if backward else 64, warps=4)
    if backward:
        return Choice(heads=heads, rows=16 if n <= 48 else 32, stages=3)
    if e > 8 or n > 48:
        return Choice(heads=heads, rows=64, warps=4)
    return Choice(heads=heads, rows=16, stages=3)


def forward(
    q: Tensor, k: Tensor, v: Tensor, scale: float, choice: Choice, *, upcast: bool = False
) -> tuple[Tensor, Tensor]:
    """(o, lse) for q k v as `_same_rows` gives them; lse (S, K, N): log2 of the sum of 2^(score * scale * log2 e).

    `upcast` multiplies half-precision factors as fp32, for Triton's interpreter, whose bf16 product is wrong.
    """
    s, n, heads, _ = q.shape
    o = q.new_empty(q.shape)
    lse = torch.empty((s, heads, n), dtype=torch.float32, device=q.device)
    _launch(patch_kernels.patch_attention_forward, (q, k, v, o, lse, scale / math.log(2)), q, choice, upcast)
    return o, lse


def backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, lse: Tensor, scale: float, choice: Choice,
    into: tuple[Tensor, Tensor, Tensor], *, upcast: bool = False,
) -> None:  # fmt: skip
    """Writes dq, dk and dv to `into`, with the strides of q, k and v. grad, the gradient of o, is contiguous."""
    tensors = (grad, q, k, v, lse, *into, scale, scale / math.log(2))
    _launch(patch_kernels.patch_attention_backward, tensors, q, choice, upcast, RECOMPUTE=choice.recompute)


def constants(q: Tensor, choice: Choice, *, upcast: bool = False) -> dict[str, Any]:
    """What a kernel is compiled for, beside its launch: sizes, tile sizes, and how fp32 is multiplied."""
    _, n, heads, e = q.shape
    rows = max(16, triton.next_power_of_2(n))
    half, rest = rows // 2, max(16, triton.next_power_of_2(n - rows // 2))
    a, b = (half, rest) if rest < half else (rows, 0)
    per_tile = min(choice.heads, heads)
    columns = max(16, triton.next_power_of_2(per_tile * e))
    sizes = {"N": n, "K": heads, "E": e, "ROW": q.stride(1)}
    tiles = {"HEADS": per_tile, "COLUMNS": columns, "ROWS": choice.rows, "KEYS_A": a, "KEYS_B": b}
    asked = q.dtype == torch.float32 and torch.get_float32_matmul_precision() != "highest"
    return sizes | tiles | {"PRECISION": "tf32" if asked else "ieee", "UPCAST": upcast}


def _launch(kernel: Any, tensors: tuple[Any, ...], q: Tensor, choice: Choice, upcast: bool, **more: Any) -> None:
    s, _, heads, _ = q.shape
    if q.numel() == 0:
        return
    fixed = constants(q, choice, upcast=upcast) | more
    options: dict[str, Any] = {"num_warps": choice.warps, "num_stages": choice.stages}
    if choice.registers is not None:
        options["maxnreg"] = choice.registers
    with torch.cuda.device_of(q):
        kernel[(s * triton.cdiv(heads, fixed["HEADS"]),)](*tensors, **fixed, **options)


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
    q, k, v, lse = ctx.saved_tensors
    return *patch_attention_backward(grad, q, k, v, lse, ctx.scale), None


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
