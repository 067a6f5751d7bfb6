"""Variant "batched": a program computes HEADS (sequence, head) pairs at once with 3-D matrix products.

Tensors as in patch_tiles.py. Pairs are numbered sequence * K + head, so a program's pairs may belong to two sequences
and any K fills it. Neighbouring heads are loaded together, as they lie in memory. All N patches are one block of
KEYS rows; E is padded to COLUMNS.
"""

from __future__ import annotations

import triton
import triton.language as tl

from model.attention.patch_tiles import _operand


@triton.jit
def _pairs(
    PAIRS: tl.tensor,
    N: tl.constexpr,
    K: tl.constexpr,
    E: tl.constexpr,
    HEADS: tl.constexpr,
    COLUMNS: tl.constexpr,
    KEYS: tl.constexpr,
) -> tl.tensor:
    """Offsets and mask (KEYS, HEADS, COLUMNS) of this program's pairs in q, and (HEADS, KEYS) in lse."""
    pair = tl.program_id(0) * HEADS + tl.arange(0, HEADS)
    begin = (pair // K).to(tl.int64) * (N * K * E) + (pair % K) * E
    n = tl.arange(0, KEYS)
    e = tl.arange(0, COLUMNS)
    at = begin[None, :, None] + n[:, None, None] * (K * E) + e[None, None, :]
    there = (n < N)[:, None, None] & (pair < PAIRS)[None, :, None] & (e < E)[None, None, :]
    at_lse = pair.to(tl.int64)[:, None] * N + n[None, :]
    return at, there, at_lse, (pair < PAIRS)[:, None] & (n < N)[None, :]


@triton.jit
def _load(tensor: tl.tensor, at: tl.tensor, there: tl.tensor, UPCAST: tl.constexpr) -> tl.tensor:
    return _operand(tl.permute(tl.load(tensor + at, mask=there, other=0.0), (1, 0, 2)), tensor, UPCAST)


@triton.jit
def patch_attention_forward_batched(
    q: tl.tensor,
    k: tl.tensor,
    v: tl.tensor,
    o: tl.tensor,
    lse: tl.tensor,
    scale_log2: tl.tensor,
    PAIRS: tl.tensor,
    N: tl.constexpr,
    K: tl.constexpr,
    E: tl.constexpr,
    HEADS: tl.constexpr,
    COLUMNS: tl.constexpr,
    KEYS: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
) -> None:
    """o = softmax(q k^T scale) v and its log-sum-exp. Grid: ceil(S * K / HEADS)."""
    at, there, at_lse, there_lse = _pairs(PAIRS, N, K, E, HEADS, COLUMNS, KEYS)
    q_all = _load(q, at, there, UPCAST)
    k_all = _load(k, at, there, UPCAST)
    v_all = _load(v, at, there, UPCAST)
    scores = tl.dot(q_all, tl.permute(k_all, (0, 2, 1)), input_precision=PRECISION)
    if KEYS > N:
        scores = tl.where((tl.arange(0, KEYS) < N)[None, None, :], scores, float("-inf"))
    top = tl.max(scores, 2) * scale_log2
    p = tl.exp2(scores * scale_log2 - top[:, :, None])
    total = tl.sum(p, 2)
    out = tl.dot(_operand(p, v, UPCAST), v_all, input_precision=PRECISION) * (1.0 / total)[:, :, None]
    tl.store(o + at, tl.permute(out, (1, 0, 2)).to(o.dtype.element_ty), mask=there)
    tl.store(lse + at_lse, top + tl.log2(total), mask=there_lse)


@triton.jit
def patch_attention_backward_batched(
    grad: tl.tensor,
    q: tl.tensor,
    k: tl.tensor,
    v: tl.tensor,
    lse: tl.tensor,
    dq: tl.tensor,
    dk: tl.tensor,
    dv: tl.tensor,
    scale: tl.tensor,
    scale_log2: tl.tensor,
    PAIRS: tl.tensor,
    N: tl.constexpr,
    K: tl.constexpr,
    E: tl.constexpr,
    HEADS: tl.constexpr,
    COLUMNS: tl.constexpr,
    KEYS: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
    RECOMPUTE: tl.constexpr,
) -> None:
    """dq, dk, dv from the gradient of o; scores are computed keys x queries. Grid: ceil(S * K / HEADS)."""
    at, there, at_lse, there_lse = _pairs(PAIRS, N, K, E, HEADS, COLUMNS, KEYS)
    q_all = _load(q, at, there, UPCAST)
    k_all = _load(k, at, there, UPCAST)
    v_all = _load(v, at, there, UPCAST)
    do_all = _load(grad, at, there, UPCAST)
    scores = tl.dot(k_all, tl.permute(q_all, (0, 2, 1)), input_precision=PRECISION)
    if KEYS > N:
        scores = tl.where((tl.arange(0, KEYS) < N)[None, :, None], scores, float("-inf"))
    if RECOMPUTE:
        p = tl.exp2((scores - tl.max(scores, 1)[:, None, :]) * scale_log2)
        p = p * (1.0 / tl.sum(p, 1))[:, None, :]
    else:
        p = tl.exp2(scores * scale_log2 - tl.load(lse + at_lse, mask=there_lse, other=0.0)[:, None, :])
    dp = tl.dot(v_all, tl.permute(do_all, (0, 2, 1)), input_precision=PRECISION)
    ds = _operand(p * (dp - tl.sum(p * dp, 1)[:, None, :]), q, UPCAST)
    dv_all = tl.dot(_operand(p, q, UPCAST), do_all, input_precision=PRECISION)
    tl.store(dv + at, tl.permute(dv_all, (1, 0, 2)).to(dv.dtype.element_ty), mask=there)
    dk_all = tl.dot(ds, q_all, input_precision=PRECISION) * scale
    tl.store(dk + at, tl.permute(dk_all, (1, 0, 2)).to(dk.dtype.element_ty), mask=there)
    dq_all = tl.dot(tl.permute(ds, (0, 2, 1)), k_all, input_precision=PRECISION) * scale
    tl.store(dq + at, tl.permute(dq_all, (1, 0, 2)).to(dq.dtype.element_ty), mask=there)
