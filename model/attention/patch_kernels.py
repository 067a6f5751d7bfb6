"""The kernels of patch: a program computes a few neighbouring heads of one sequence with 2-D matrix products.

Tensors q k v o: S sequences x N patches x K heads x E head width. o and its gradient are contiguous. q k v and their
gradients may be parts of wider rows, as one projection leaves them: ROW elements from one patch to the next. lse:
S x K x N in fp32, log2 of the sum of 2^(score * scale * log2(e)).

A row of q holds all heads of one patch; a head of width 8 is only 16 bytes of it. So a program loads HEADS neighbouring
heads as one tile of COLUMNS columns, at least 16, which tensor cores need anyway. For one head's product it sets the
other heads' columns of one factor to zero.

The keys are held in two pieces, A and B, each of a power of two rows: 42 patches take 32 + 16 rows instead of 64. B may
be absent. A program takes ROWS queries at a time. The backward pass computes the scores as keys x queries, so that only
the product for dq needs a transposition. Rows past N are read as zeros; scores of keys past N are minus infinity.

p = 2^(score - lse) is only as exact as a number of the size of lse. That suffices for half precision. For fp32 the
backward pass takes maximum and sum again (RECOMPUTE): with scores of 100 it would be 20 times less exact than eager.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def operand(x: tl.tensor, like: tl.tensor, UPCAST: tl.constexpr) -> tl.tensor:
    """x in the inputs' type, for a matrix product; UPCAST to fp32 for the interpreter, whose bf16 product is wrong."""
    x = x.to(like.dtype.element_ty)
    if UPCAST:
        x = x.to(tl.float32)
    return x


@triton.jit
def tile(
    start: tl.tensor,
    ROWS: tl.constexpr,
    columns: tl.tensor,
    inside: tl.tensor,
    N: tl.constexpr,
    WIDTH: tl.constexpr,
) -> tl.tensor:
    """Offsets within one sequence, and mask, of ROWS patches from `start` at these columns: (ROWS, COLUMNS) each."""
    rows = start + tl.arange(0, ROWS)
    return rows[:, None] * WIDTH + columns[None, :], (rows < N)[:, None] & inside[None, :]


@triton.jit
def _scores(
    left: tl.tensor,
    right: tl.tensor,
    start: tl.constexpr,
    N: tl.constexpr,
    KEY_AXIS: tl.constexpr,
    PRECISION: tl.constexpr,
) -> tl.tensor:
    """left @ right^T with minus infinity for keys past N; keys begin at `start` and lie along KEY_AXIS."""
    scores = tl.dot(left, tl.trans(right), input_precision=PRECISION)
    if start + scores.shape[KEY_AXIS] > N:
        known = start + tl.arange(0, scores.shape[KEY_AXIS]) < N
        scores = tl.where(tl.expand_dims(known, 1 - KEY_AXIS), scores, float("-inf"))
    return scores


