"""Variant "sums": few patches, no tensor cores: one key after the other, with sums over the head width.

Tensors and pairs as in patch_batched.py. Everything is computed in fp32, whatever the inputs are; E needs no padding
to 16 and N none to 16. The backward pass goes over the keys twice: for maximum, sum and the sum of p * dp (lse is not
read), then for the gradients.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _pairs(
    PAIRS: tl.tensor,
    N: tl.constexpr,
    K: tl.constexpr,
    E: tl.constexpr,
    HEADS: tl.constexpr,
    COLUMNS: tl.constexpr,
    ROWS: tl.constexpr,
) -> tl.tensor:
    """Offsets and masks: (HEADS, ROWS, COLUMNS) of queries, (HEADS, COLUMNS) of patch 0, (HEADS, ROWS) of lse."""
    pair = tl.program_id(0) * HEADS + tl.arange(0, HEADS)
    begin = (pair // K).to(tl.int64) * (N * K * E) + (pair % K) * E
    n = tl.arange(0, ROWS)
    e = tl.arange(0, COLUMNS)
    key = begin[:, None] + e[None, :]
    key_there = (pair < PAIRS)[:, None] & (e < E)[None, :]
    at = key[:, None, :] + n[None, :, None] * (K * E)
    there = key_there[:, None, :] & (n < N)[None, :, None]
    at_lse = pair.to(tl.int64)[:, None] * N + n[None, :]
    return at, there, key, key_there, at_lse, (pair < PAIRS)[:, None] & (n < N)[None, :]


@triton.jit
def _load(tensor: tl.tensor, at: tl.tensor, there: tl.tensor) -> tl.tensor:
    return tl.load(tensor + at, mask=there, other=0.0).to(tl.float32)


@triton.jit
def patch_attention_forward_sums(
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
    ROWS: tl.constexpr,
) -> None:
    """o = softmax(q k^T scale) v and its log-sum-exp. Grid: ceil(S * K / HEADS)."""
    at, there, key, key_there, at_lse, there_lse = _pairs(PAIRS, N, K, E, HEADS, COLUMNS, ROWS)
    q_all = _load(q, at, there)
    top = tl.full((HEADS, ROWS), float("-inf"), dtype=tl.float32)
    total = tl.zeros((HEADS, ROWS), dtype=tl.float32)
    out = tl.zeros((HEADS, ROWS, COLUMNS), dtype=tl.float32)
    for j in range(N):
        score = tl.sum(q_all * _load(k, key + j * (K * E), key_there)[:, None, :], 2)
        new_top = tl.maximum(top, score)
        shrink = tl.exp2((top - new_top) * scale_log2)
        p = tl.exp2((score - new_top) * scale_log2)
        top = new_top
        total = total * shrink + p
        out = out * shrink[:, :, None] + p[:, :, None] * _load(v, key + j * (K * E), key_there)[:, None, :]
    tl.store(o + at, (out * (1.0 / total)[:, :, None]).to(o.dtype.element_ty), mask=there)
    tl.store(lse + at_lse, top * scale_log2 + tl.log2(total), mask=there_lse)


@triton.jit
def patch_attention_backward_sums(
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
    ROWS: tl.constexpr,
) -> None:
    """dq, dk, dv from the gradient of o. Grid: ceil(S * K / HEADS)."""
    at, there, key, key_there, _, _ = _pairs(PAIRS, N, K, E, HEADS, COLUMNS, ROWS)
    q_all = _load(q, at, there)
    do_all = _load(grad, at, there)
    top = tl.full((HEADS, ROWS), float("-inf"), dtype=tl.float32)
    total = tl.zeros((HEADS, ROWS), dtype=tl.float32)
    delta = tl.zeros((HEADS, ROWS), dtype=tl.float32)
    for j in range(N):
        score = tl.sum(q_all * _load(k, key + j * (K * E), key_there)[:, None, :], 2)
        dp = tl.sum(do_all * _load(v, key + j * (K * E), key_there)[:, None, :], 2)
        new_top = tl.maximum(top, score)
        shrink = tl.exp2((top - new_top) * scale_log2)
        p = tl.exp2((score - new_top) * scale_log2)
        top = new_top
        total = total * shrink + p
        delta = delta * shrink + p * dp
    share = 1.0 / total
    delta = delta * share
    dq_all = tl.zeros((HEADS, ROWS, COLUMNS), dtype=tl.float32)
    for j in range(N):
        k_row = _load(k, key + j * (K * E), key_there)[:, None, :]
        score = tl.sum(q_all * k_row, 2)
        dp = tl.sum(do_all * _load(v, key + j * (K * E), key_there)[:, None, :], 2)
        p = tl.exp2((score - top) * scale_log2) * share
        ds = p * (dp - delta) * scale
        dq_all += ds[:, :, None] * k_row
        dk_row = tl.sum(ds[:, :, None] * q_all, 1)
        dv_row = tl.sum(p[:, :, None] * do_all, 1)
        tl.store(dk + key + j * (K * E), dk_row.to(dk.dtype.element_ty), mask=key_there)
        tl.store(dv + key + j * (K * E), dv_row.to(dv.dtype.element_ty), mask=key_there)
    tl.store(dq + at, dq_all.to(dq.dtype.element_ty), mask=there)
