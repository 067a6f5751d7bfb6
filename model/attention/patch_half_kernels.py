"""The kernels of patch for half precision and at most 64 patches: fewer instructions, the same tiles.

Tensors and pieces of keys are those of `patch_kernels`. What differs was chosen by counting machine instructions for
sm_90 (`benchmarks/attention_counts.py`):

- A tile of q or do is loaded once for each head, with the other heads' columns read as zeros. No select remains.
- Of a product with all columns only one head's are kept. The compiler drops the other half of the instructions.
- Keys past N get minus infinity as the products' first accumulator.
- Maximum and sums over both pieces of keys are taken together, before threads exchange them.
- Logarithm and reciprocal are the hardware's (APPROXIMATE), 2^-22 from exact; p is rounded to 2^-9 or 2^-12.

fp32 keeps `patch_kernels`: there the backward pass takes maximum and sum again.
"""

from __future__ import annotations

import triton
import triton.language as tl

from model.attention.patch_kernels import load_keys, operand, place, tile


@triton.jit
def _log2(x: tl.tensor, APPROXIMATE: tl.constexpr) -> tl.tensor:
    if APPROXIMATE:
        y = tl.inline_asm_elementwise("lg2.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1)
    else:
        y = tl.log2(x)
    return y


@triton.jit
def _reciprocal(x: tl.tensor, APPROXIMATE: tl.constexpr) -> tl.tensor:
    if APPROXIMATE:
        y = tl.inline_asm_elementwise("rcp.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1)
    else:
        y = 1.0 / x
    return y


@triton.jit
def blank(
    start: tl.constexpr, KEYS: tl.constexpr, ROWS: tl.constexpr, N: tl.constexpr, KEY_AXIS: tl.constexpr
) -> tl.tensor:
    """Scores before the product: 0, and minus infinity for keys past N; (ROWS, KEYS), or transposed for KEY_AXIS 0."""
    scores = tl.zeros((ROWS, KEYS) if KEY_AXIS == 1 else (KEYS, ROWS), dtype=tl.float32)
    if start + KEYS > N:
        known = start + tl.arange(0, KEYS) < N
        scores = tl.where(tl.expand_dims(known, 1 - KEY_AXIS), scores, float("-inf"))
    return scores


@triton.jit
def _softmax(s_a: tl.tensor, s_b: tl.tensor | None, scale_log2: tl.tensor) -> tl.tensor:
    """2^(score scale_log2 - top) of both pieces, (ROWS, KEYS) each; top and the sum, (ROWS,) each."""
    ROWS: tl.constexpr = s_a.shape[0]
    if s_b is None:
        top = tl.max(s_a, 1) * scale_log2
        p_a = tl.exp2(s_a * scale_log2 - top[:, None])
        p_b = p_a  # never read
        total = tl.sum(p_a, 1)
    else:  # A's columns are folded onto B's: fewer numbers for threads to exchange
        FOLDS: tl.constexpr = s_a.shape[1] // s_b.shape[1]
        folded = tl.max(tl.reshape(s_a, (ROWS, FOLDS, s_b.shape[1])), 1)
        top = tl.max(tl.maximum(folded, s_b), 1) * scale_log2
        p_a = tl.exp2(s_a * scale_log2 - top[:, None])
        p_b = tl.exp2(s_b * scale_log2 - top[:, None])
        total = tl.sum(tl.sum(tl.reshape(p_a, (ROWS, FOLDS, s_b.shape[1])), 1) + p_b, 1)
    return p_a, p_b, top, total


@triton.jit
def forward_tile(
    q_head: tl.tensor,
    k_a: tl.tensor,
    v_a: tl.tensor,
    k_b: tl.tensor | None,
    v_b: tl.tensor | None,
    blank_a: tl.tensor,
    blank_b: tl.tensor | None,
    like: tl.tensor,
    scale_log2: tl.tensor,
    UPCAST: tl.constexpr,
    APPROXIMATE: tl.constexpr,
) -> tl.tensor:
    """One head's part of o in all columns, of which only that head's mean something, and lse, for ROWS queries."""
    s_a = tl.dot(q_head, tl.trans(k_a), acc=blank_a)
    s_b = None
    if k_b is not None:
        s_b = tl.dot(q_head, tl.trans(k_b), acc=blank_b)
    p_a, p_b, top, total = _softmax(s_a, s_b, scale_log2)
    part = tl.dot(operand(p_a, like, UPCAST), v_a)
    if k_b is not None:
        part = tl.dot(operand(p_b, like, UPCAST), v_b, acc=part)
    return part * _reciprocal(total, APPROXIMATE)[:, None], top + _log2(total, APPROXIMATE)


@triton.jit
def patch_attention_forward_half(
    q: tl.tensor,
    k: tl.tensor,
    v: tl.tensor,
    o: tl.tensor,
    lse: tl.tensor,
    scale_log2: tl.tensor,
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
) -> None:
    """o = softmax(q k^T scale) v and its log-sum-exp. Grid: S * ceil(K / HEADS)."""
    sequence, first, base, wide, lane, columns, inside = place(N, K, E, ROW, HEADS, COLUMNS)
    _, _, k_a, v_a = load_keys(k, v, wide, 0, KEYS_A, columns, inside, N, ROW, UPCAST)
    blank_a = blank(0, KEYS_A, ROWS, N, 1)
    k_b, v_b, blank_b = None, None, None
    if KEYS_B > 0:
        _, _, k_b, v_b = load_keys(k, v, wide, KEYS_A, KEYS_B, columns, inside, N, ROW, UPCAST)
        blank_b = blank(KEYS_A, KEYS_B, ROWS, N, 1)
    at_lse = lse + (sequence * K + first) * N
    for start in range(0, N, ROWS):
        out = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
        rows = start + tl.arange(0, ROWS)
        for head in tl.static_range(HEADS):
            q_head = load_head(q + wide, start, head, columns, inside, lane, N, E, ROW, ROWS, UPCAST)
            part, sums = forward_tile(q_head, k_a, v_a, k_b, v_b, blank_a, blank_b, q, scale_log2, UPCAST, APPROXIMATE)
            out = tl.where((lane // E == head)[None, :], part, out)
            tl.store(at_lse + head * N + rows, sums, mask=(rows < N) & (first + head < K))
        at, there = tile(start, ROWS, columns, inside, N, K * E)
        tl.store(o + base + at, out.to(o.dtype.element_ty), mask=there)


@triton.jit
def load_head(
    x: tl.tensor,
    start: tl.tensor,
    head: tl.constexpr,
    columns: tl.tensor,
    inside: tl.tensor,
    lane: tl.tensor,
    N: tl.constexpr,
    E: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    UPCAST: tl.constexpr,
) -> tl.tensor:
    """ROWS patches from `start` of a sequence at x, (ROWS, COLUMNS), with zeros in the columns of other heads."""
    at, there = tile(start, ROWS, columns, inside & (lane // E == head), N, WIDTH)
    return operand(tl.load(x + at, mask=there, other=0.0), x, UPCAST)


@triton.jit
def weighted(
    q_head: tl.tensor,
    do_head: tl.tensor,
    k: tl.tensor,
    v: tl.tensor,
    scores: tl.tensor,
    shift: tl.tensor,
    scale_log2: tl.tensor,
) -> tl.tensor:
    """p and p dp over a piece of the keys, (KEYS, ROWS) each; `scores` are those before the product."""
    p = tl.exp2(tl.dot(k, tl.trans(q_head), acc=scores) * scale_log2 - shift[None, :])
    return p, p * tl.dot(v, tl.trans(do_head))


@triton.jit
def add_piece(
    p: tl.tensor,
    ds: tl.tensor,
    q_head: tl.tensor,
    do_head: tl.tensor,
    k: tl.tensor,
    mine: tl.tensor,
    dq: tl.tensor,
    dk: tl.tensor,
    dv: tl.tensor,
    like: tl.tensor,
    UPCAST: tl.constexpr,
) -> tl.tensor:
    """Adds one head's part over a piece of the keys: dq (ROWS, COLUMNS), dk dv (KEYS, COLUMNS); p ds (KEYS, ROWS)."""
    ds = operand(ds, like, UPCAST)
    dv = tl.where(mine, tl.dot(operand(p, like, UPCAST), do_head, acc=dv), dv)
    dk = tl.where(mine, tl.dot(ds, q_head, acc=dk), dk)
    dq = tl.dot(tl.trans(ds), k, acc=dq)
    return dq, dk, dv


@triton.jit
def patch_attention_backward_half(
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
) -> None:
    """dq, dk, dv from the gradient of o; each is written once, by one program. Grid: S * ceil(K / HEADS)."""
    sequence, first, base, wide, lane, columns, inside = place(N, K, E, ROW, HEADS, COLUMNS)
    at_a, in_a, k_a, v_a = load_keys(k, v, wide, 0, KEYS_A, columns, inside, N, ROW, UPCAST)
    blank_a = blank(0, KEYS_A, ROWS, N, 0)
    dk_a = tl.zeros((KEYS_A, COLUMNS), dtype=tl.float32)
    dv_a = tl.zeros((KEYS_A, COLUMNS), dtype=tl.float32)
    if KEYS_B > 0:
        at_b, in_b, k_b, v_b = load_keys(k, v, wide, KEYS_A, KEYS_B, columns, inside, N, ROW, UPCAST)
        blank_b = blank(KEYS_A, KEYS_B, ROWS, N, 0)
        dk_b = tl.zeros((KEYS_B, COLUMNS), dtype=tl.float32)
        dv_b = tl.zeros((KEYS_B, COLUMNS), dtype=tl.float32)
    at_lse = lse + (sequence * K + first) * N
    for start in range(0, N, ROWS):
        rows = start + tl.arange(0, ROWS)
        out = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
        for head in tl.static_range(HEADS):
            mine = (lane // E == head)[None, :]
            q_head = load_head(q + wide, start, head, columns, inside, lane, N, E, ROW, ROWS, UPCAST)
            do_head = load_head(grad + base, start, head, columns, inside, lane, N, E, K * E, ROWS, UPCAST)
            known = (rows < N) & (first + head < K)
            shift = tl.load(at_lse + head * N + rows, mask=known, other=0.0)  # 0 for a query past N, whose do is 0
            p_a, t_a = weighted(q_head, do_head, k_a, v_a, blank_a, shift, scale_log2)
            if KEYS_B > 0:  # A's rows are folded onto B's: fewer numbers for threads to exchange
                p_b, t_b = weighted(q_head, do_head, k_b, v_b, blank_b, shift, scale_log2)
                delta = tl.sum(tl.sum(tl.reshape(t_a, (KEYS_A // KEYS_B, KEYS_B, ROWS)), 0) + t_b, 0)
            else:
                delta = tl.sum(t_a, 0)
            dq_head = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
            ds_a = t_a - p_a * delta[None, :]
            dq_head, dk_a, dv_a = add_piece(p_a, ds_a, q_head, do_head, k_a, mine, dq_head, dk_a, dv_a, q, UPCAST)
            if KEYS_B > 0:
                ds_b = t_b - p_b * delta[None, :]
                dq_head, dk_b, dv_b = add_piece(p_b, ds_b, q_head, do_head, k_b, mine, dq_head, dk_b, dv_b, q, UPCAST)
            out = tl.where(mine, dq_head, out)
        at, there = tile(start, ROWS, columns, inside, N, ROW)
        tl.store(dq + wide + at, (out * scale).to(dq.dtype.element_ty), mask=there)
    tl.store(dk + wide + at_a, (dk_a * scale).to(dk.dtype.element_ty), mask=in_a)
    tl.store(dv + wide + at_a, dv_a.to(dv.dtype.element_ty), mask=in_a)
    if KEYS_B > 0:
        tl.store(dk + wide + at_b, (dk_b * scale).to(dk.dtype.element_ty), mask=in_b)
        tl.store(dv + wide + at_b, dv_b.to(dv.dtype.element_ty), mask=in_b)
