"""Projections of attention for Hopper, forward: q/k/v behind a batch norm, and out with residual and statistics.

Tensors: x xhat y M x D; qkv M x O, its weight O x D with the norm's gamma folded in, its bias with beta; attention's
output M x W, the out-projection's weight D x W. O and W are any multiple of 8, as pruned heads leave them: O is divided
into pieces of 128, the last of which may be narrower, REST; W is padded to INNER, a power of two. TMA reads zeros
past O, W and M and drops what is stored there, so that memory moves only what exists. LEVEL: of dropout, 0 for none.

The weights stay in a program's shared memory. Each of two warpgroups takes its own tiles of 64 rows; a warp loads them.
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

from model.fused.hopper.dropout import kept, thinned
from model.fused.hopper.statistics import store_statistics


@gluon.jit
def _load_rows(
    x: tma.tensor_descriptor, rows: gl.shared_memory_descriptor, full: gl.shared_memory_descriptor,
    empty: gl.shared_memory_descriptor, n: gl.tensor, pid: gl.tensor, step: gl.tensor, D: gl.constexpr,
    SLOTS: gl.constexpr,
) -> None:  # fmt: skip
    """Tile k of the program goes to slot k % SLOTS, which warpgroup k % 2 reads."""
    for k in range(n):
        slot = k % SLOTS
        mbarrier.wait(empty.index(slot), ((k // SLOTS) & 1) ^ 1)
        mbarrier.expect(full.index(slot), 64 * D * 2)
        tma.async_copy_global_to_shared(x, [(pid + k * step) * 64, 0], full.index(slot), rows.index(slot))


@gluon.jit
def _store_piece(
    y: tma.tensor_descriptor, buffer: gl.shared_memory_descriptor, values: gl.tensor, row: gl.tensor, column: gl.tensor,
    PENDING: gl.constexpr,
) -> None:  # fmt: skip
    tma.store_wait(PENDING)  # what the buffer held has left
    gl.thread_barrier()
    buffer.store(values.to(gl.bfloat16))
    fence_async_shared()
    gl.thread_barrier()
    tma.async_copy_shared_to_global(y, [row, column], buffer)


@gluon.jit
def _compute_qkv(
    y: tma.tensor_descriptor, y_rest: tma.tensor_descriptor, xhat: tma.tensor_descriptor,
    rows: gl.shared_memory_descriptor, out: gl.shared_memory_descriptor, out_rest: gl.shared_memory_descriptor,
    w: gl.shared_memory_descriptor, w_rest: gl.shared_memory_descriptor, full: gl.shared_memory_descriptor,
    empty: gl.shared_memory_descriptor, weights: gl.shared_memory_descriptor, bias: gl.tensor, mean: gl.tensor,
    var: gl.tensor, eps: gl.tensor, n: gl.tensor, group: gl.tensor, pid: gl.tensor, step: gl.tensor, D: gl.constexpr,
    OUT: gl.constexpr, PIECES: gl.constexpr, REST: gl.constexpr, SLOTS: gl.constexpr, KEEP: gl.constexpr,
) -> None:  # fmt: skip
    plain: gl.constexpr = gl.BlockedLayout([1, 8], [2, 16], [4, 1], [1, 0])
    wide: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, 128, 16])
    c = gl.arange(0, D, layout=gl.SliceLayout(0, plain))
    o = gl.arange(0, 128, layout=gl.SliceLayout(0, wide))
    rstd = 1.0 / gl.sqrt(gl.load(var + c) + eps)
    shift = -gl.load(mean + c) * rstd
    zero = gl.zeros([64, 128], gl.float32, wide)
    mbarrier.wait(weights.index(0), 0)
    for j in range((n - group + 1) // 2):
        k = j * 2 + group
        slot = k % SLOTS
        row = (pid + k * step) * 64
        mbarrier.wait(full.index(slot), (k // SLOTS) & 1)
        tile = rows.index(slot)
        values = tile.load(plain).to(gl.float32)
        tile.store((values * rstd[None, :] + shift[None, :]).to(gl.bfloat16))
        fence_async_shared()
        gl.thread_barrier()
        if KEEP:
            tma.async_copy_shared_to_global(xhat, [row, 0], tile)
        if PIECES > 0:
            started = warpgroup_mma(tile, w.index(0).permute([1, 0]), zero, use_acc=False, is_async=True)
            for piece in gl.static_range(PIECES):
                if piece * 128 + 128 > OUT:
                    bias_piece = gl.load(bias + piece * 128 + o, mask=piece * 128 + o < OUT, other=0.0)
                else:
                    bias_piece = gl.load(bias + piece * 128 + o)
                found = warpgroup_mma_wait(0, deps=[started])
                if piece + 1 < PIECES:
                    started = warpgroup_mma(
                        tile, w.index(piece + 1).permute([1, 0]), zero, use_acc=False, is_async=True
                    )
                _store_piece(y, out.index((j * PIECES + piece) % 2), found + bias_piece[None, :], row, piece * 128, 1)
        if REST:
            small: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, REST, 16])
            r = PIECES * 128 + gl.arange(0, REST, layout=gl.SliceLayout(0, small))
            rest_started = warpgroup_mma(
                tile, w_rest.permute([1, 0]), gl.zeros([64, REST], gl.float32, small), use_acc=False, is_async=True
            )
            bias_rest = gl.load(bias + r, mask=r < OUT, other=0.0)
            rest_found = warpgroup_mma_wait(0, deps=[rest_started])
            _store_piece(y_rest, out_rest, rest_found + bias_rest[None, :], row, PIECES * 128, 1 if PIECES > 0 else 0)
        tma.store_wait(1)  # xhat has left
        gl.thread_barrier()
        mbarrier.arrive(empty.index(slot), count=1)
    tma.store_wait(0)


@gluon.jit(do_not_specialize=["tiles"])
def hopper_qkv(
    x: tma.tensor_descriptor, w: tma.tensor_descriptor, w_rest: tma.tensor_descriptor, y: tma.tensor_descriptor,
    y_rest: tma.tensor_descriptor, xhat: tma.tensor_descriptor, bias: gl.tensor, mean: gl.tensor, var: gl.tensor,
    eps: gl.tensor, tiles: gl.tensor, D: gl.constexpr, OUT: gl.constexpr, PIECES: gl.constexpr, REST: gl.constexpr,
    SLOTS: gl.constexpr, KEEP: gl.constexpr,
) -> None:  # fmt: skip
    """y (M, O) = xhat w^T + bias; KEEP: xhat (M, D) is stored for the backward pass. Grid: any number of programs."""
    pid = gl.program_id(0)
    step = gl.num_programs(0)
    rows = gl.allocate_shared_memory(gl.bfloat16, [SLOTS, 64, D], x.layout)
    full = gl.allocate_shared_memory(gl.int64, [SLOTS, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [SLOTS, 1], mbarrier.MBarrierLayout())
    weights = gl.allocate_shared_memory(gl.int64, [1, 1], mbarrier.MBarrierLayout())
    for k in gl.static_range(SLOTS):
        mbarrier.init(full.index(k), count=1)
        mbarrier.init(empty.index(k), count=1)
    mbarrier.init(weights.index(0), count=1)
    fence_async_shared()
    gl.thread_barrier()
    mbarrier.expect(weights.index(0), (PIECES * 128 + REST) * D * 2)
    if PIECES > 0:
        held = gl.allocate_shared_memory(gl.bfloat16, [PIECES, 128, D], w.layout)
        out0 = gl.allocate_shared_memory(gl.bfloat16, [2, 64, 128], y.layout)
        out1 = gl.allocate_shared_memory(gl.bfloat16, [2, 64, 128], y.layout)
        for k in gl.static_range(PIECES):
            tma.async_copy_global_to_shared(w, [k * 128, 0], weights.index(0), held.index(k))
    else:
        held = rows
        out0 = rows
        out1 = rows
    if REST:
        held_rest = gl.allocate_shared_memory(gl.bfloat16, [REST, D], w_rest.layout)
        rest0 = gl.allocate_shared_memory(gl.bfloat16, [64, REST], y_rest.layout)
        rest1 = gl.allocate_shared_memory(gl.bfloat16, [64, REST], y_rest.layout)
        tma.async_copy_global_to_shared(w_rest, [PIECES * 128, 0], weights.index(0), held_rest)
    else:
        held_rest = rows
        rest0 = rows
        rest1 = rows
    n = (tiles - pid + step - 1) // step
    gl.warp_specialize([
        (_compute_qkv, (y, y_rest, xhat, rows, out0, rest0, held, held_rest, full, empty, weights, bias, mean, var, eps,
                        n, 0, pid, step, D, OUT, PIECES, REST, SLOTS, KEEP)),
        (_compute_qkv, (y, y_rest, xhat, rows, out1, rest1, held, held_rest, full, empty, weights, bias, mean, var, eps,
                        n, 1, pid, step, D, OUT, PIECES, REST, SLOTS, KEEP)),
        (_load_rows, (x, rows, full, empty, n, pid, step, D, SLOTS)),
    ], [4, 1], [240, 24])  # fmt: skip


@gluon.jit
def _load_both(
    x: tma.tensor_descriptor, r: tma.tensor_descriptor, xs: gl.shared_memory_descriptor,
    rs: gl.shared_memory_descriptor, full: gl.shared_memory_descriptor, empty: gl.shared_memory_descriptor,
    n: gl.tensor, pid: gl.tensor, step: gl.tensor, D: gl.constexpr, INNER: gl.constexpr, SLOTS: gl.constexpr,
) -> None:  # fmt: skip
    for k in range(n):
        slot = k % SLOTS
        row = (pid + k * step) * 64
        mbarrier.wait(empty.index(slot), ((k // SLOTS) & 1) ^ 1)
        mbarrier.expect(full.index(slot), 64 * (D + INNER) * 2)
        tma.async_copy_global_to_shared(x, [row, 0], full.index(slot), xs.index(slot))
        tma.async_copy_global_to_shared(r, [row, 0], full.index(slot), rs.index(slot))


@gluon.jit
def _compute_out(
    y: tma.tensor_descriptor, xs: gl.shared_memory_descriptor, rs: gl.shared_memory_descriptor,
    w: gl.shared_memory_descriptor, full: gl.shared_memory_descriptor, empty: gl.shared_memory_descriptor,
    weights: gl.shared_memory_descriptor, bias: gl.tensor, gamma: gl.tensor, beta: gl.tensor, seed: gl.tensor,
    partial: gl.tensor, site: gl.tensor, M: gl.tensor, n: gl.tensor, group: gl.tensor, pid: gl.tensor, step: gl.tensor,
    D: gl.constexpr, SLOTS: gl.constexpr, POST: gl.constexpr, LEVEL: gl.constexpr, STATISTICS: gl.constexpr,
) -> None:  # fmt: skip
    narrow: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, D, 16])
    columns: gl.constexpr = gl.BlockedLayout([1, 2], [2, 16], [1, 4], [1, 0])
    zero = gl.zeros([64, D], gl.float32, narrow)
    d = gl.arange(0, D, layout=gl.SliceLayout(0, narrow))
    held_bias = gl.load(bias + d)
    mbarrier.wait(weights.index(0), 0)
    for j in range((n - group + 1) // 2):
        k = j * 2 + group
        slot = k % SLOTS
        tile = pid + k * step
        mbarrier.wait(full.index(slot), (k // SLOTS) & 1)
        out = rs.index(slot)  # y takes the residual's place
        started = warpgroup_mma(xs.index(slot), w.permute([1, 0]), zero, use_acc=False, is_async=True)
        residual = out.load(narrow).to(gl.float32)
        if POST:
            residual = residual * gl.load(gamma + d)[None, :] + gl.load(beta + d)[None, :]
        found = warpgroup_mma_wait(0, deps=[started]) + held_bias[None, :]
        if LEVEL > 0:
            found = thinned(found, kept(seed, site, tile * 64, 0, 64, D, narrow, LEVEL, False), LEVEL)
        gl.thread_barrier()
        out.store((found + residual).to(gl.bfloat16))
        fence_async_shared()
        gl.thread_barrier()
        tma.async_copy_shared_to_global(y, [tile * 64, 0], out)
        if STATISTICS:
            store_statistics(out.load(columns).to(gl.float32), tile, M, partial, D, columns)
        tma.store_wait(0)
        gl.thread_barrier()
        mbarrier.arrive(empty.index(slot), count=1)


@gluon.jit(do_not_specialize=["site", "M", "tiles"])
def hopper_out(
    x: tma.tensor_descriptor, r: tma.tensor_descriptor, w: tma.tensor_descriptor, y: tma.tensor_descriptor,
    bias: gl.tensor, gamma: gl.tensor, beta: gl.tensor, seed: gl.tensor, partial: gl.tensor, site: gl.tensor,
    M: gl.tensor, tiles: gl.tensor, D: gl.constexpr, INNER: gl.constexpr, SLOTS: gl.constexpr, POST: gl.constexpr,
    LEVEL: gl.constexpr, STATISTICS: gl.constexpr,
) -> None:  # fmt: skip
    """y (M, D) = dropout(x w^T + bias) + residual for x (M, W) and, with STATISTICS, those of y by blocks.

    The residual is r or, with POST, gamma r + beta. Grid: any number of programs.
    """
    pid = gl.program_id(0)
    step = gl.num_programs(0)
    held = gl.allocate_shared_memory(gl.bfloat16, [D, INNER], w.layout)
    xs = gl.allocate_shared_memory(gl.bfloat16, [SLOTS, 64, INNER], x.layout)
    rs = gl.allocate_shared_memory(gl.bfloat16, [SLOTS, 64, D], r.layout)
    full = gl.allocate_shared_memory(gl.int64, [SLOTS, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [SLOTS, 1], mbarrier.MBarrierLayout())
    weights = gl.allocate_shared_memory(gl.int64, [1, 1], mbarrier.MBarrierLayout())
    for k in gl.static_range(SLOTS):
        mbarrier.init(full.index(k), count=1)
        mbarrier.init(empty.index(k), count=1)
    mbarrier.init(weights.index(0), count=1)
    fence_async_shared()
    gl.thread_barrier()
    mbarrier.expect(weights.index(0), D * INNER * 2)
    tma.async_copy_global_to_shared(w, [0, 0], weights.index(0), held)
    n = (tiles - pid + step - 1) // step
    gl.warp_specialize([
        (_compute_out, (y, xs, rs, held, full, empty, weights, bias, gamma, beta, seed, partial, site, M, n, 0, pid,
                        step, D, SLOTS, POST, LEVEL, STATISTICS)),
        (_compute_out, (y, xs, rs, held, full, empty, weights, bias, gamma, beta, seed, partial, site, M, n, 1, pid,
                        step, D, SLOTS, POST, LEVEL, STATISTICS)),
        (_load_both, (x, r, xs, rs, full, empty, n, pid, step, D, INNER, SLOTS)),
    ], [4, 1], [240, 24])  # fmt: skip
