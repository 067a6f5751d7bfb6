"""The kernels of patch for half precision where a program computes several sequences, one after another.

The arithmetic is that of `patch_half_kernels`. All tiles of a sequence are loaded into shared memory while the sequence
before it is computed: the loop over sequences is the one that Triton pipelines, and the loop over queries is written
out. So a program waits for memory once, not once a sequence. It takes more registers, and fewer programs run at once.
"""

from __future__ import annotations

import triton
import triton.language as tl

from model.attention.patch_half_kernels import add_piece, blank, forward_tile, load_head, weighted
from model.attention.patch_kernels import load_keys, tile


@triton.jit
def _first_head(K: tl.constexpr, E: tl.constexpr, HEADS: tl.constexpr, COLUMNS: tl.constexpr) -> tl.tensor:
    """This program's group of sequences, its first head, and its columns with their mask."""
    tiles: tl.constexpr = (K + HEADS - 1) // HEADS
    first = (tl.program_id(0) % tiles) * HEADS
    lane = tl.arange(0, COLUMNS)
    columns = first * E + lane
    return tl.program_id(0) // tiles, first, lane, columns, (lane < HEADS * E) & (columns < K * E)


@triton.jit
def patch_attention_forward_stream(
    q: tl.tensor,
    k: tl.tensor,
    v: tl.tensor,
    o: tl.tensor,
    lse: tl.tensor,
    scale_log2: tl.tensor,
    S: tl.tensor,
    N: tl.constexpr,
    K: tl.constexpr,
    E: tl.constexpr,
    ROW: tl.constexpr,
    HEADS: tl.constexpr,
    COLUMNS: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS_A: tl.constexpr,
    KEYS_B: tl.constexpr,
    UPCAST: tl.constexpr,
    APPROXIMATE: tl.constexpr,
    SEQUENCES: tl.constexpr,
) -> None:
    """o = softmax(q k^T scale) v and its log-sum-exp. Grid: ceil(S / SEQUENCES) * ceil(K / HEADS)."""
    group, first, lane, columns, among = _first_head(K, E, HEADS, COLUMNS)
    blank_a = blank(0, KEYS_A, ROWS, N, 1)
    blank_b = None
    if KEYS_B > 0:
        blank_b = blank(KEYS_A, KEYS_B, ROWS, N, 1)
    for turn in range(SEQUENCES):
        sequence = (group * SEQUENCES + turn).to(tl.int64)
        inside = among & (sequence < S)
        wide = sequence * N * ROW
        _, _, k_a, v_a = load_keys(k, v, wide, 0, KEYS_A, columns, inside, N, ROW, UPCAST)
        k_b, v_b = None, None
        if KEYS_B > 0:
            _, _, k_b, v_b = load_keys(k, v, wide, KEYS_A, KEYS_B, columns, inside, N, ROW, UPCAST)
        at_lse = lse + (sequence * K + first) * N
        for start in tl.static_range(0, N, ROWS):
            out = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
            rows = start + tl.arange(0, ROWS)
            for head in tl.static_range(HEADS):
                q_head = load_head(q + wide, start, head, columns, inside, lane, N, E, ROW, ROWS, UPCAST)
                part, sums = forward_tile(
                    q_head, k_a, v_a, k_b, v_b, blank_a, blank_b, q, scale_log2, UPCAST, APPROXIMATE
                )
                out = tl.where((lane // E == head)[None, :], part, out)
                known = (rows < N) & (first + head < K) & (sequence < S)
                tl.store(at_lse + head * N + rows, sums, mask=known)
            at, there = tile(start, ROWS, columns, inside, N, K * E)
            tl.store(o + sequence * N * (K * E) + at, out.to(o.dtype.element_ty), mask=there)


@triton.jit
def patch_attention_backward_stream(
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
    S: tl.tensor,
    N: tl.constexpr,
    K: tl.constexpr,
    E: tl.constexpr,
    ROW: tl.constexpr,
    HEADS: tl.constexpr,
    COLUMNS: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS_A: tl.constexpr,
    KEYS_B: tl.constexpr,
    UPCAST: tl.constexpr,
    SEQUENCES: tl.constexpr,
) -> None:
    """dq, dk, dv from the gradient of o. Grid: ceil(S / SEQUENCES) * ceil(K / HEADS)."""
    group, first, lane, columns, among = _first_head(K, E, HEADS, COLUMNS)
    blank_a = blank(0, KEYS_A, ROWS, N, 0)
    if KEYS_B > 0:
        blank_b = blank(KEYS_A, KEYS_B, ROWS, N, 0)
    for turn in range(SEQUENCES):
        sequence = (group * SEQUENCES + turn).to(tl.int64)
        inside = among & (sequence < S)
        base = sequence * N * (K * E)
        wide = sequence * N * ROW
        at_a, in_a, k_a, v_a = load_keys(k, v, wide, 0, KEYS_A, columns, inside, N, ROW, UPCAST)
        dk_a = tl.zeros((KEYS_A, COLUMNS), dtype=tl.float32)
        dv_a = tl.zeros((KEYS_A, COLUMNS), dtype=tl.float32)
        if KEYS_B > 0:
            at_b, in_b, k_b, v_b = load_keys(k, v, wide, KEYS_A, KEYS_B, columns, inside, N, ROW, UPCAST)
            dk_b = tl.zeros((KEYS_B, COLUMNS), dtype=tl.float32)
            dv_b = tl.zeros((KEYS_B, COLUMNS), dtype=tl.float32)
        at_lse = lse + (sequence * K + first) * N
        for start in tl.static_range(0, N, ROWS):
            rows = start + tl.arange(0, ROWS)
            out = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
            for head in tl.static_range(HEADS):
                mine = (lane // E == head)[None, :]
                q_head = load_head(q + wide, start, head, columns, inside, lane, N, E, ROW, ROWS, UPCAST)
                do_head = load_head(grad + base, start, head, columns, inside, lane, N, E, K * E, ROWS, UPCAST)
                known = (rows < N) & (first + head < K) & (sequence < S)
                shift = tl.load(at_lse + head * N + rows, mask=known, other=0.0)
                p_a, t_a = weighted(q_head, do_head, k_a, v_a, blank_a, shift, scale_log2)
                if KEYS_B > 0:
                    p_b, t_b = weighted(q_head, do_head, k_b, v_b, blank_b, shift, scale_log2)
                    delta = tl.sum(tl.sum(tl.reshape(t_a, (KEYS_A // KEYS_B, KEYS_B, ROWS)), 0) + t_b, 0)
                else:
                    delta = tl.sum(t_a, 0)
                dq_head = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
                ds_a = t_a - p_a * delta[None, :]
                dq_head, dk_a, dv_a = add_piece(p_a, ds_a, q_head, do_head, k_a, mine, dq_head, dk_a, dv_a, q, UPCAST)
                if KEYS_B > 0:
                    ds_b = t_b - p_b * delta[None, :]
                    dq_head, dk_b, dv_b = add_piece(
                        p_b, ds_b, q_head, do_head, k_b, mine, dq_head, dk_b, dv_b, q, UPCAST
                    )
                out = tl.where(mine, dq_head, out)
            at, there = tile(start, ROWS, columns, inside, N, ROW)
            tl.store(dq + wide + at, (out * scale).to(dq.dtype.element_ty), mask=there)
        tl.store(dk + wide + at_a, (dk_a * scale).to(dk.dtype.element_ty), mask=in_a)
        tl.store(dv + wide + at_a, dv_a.to(dv.dtype.element_ty), mask=in_a)
        if KEYS_B > 0:
            tl.store(dk + wide + at_b, (dk_b * scale).to(dk.dtype.element_ty), mask=in_b)
            tl.store(dv + wide + at_b, dv_b.to(dv.dtype.element_ty), mask=in_b)
