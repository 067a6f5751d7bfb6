"""The operators torch.ops.patchtst.patch_attention and ..._backward: which kernel, with which sizes, and autograd.

Shapes: S sequences, N patches, K heads, E head width. All tensors are (S, N, K, E) and contiguous, as the projections
of a PatchTST layer lie in memory, so nothing is copied on the way in or out. Importing this file imports triton.

A custom_op and no triton_op: inductor launches it as it stands, with sizes and strides as compile-time constants; its
own launcher would pass them as plain integers, and Triton would not know that rows are aligned to 16 bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor

from model.attention import patch_batched, patch_sums, patch_tiles

MAX_PATCHES = 128
MAX_HEAD_DIM = 64
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """How one kernel is launched."""

    variant: str  # a key of VARIANTS
    heads: int  # heads of a tile (tiles), (sequence, head) pairs of a program (batched, sums; a power of two)
    rows: int = 16  # queries taken at a time (tiles): a power of two from 16
    warps: int = 1  # per program
    stages: int = 1  # of the loop over the queries: 1 loads when needed, more load ahead into shared memory
    recompute: bool = False  # backward takes maximum and sum again instead of reading lse (always so in sums)
    registers: int | None = None  # at most per thread: fewer let more programs run side by side; None: ptxas chooses


@dataclass(frozen=True)
class Variant:
    """A pair of kernels, and the constants that they are compiled for."""

    forward: Any
    backward: Any
    constants: Callable[[int, int, int, Choice], dict[str, int]]  # of (N, K, E, choice)
    tensor_cores: bool  # its kernels take PRECISION and UPCAST
    pairs: bool  # a program computes `heads` (sequence, head) pairs, which its kernels count in PAIRS


def choose(n: int, e: int, dtype: torch.dtype, *, backward: bool) -> Choice:
    """The launch for N patches of head width E. Fixed, not tuned at run time, so that trials time nothing but training.

    The sizes follow from counted instructions and registers of the kernels compiled for an H100 (bf16); what
    `benchmarks/attention.py --tune` finds faster belongs here.
    """
    heads = max(1, 16 // e)
    if dtype == torch.float32:  # products without tensor cores: a tile's factors must be spread over more threads
        return Choice(variant="tiles", heads=heads, rows=16, warps=4 if n <= 64 else 8, recompute=backward)
    if n > 64 or e > 32:
        return Choice(variant="tiles", heads=heads, rows=32 if backward else 64, warps=4)
    return Choice(variant="tiles", heads=heads, rows=16, warps=2 if backward and (n > 48 or e > 16) else 1)


def forward(
    q: Tensor, k: Tensor, v: Tensor, scale: float, choice: Choice, *, upcast: bool = False
) -> tuple[Tensor, Tensor]:
    """(o, lse) for contiguous q k v; lse is the log2 of the sum of 2^(score * scale * log2 e), (S, K, N) in fp32.

    `upcast` multiplies half-precision factors as fp32, for Triton's interpreter, whose bf16 product is wrong.
    """
    s, n, heads, _ = q.shape
    o = torch.empty_like(q)
    lse = torch.empty((s, heads, n), dtype=torch.float32, device=q.device)
    tensors = (q, k, v, o, lse, scale / math.log(2))
    _launch("forward", tensors, q, choice, upcast)
    return o, lse


def backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, lse: Tensor, scale: float, choice: Choice, *, upcast: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """(dq, dk, dv) from the gradient of o and what `forward` took and gave; all contiguous."""
    dq, dk, dv = (torch.empty_like(q) for _ in range(3))
    tensors = (grad, q, k, v, lse, dq, dk, dv, scale, scale / math.log(2))
    _launch("backward", tensors, q, choice, upcast)
    return dq, dk, dv


def constants(direction: str, q: Tensor, choice: Choice, *, upcast: bool = False) -> dict[str, Any]:
    """What a kernel is compiled for, beside its launch: sizes, tile sizes, and how fp32 is multiplied."""
    _, n, heads, e = q.shape
    variant = VARIANTS[choice.variant]
    fixed: dict[str, Any] = {"N": n, "K": heads, "E": e} | variant.constants(n, heads, e, choice)
    if variant.tensor_cores:
        # The interpreter takes smaller products than a GPU does.
        assert all(fixed.get(name, 16) >= 16 for name in ("ROWS", "COLUMNS", "KEYS", "KEYS_A")), fixed
        asked = q.dtype == torch.float32 and torch.get_float32_matmul_precision() != "highest"
        fixed |= {"PRECISION": "tf32" if asked else "ieee", "UPCAST": upcast}
        if direction == "backward":
            fixed["RECOMPUTE"] = choice.recompute
    return fixed


def _launch(direction: str, tensors: tuple[Any, ...], q: Tensor, choice: Choice, upcast: bool) -> None:
    s, _, heads, _ = q.shape
    if q.numel() == 0:
        return
    variant = VARIANTS[choice.variant]
    fixed = constants(direction, q, choice, upcast=upcast)
    if variant.pairs:
        tensors, programs = (*tensors, s * heads), triton.cdiv(s * heads, fixed["HEADS"])
    else:
        programs = s * triton.cdiv(heads, fixed["HEADS"])
    options: dict[str, Any] = {"num_warps": choice.warps, "num_stages": choice.stages}
    if choice.registers is not None:
        options["maxnreg"] = choice.registers
    with torch.cuda.device_of(q):
        getattr(variant, direction)[(programs,)](*tensors, **fixed, **options)


def _tile_constants(n: int, heads: int, e: int, choice: Choice) -> dict[str, int]:
    whole = max(16, triton.next_power_of_2(n))
    half, rest = whole // 2, max(16, triton.next_power_of_2(n - whole // 2))
    a, b = (half, rest) if rest < half else (whole, 0)
    per_tile = min(choice.heads, heads)
    columns = max(16, triton.next_power_of_2(per_tile * e))
    return {"HEADS": per_tile, "COLUMNS": columns, "ROWS": choice.rows, "KEYS_A": a, "KEYS_B": b}


def _batched_constants(n: int, heads: int, e: int, choice: Choice) -> dict[str, int]:
    keys, columns = (max(16, triton.next_power_of_2(size)) for size in (n, e))
    return {"HEADS": choice.heads, "COLUMNS": columns, "KEYS": keys}


def _sums_constants(n: int, heads: int, e: int, choice: Choice) -> dict[str, int]:
    return {"HEADS": choice.heads, "COLUMNS": triton.next_power_of_2(e), "ROWS": triton.next_power_of_2(n)}


VARIANTS: dict[str, Variant] = {
    "tiles": Variant(
        patch_tiles.patch_attention_forward_tiles, patch_tiles.patch_attention_backward_tiles,
        _tile_constants, tensor_cores=True, pairs=False,
    ),
    "batched": Variant(
        patch_batched.patch_attention_forward_batched, patch_batched.patch_attention_backward_batched,
        _batched_constants, tensor_cores=True, pairs=True,
    ),
    "sums": Variant(
        patch_sums.patch_attention_forward_sums, patch_sums.patch_attention_backward_sums,
        _sums_constants, tensor_cores=False, pairs=True,
    ),
}  # fmt: skip


@torch.library.custom_op("patchtst::patch_attention", mutates_args=())
def patch_attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """softmax(q k^T * scale) v for (S, N, K, E) tensors, heads apart; (o (S, N, K, E), lse (S, K, N) in fp32).

    Other layouts than contiguous are copied first. lse takes no gradient. ValueError for shapes, types or a scale that
    the kernels were not written for.
    """
    _check(q, k, v, scale)
    choice = choose(q.shape[1], q.shape[3], q.dtype, backward=False)
    return forward(q.contiguous(), k.contiguous(), v.contiguous(), scale, choice)


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
    choice = choose(q.shape[1], q.shape[3], q.dtype, backward=True)
    return backward(grad.contiguous(), q.contiguous(), k.contiguous(), v.contiguous(), lse, scale, choice)


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
