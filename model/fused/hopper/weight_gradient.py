"""Weights' gradients of projections for Hopper, kept in registers; for the out-projection its input's gradient too.

Tensors: dy M x O, x M x I, dw O x I, dx M x I = dy w. A program owns 128 columns of dy, 64 for each of two warpgroups,
and a chunk of the tiles of rows; a warp loads tiles. O is any multiple of 8: the last columns, where they are not 128,
get fewer chunks, because less of dy is read for them. I is padded to INNER. TMA reads zeros past O, I and M.

With DX a tile holds whole rows of dy, and is read once. So there the path's dropout is repeated on it: LEVEL > 0. With
POST the residual was gamma xhat + beta, and the sums that their gradients need are made of dy before that dropout.
"""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)

from model.fused.hopper.barriers import barriers
from model.fused.hopper.dropout import kept, thinned
from model.fused.hopper.residual_gradient import folded, store_folded


@gluon.jit
def _load_tiles(
    dy: tma.tensor_descriptor, x: tma.tensor_descriptor, xhat: tma.tensor_descriptor, ys: gl.shared_memory_descriptor,
    xs: gl.shared_memory_descriptor, ns: gl.shared_memory_descriptor, full: gl.shared_memory_descriptor,
    empty: gl.shared_memory_descriptor, first: gl.tensor, n: gl.tensor, column: gl.tensor, INNER: gl.constexpr,
    BUFFERS: gl.constexpr, POST: gl.constexpr,
) -> None:  # fmt: skip
    for i in range(n):
        slot = i % BUFFERS
        row = (first + i) * 64
        mbarrier.wait(empty.index(slot), ((i // BUFFERS) & 1) ^ 1)
        mbarrier.expect(full.index(slot), 64 * (128 + INNER + (128 if POST else 0)) * 2)
        for half in gl.static_range(2):
            tma.async_copy_global_to_shared(dy, [row, column + half * 64], full.index(slot), ys.index(2 * slot + half))
            if POST:
                tma.async_copy_global_to_shared(xhat, [row, half * 64], full.index(slot), ns.index(2 * slot + half))
        tma.async_copy_global_to_shared(x, [row, 0], full.index(slot), xs.index(slot))


@gluon.jit
def _drop(
    tile: gl.shared_memory_descriptor, values: gl.tensor, seed: gl.tensor, site: gl.tensor, start: gl.tensor,
    half: gl.constexpr, ready: gl.shared_memory_descriptor, phase: gl.tensor, LEVEL: gl.constexpr,
    LAYOUT: gl.constexpr,
) -> gl.tensor:  # fmt: skip
    """Half a tile of dy after dropout, in its place too, once the other warpgroup has its half there."""
    thin = thinned(values, kept(seed, site, start, half * 64, 64, 64, LAYOUT, LEVEL, False), LEVEL)
    tile.store(thin.to(gl.bfloat16))
    fence_async_shared()
    gl.thread_barrier()
    mbarrier.arrive(ready, count=1)
    mbarrier.wait(ready, phase)
    return thin


@gluon.jit
def _compute(
    ys: gl.shared_memory_descriptor, xs: gl.shared_memory_descriptor, ns: gl.shared_memory_descriptor,
    w: gl.shared_memory_descriptor, out: gl.shared_memory_descriptor, dx: tma.tensor_descriptor,
    full: gl.shared_memory_descriptor, empty: gl.shared_memory_descriptor, ready: gl.shared_memory_descriptor,
    weights: gl.shared_memory_descriptor, seed: gl.tensor, parts: gl.tensor, partsb: gl.tensor, site: gl.tensor,
    first: gl.tensor, n: gl.tensor, half: gl.constexpr, INNER: gl.constexpr, BUFFERS: gl.constexpr, DX: gl.constexpr,
    POST: gl.constexpr, LEVEL: gl.constexpr,
) -> None:  # fmt: skip
    """Rows 64 half and on of the part dy^T x, and sums of dy; with DX half the columns of dx."""
    philox: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, 64, 16])  # a call's bits are a thread's
    rows: gl.constexpr = gl.BlockedLayout([1, 8], [4, 8], [4, 1], [1, 0])
    plain: gl.constexpr = philox if POST or LEVEL > 0 else rows
    grads: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, INNER, 16])
    inputs: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, INNER // 2, 16])
    dw = gl.zeros([64, INNER], gl.float32, grads)
    sums = gl.zeros([64, 64], gl.float32, plain)
    if POST:
        sums = folded(sums)
        r_sums = sums
        rx_sums = sums
    if DX:
        zero = gl.zeros([64, INNER // 2], gl.float32, inputs)
        mbarrier.wait(weights.index(0), 0)
    for i in range(n):
        slot = i % BUFFERS
        mbarrier.wait(full.index(slot), (i // BUFFERS) & 1)
        mine = ys.index(2 * slot + half)
        if POST or LEVEL > 0:
            values = mine.load(plain).to(gl.float32)
            if POST:
                r_sums += folded(values)
                rx_sums += folded(values * ns.index(2 * slot + half).load(plain).to(gl.float32))
            if LEVEL > 0:
                phase = (i // BUFFERS) & 1
                values = _drop(mine, values, seed, site, (first + i) * 64, half, ready.index(slot), phase, LEVEL, plain)
            sums += folded(values) if POST else values
        if DX:
            dx_started = warpgroup_mma(ys.index(2 * slot), w.index(half), zero, use_acc=False, is_async=True)
            dx_started = warpgroup_mma(ys.index(2 * slot + 1), w.index(2 + half), dx_started, is_async=True)
        dw_started = warpgroup_mma(mine.permute([1, 0]), xs.index(slot), dw, is_async=True)
        if not POST and LEVEL == 0:
            sums += mine.load(plain).to(gl.float32)
        if DX:
            found = warpgroup_mma_wait(1, deps=[dx_started])
            tma.store_wait(1)  # the buffer is free
            gl.thread_barrier()
            out.index(i % 2).store(found.to(gl.bfloat16))
            fence_async_shared()
            gl.thread_barrier()
            tma.async_copy_shared_to_global(dx, [(first + i) * 64, half * (INNER // 2)], out.index(i % 2))
        dw = warpgroup_mma_wait(0, deps=[dw_started])
        gl.thread_barrier()
        mbarrier.arrive(empty.index(slot), count=1)
    tma.store_wait(0)
    part = gl.program_id(0) * 128 + half * 64
    row = part + gl.arange(0, 64, layout=gl.SliceLayout(1, grads))
    column = gl.arange(0, INNER, layout=gl.SliceLayout(0, grads))
    gl.store(parts + row[:, None] * INNER + column[None, :], dw)
    to = partsb + part
    if POST:
        store_folded(to, sums, plain)
        store_folded(to + gl.num_programs(0) * 128, r_sums, plain)
        store_folded(to + gl.num_programs(0) * 256, rx_sums, plain)
    else:
        gl.store(to + gl.arange(0, 64, layout=gl.SliceLayout(0, plain)), gl.sum(sums, 0))


@gluon.jit(do_not_specialize=["site", "tiles", "chunks", "rest_chunks"])
def hopper_weight_gradient(
    dy: tma.tensor_descriptor, x: tma.tensor_descriptor, w: tma.tensor_descriptor, xhat: tma.tensor_descriptor,
    dx: tma.tensor_descriptor, seed: gl.tensor, parts: gl.tensor, partsb: gl.tensor, site: gl.tensor, tiles: gl.tensor,
    chunks: gl.tensor, rest_chunks: gl.tensor, SLICES: gl.constexpr, INNER: gl.constexpr, BUFFERS: gl.constexpr,
    DX: gl.constexpr, POST: gl.constexpr, LEVEL: gl.constexpr,
) -> None:  # fmt: skip
    """parts (programs, 128, INNER): dy^T x; partsb (1 or 3, programs, 128): sums; with DX (O = 128) also dx.

    The sums are those of dy after dropout and, with POST, those of dy before it and of dy xhat.

    Grid: SLICES chunks for whole 128 columns, then rest_chunks for the columns that are left.
    """
    pid = gl.program_id(0)
    whole = SLICES * chunks
    if pid < whole:
        of = chunks
        chunk = pid // max(SLICES, 1)
        column = (pid % max(SLICES, 1)) * 128
    else:
        of = rest_chunks
        chunk = pid - whole
        column = SLICES * 128
    first = (chunk * tiles) // of
    n = ((chunk + 1) * tiles) // of - first
    xs = gl.allocate_shared_memory(gl.bfloat16, [BUFFERS, 64, INNER], x.layout)
    ys = gl.allocate_shared_memory(gl.bfloat16, [2 * BUFFERS, 64, 64], dy.layout)
    full = gl.allocate_shared_memory(gl.int64, [BUFFERS, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [BUFFERS, 1], mbarrier.MBarrierLayout())
    weights = gl.allocate_shared_memory(gl.int64, [1, 1], mbarrier.MBarrierLayout())
    ready = barriers(BUFFERS, 2) if LEVEL > 0 else full
    ns = gl.allocate_shared_memory(gl.bfloat16, [2 * BUFFERS, 64, 64], xhat.layout) if POST else ys
    for k in gl.static_range(BUFFERS):
        mbarrier.init(full.index(k), count=1)
        mbarrier.init(empty.index(k), count=2)
    mbarrier.init(weights.index(0), count=1)
    fence_async_shared()
    gl.thread_barrier()
    if DX:
        # pieces of w (128, I): 64 rows and half the columns each, in the order of rows, then columns
        held = gl.allocate_shared_memory(gl.bfloat16, [4, 64, INNER // 2], w.layout)
        out0 = gl.allocate_shared_memory(gl.bfloat16, [2, 64, INNER // 2], dx.layout)
        out1 = gl.allocate_shared_memory(gl.bfloat16, [2, 64, INNER // 2], dx.layout)
        mbarrier.expect(weights.index(0), 128 * INNER * 2)
        for k in gl.static_range(4):
            tma.async_copy_global_to_shared(w, [(k // 2) * 64, (k % 2) * (INNER // 2)], weights.index(0), held.index(k))
    else:
        held = xs
        out0 = xs
        out1 = xs
    gl.warp_specialize([
        (_compute, (ys, xs, ns, held, out0, dx, full, empty, ready, weights, seed, parts, partsb, site, first, n, 0,
                    INNER, BUFFERS, DX, POST, LEVEL)),
        (_compute, (ys, xs, ns, held, out1, dx, full, empty, ready, weights, seed, parts, partsb, site, first, n, 1,
                    INNER, BUFFERS, DX, POST, LEVEL)),
        (_load_tiles, (dy, x, xhat, ys, xs, ns, full, empty, first, n, column, INNER, BUFFERS, POST)),
    ], [4, 1], [240, 24])  # fmt: skip