@triton.jit
def place(
    N: tl.constexpr, K: tl.constexpr, E: tl.constexpr, ROW: tl.constexpr, HEADS: tl.constexpr, COLUMNS: tl.constexpr
) -> tl.tensor:
    """This program's sequence and first head, its offsets in o and in wider rows, and its columns with their mask."""
    tiles: tl.constexpr = (K + HEADS - 1) // HEADS
    program = tl.program_id(0)
    sequence = (program // tiles).to(tl.int64)
    first = (program % tiles) * HEADS
    base = sequence * N * (K * E)
    wide = sequence * N * ROW
    lane = tl.arange(0, COLUMNS)
    columns = first * E + lane
    inside = (lane < HEADS * E) & (columns < K * E)
    return sequence, first, base, wide, lane, columns, inside


@triton.jit
def load_keys(
    k: tl.tensor,
    v: tl.tensor,
    wide: tl.tensor,
    start: tl.constexpr,
    KEYS: tl.constexpr,
    columns: tl.tensor,
    inside: tl.tensor,
    N: tl.constexpr,
    ROW: tl.constexpr,
    UPCAST: tl.constexpr,
) -> tl.tensor:
    """A piece of the keys from `start`: offsets, mask, keys and values, (KEYS, COLUMNS) each."""
    at, there = tile(start, KEYS, columns, inside, N, ROW)
    keys = operand(tl.load(k + wide + at, mask=there, other=0.0), k, UPCAST)
    values = operand(tl.load(v + wide + at, mask=there, other=0.0), v, UPCAST)
    return at, there, keys, values


@triton.jit
def patch_attention_forward(
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
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
) -> None:
    """o = softmax(q k^T scale) v and its log-sum-exp. Grid: S * ceil(K / HEADS)."""
    sequence, first, base, wide, lane, columns, inside = place(N, K, E, ROW, HEADS, COLUMNS)
    at_a, in_a, k_a, v_a = load_keys(k, v, wide, 0, KEYS_A, columns, inside, N, ROW, UPCAST)
    if KEYS_B > 0:
        at_b, in_b, k_b, v_b = load_keys(k, v, wide, KEYS_A, KEYS_B, columns, inside, N, ROW, UPCAST)

    for start in range(0, N, ROWS):
        at, there = tile(start, ROWS, columns, inside, N, K * E)
        at_wide, _ = tile(start, ROWS, columns, inside, N, ROW)
        rows = start + tl.arange(0, ROWS)
        q_all = operand(tl.load(q + wide + at_wide, mask=there, other=0.0), q, UPCAST)
        out = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
        for head in tl.static_range(HEADS):
            mine = (lane // E == head)[None, :]
            q_head = tl.where(mine, q_all, 0.0).to(q_all.dtype) if HEADS > 1 else q_all
            s_a = _scores(q_head, k_a, 0, N, 1, PRECISION)
            top = tl.max(s_a, 1)
            if KEYS_B > 0:
                s_b = _scores(q_head, k_b, KEYS_A, N, 1, PRECISION)
                top = tl.maximum(top, tl.max(s_b, 1))
            top = top * scale_log2
            p_a = tl.exp2(s_a * scale_log2 - top[:, None])
            total = tl.sum(p_a, 1)
            part = tl.dot(operand(p_a, v, UPCAST), v_a, input_precision=PRECISION)
            if KEYS_B > 0:
                p_b = tl.exp2(s_b * scale_log2 - top[:, None])
                total += tl.sum(p_b, 1)
                part = tl.dot(operand(p_b, v, UPCAST), v_b, acc=part, input_precision=PRECISION)
            part = part * (1.0 / total)[:, None]
            out = tl.where(mine, part, out) if HEADS > 1 else part
            at_lse = (sequence * K + first + head) * N + rows
            tl.store(lse + at_lse, top + tl.log2(total), mask=(rows < N) & (first + head < K))
        tl.store(o + base + at, out.to(o.dtype.element_ty), mask=there)


@triton.jit
def _weights(
    s_a: tl.tensor,
    s_b: tl.tensor | None,
    lse: tl.tensor,
    known: tl.tensor,
    scale_log2: tl.tensor,
    RECOMPUTE: tl.constexpr,
) -> tl.tensor:
    """Softmax over the keys (axis 0) of both pieces, (KEYS, ROWS) each: by `lse`, or by maximum and sum taken again."""
    if RECOMPUTE:
        shift = tl.max(s_a, 0)
        if s_b is not None:
            shift = tl.maximum(shift, tl.max(s_b, 0))
        shift = shift * scale_log2
    else:  # 0 for a query past N, whose do is 0
        shift = tl.load(lse, mask=known, other=0.0)
    p_a = tl.exp2(s_a * scale_log2 - shift[None, :])
    p_b = p_a  # never read without a second piece
    if s_b is not None:
        p_b = tl.exp2(s_b * scale_log2 - shift[None, :])
    if RECOMPUTE:
        total = tl.sum(p_a, 0)
        if s_b is not None:
            total += tl.sum(p_b, 0)
            p_b = p_b * (1.0 / total)[None, :]
        p_a = p_a * (1.0 / total)[None, :]
    return p_a, p_b


@triton.jit
def _add_gradients(
    p: tl.tensor,
    ds: tl.tensor,
    k: tl.tensor,
    q_head: tl.tensor,
    do_head: tl.tensor,
    dq: tl.tensor,
    dk: tl.tensor,
    dv: tl.tensor,
    like: tl.tensor,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
) -> tl.tensor:
    """Adds one head's part over a piece of the keys: dq (ROWS, COLUMNS), dk dv (KEYS, COLUMNS); p ds (KEYS, ROWS)."""
    ds = operand(ds, like, UPCAST)
    dv = tl.dot(operand(p, like, UPCAST), do_head, acc=dv, input_precision=PRECISION)
    dk = tl.dot(ds, q_head, acc=dk, input_precision=PRECISION)
    dq = tl.dot(tl.trans(ds), k, acc=dq, input_precision=PRECISION)
    return dq, dk, dv


@triton.jit
def patch_attention_backward(
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
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
    RECOMPUTE: tl.constexpr,
) -> None:
    """dq, dk, dv from the gradient of o; each is written once, by one program. Grid: S * ceil(K / HEADS)."""
    sequence, first, base, wide, lane, columns, inside = place(N, K, E, ROW, HEADS, COLUMNS)
    at_a, in_a, k_a, v_a = load_keys(k, v, wide, 0, KEYS_A, columns, inside, N, ROW, UPCAST)
    dk_a = tl.zeros((KEYS_A, COLUMNS), dtype=tl.float32)
    dv_a = tl.zeros((KEYS_A, COLUMNS), dtype=tl.float32)
    if KEYS_B > 0:
        at_b, in_b, k_b, v_b = load_keys(k, v, wide, KEYS_A, KEYS_B, columns, inside, N, ROW, UPCAST)
        dk_b = tl.zeros((KEYS_B, COLUMNS), dtype=tl.float32)
        dv_b = tl.zeros((KEYS_B, COLUMNS), dtype=tl.float32)

    for start in range(0, N, ROWS):
        at, there = tile(start, ROWS, columns, inside, N, K * E)
        at_wide, _ = tile(start, ROWS, columns, inside, N, ROW)
        rows = start + tl.arange(0, ROWS)
        q_all = operand(tl.load(q + wide + at_wide, mask=there, other=0.0), q, UPCAST)
        do_all = operand(tl.load(grad + base + at, mask=there, other=0.0), q, UPCAST)
        out = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
        for head in tl.static_range(HEADS):
            mine = (lane // E == head)[None, :]
            q_head = tl.where(mine, q_all, 0.0).to(q_all.dtype) if HEADS > 1 else q_all
            do_head = tl.where(mine, do_all, 0.0).to(do_all.dtype) if HEADS > 1 else do_all
            s_a = _scores(k_a, q_head, 0, N, 0, PRECISION)
            dp_a = tl.dot(v_a, tl.trans(do_head), input_precision=PRECISION)
            s_b = None
            if KEYS_B > 0:
                s_b = _scores(k_b, q_head, KEYS_A, N, 0, PRECISION)
                dp_b = tl.dot(v_b, tl.trans(do_head), input_precision=PRECISION)
            at_lse = (sequence * K + first + head) * N + rows
            known = (rows < N) & (first + head < K)
            p_a, p_b = _weights(s_a, s_b, lse + at_lse, known, scale_log2, RECOMPUTE)
            delta = tl.sum(p_a * dp_a, 0)
            if KEYS_B > 0:
                delta += tl.sum(p_b * dp_b, 0)
            dq_head = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
            ds_a = p_a * (dp_a - delta[None, :])
            dq_head, dk_a, dv_a = _add_gradients(
                p_a, ds_a, k_a, q_head, do_head, dq_head, dk_a, dv_a, q, PRECISION, UPCAST
            )
            if KEYS_B > 0:
                ds_b = p_b * (dp_b - delta[None, :])
                dq_head, dk_b, dv_b = _add_gradients(
                    p_b, ds_b, k_b, q_head, do_head, dq_head, dk_b, dv_b, q, PRECISION, UPCAST
                )
            out = tl.where(mine, dq_head, out) if HEADS > 1 else dq_head
        tl.store(dq + wide + at_wide, (out * scale).to(dq.dtype.element_ty), mask=there)

    tl.store(dk + wide + at_a, (dk_a * scale).to(dk.dtype.element_ty), mask=in_a)
    tl.store(dv + wide + at_a, dv_a.to(dv.dtype.element_ty), mask=in_a)
    if KEYS_B > 0:
        tl.store(dk + wide + at_b, (dk_b * scale).to(dk.dtype.element_ty), mask=in_b)
        tl.store(dv + wide + at_b, dv_b.to(dv.dtype.element_ty), mask=in_b)
