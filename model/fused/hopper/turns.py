"""The feed-forward's warpgroups taking turns at the tensor cores: while one multiplies, the others are at GELU.

Left alone, warpgroups that started together seem to stay together: all multiply, then all compute GELU, so that both
times add up (docs/measurements.md, 2026-11-30). So each waits for its turn before it starts products and passes the
turn on as soon as they are started. A turn holds the second product of one slice or tile and the first of the next.

A turn is a barrier for each warpgroup, which the one before it arrives at. All take the same number of turns.
Arguments are those of `_compute` in feed_forward.py and of `_own_columns` in feed_forward_backward.py.
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

from model.fused.hopper.gelu import gelu, gelu_and_slope
from model.fused.hopper.tile import finish_rows, normalise_rows


@gluon.jit
def _wait_for(turns: gl.shared_memory_descriptor, group: gl.constexpr, turn: gl.tensor) -> None:
    """The first warpgroup's first turn is free; the others' come after those of the one before."""
    if group == 0:
        mbarrier.wait(turns.index(0), (turn & 1) ^ 1)
    else:
        mbarrier.wait(turns.index(group), turn & 1)


@gluon.jit
def _pass_on(turns: gl.shared_memory_descriptor, group: gl.constexpr, GROUPS: gl.constexpr) -> None:
    gl.thread_barrier()  # every warp has started its products
    mbarrier.arrive(turns.index((group + 1) % GROUPS), count=1)


@gluon.jit
def compute_in_turns(
    y: tma.tensor_descriptor, xhat: tma.tensor_descriptor, rows: gl.shared_memory_descriptor,
    out: gl.shared_memory_descriptor, up: gl.shared_memory_descriptor, down: gl.shared_memory_descriptor,
    full: gl.shared_memory_descriptor, empty: gl.shared_memory_descriptor, rows_full: gl.shared_memory_descriptor,
    rows_empty: gl.shared_memory_descriptor, turns: gl.shared_memory_descriptor, x: gl.tensor, b1: gl.tensor,
    b2: gl.tensor, mean: gl.tensor, var: gl.tensor, partial: gl.tensor, eps: gl.tensor, M: gl.tensor, tiles: gl.tensor,
    rounds: gl.tensor, group: gl.constexpr, pid: gl.tensor, step: gl.tensor, D: gl.constexpr, SLICES: gl.constexpr,
    SLICE: gl.constexpr, BUFFERS: gl.constexpr, GROUPS: gl.constexpr, KEEP: gl.constexpr, STATISTICS: gl.constexpr,
) -> None:  # fmt: skip
    """A warpgroup's tiles, one a round, in SLICES + 1 turns each. Without a tile it only passes turns on."""
    wide: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, SLICE, 16])
    narrow: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, D, 16])
    left: gl.constexpr = gl.DotOperandLayout(0, narrow, 2)
    f = gl.arange(0, SLICE, layout=gl.SliceLayout(0, wide))
    zero = gl.zeros([64, SLICE], gl.float32, wide)
    for r in range(rounds):
        tile = (r * GROUPS + group) * step + pid
        turn = r * (SLICES + 1)
        first = r * SLICES  # number of the round's first slice
        if tile < tiles:
            normalise_rows(rows, rows_full, r & 1, mean, var, eps, xhat, tile, D, KEEP)
            acc = gl.zeros([64, D], gl.float32, narrow)
            mbarrier.wait(full.index(first % BUFFERS), (first // BUFFERS) & 1)
            _wait_for(turns, group, turn)
            h_started = warpgroup_mma(
                rows, up.index(first % BUFFERS).permute([1, 0]), zero, use_acc=False, is_async=True
            )
            _pass_on(turns, group, GROUPS)
            h = warpgroup_mma_wait(0, deps=[h_started])
            for s in range(SLICES - 1):
                k = first + s
                bias = gl.load(b1 + s * SLICE + f)
                g = gl.convert_layout(gelu(h + bias[None, :]).to(gl.bfloat16), left)
                slot = (k + 1) % BUFFERS
                mbarrier.wait(full.index(slot), ((k + 1) // BUFFERS) & 1)
                _wait_for(turns, group, turn + s + 1)
                acc_started = warpgroup_mma(g, down.index(k % BUFFERS).permute([1, 0]), acc, is_async=True)
                h_started = warpgroup_mma(rows, up.index(slot).permute([1, 0]), zero, use_acc=False, is_async=True)
                _pass_on(turns, group, GROUPS)
                acc, h, g = warpgroup_mma_wait(0, deps=[acc_started, h_started, g])
                gl.thread_barrier()
                mbarrier.arrive(empty.index(k % BUFFERS), count=1)
            last = first + SLICES - 1
            bias_last = gl.load(b1 + (SLICES - 1) * SLICE + f)
            g_last = gl.convert_layout(gelu(h + bias_last[None, :]).to(gl.bfloat16), left)
            _wait_for(turns, group, turn + SLICES)
            last_started = warpgroup_mma(g_last, down.index(last % BUFFERS).permute([1, 0]), acc, is_async=True)
            _pass_on(turns, group, GROUPS)
            acc, g_last = warpgroup_mma_wait(0, deps=[last_started, g_last])
            gl.thread_barrier()
            mbarrier.arrive(empty.index(last % BUFFERS), count=1)
            finish_rows(acc, x, b2, y, out, rows_empty, partial, tile, M, D, STATISTICS)
        else:
            for s in range(SLICES):
                k = first + s
                mbarrier.wait(full.index(k % BUFFERS), (k // BUFFERS) & 1)
                mbarrier.arrive(empty.index(k % BUFFERS), count=1)
                _wait_for(turns, group, turn + s)
                _pass_on(turns, group, GROUPS)
            _wait_for(turns, group, turn + SLICES)
            _pass_on(turns, group, GROUPS)
    tma.store_wait(0)


@gluon.jit
def _activate(
    h: gl.tensor, dg: gl.tensor, bias: gl.tensor, db1: gl.tensor, out: gl.shared_memory_descriptor,
    dh: tma.tensor_descriptor, at: gl.tensor, f0: gl.tensor, LEFT: gl.constexpr,
) -> gl.tensor:  # fmt: skip
    """dh^T and g^T as left factors, and db1 with this tile's sums; dh^T goes out from row `at`."""
    g, slope = gelu_and_slope(h + bias[:, None])
    exact = slope * dg
    rounded = exact.to(gl.bfloat16)
    out.store(rounded)
    fence_async_shared()
    gl.thread_barrier()
    tma.async_copy_shared_to_global(dh, [at + f0, 0], out)
    tma.store_wait(1)  # the other buffer is free
    return gl.convert_layout(rounded, LEFT), gl.convert_layout(g.to(gl.bfloat16), LEFT), db1 + gl.sum(exact, 1)


@gluon.jit
def own_columns_in_turns(
    dh: tma.tensor_descriptor, xs: gl.shared_memory_descriptor, ys: gl.shared_memory_descriptor,
    full: gl.shared_memory_descriptor, empty: gl.shared_memory_descriptor, weights: gl.shared_memory_descriptor,
    turns: gl.shared_memory_descriptor, up: gl.shared_memory_descriptor, down: gl.shared_memory_descriptor,
    out: gl.shared_memory_descriptor, b1: gl.tensor, parts1: gl.tensor, parts2: gl.tensor, partsb: gl.tensor,
    f0: gl.tensor, group: gl.constexpr, first: gl.tensor, n: gl.tensor, D: gl.constexpr, F: gl.constexpr,
    BUFFERS: gl.constexpr,
) -> None:  # fmt: skip
    """Columns f0 to f0 + 63 of F, which are rows 64 group and on of the program's part. n is at least 1."""
    wide: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, 64, 16])
    grads: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, D, 16])
    left: gl.constexpr = gl.DotOperandLayout(0, grads, 2)
    f = gl.arange(0, 64, layout=gl.SliceLayout(1, wide))
    bias = gl.load(b1 + f0 + f)
    db1 = gl.zeros([64], gl.float32, gl.SliceLayout(1, wide))
    dw1 = gl.zeros([64, D], gl.float32, grads)
    dw2 = gl.zeros([64, D], gl.float32, grads)
    zero = gl.zeros([64, 64], gl.float32, wide)
    mbarrier.wait(weights.index(0), 0)
    mbarrier.wait(full.index(0), 0)
    _wait_for(turns, group, 0)
    h_started = warpgroup_mma(up, xs.index(0).permute([1, 0]), zero, use_acc=False, is_async=True)
    dg_started = warpgroup_mma(down.permute([1, 0]), ys.index(0).permute([1, 0]), zero, use_acc=False, is_async=True)
    _pass_on(turns, group, 2)
    h, dg = warpgroup_mma_wait(0, deps=[h_started, dg_started])
    dh_left, g_left, db1 = _activate(h, dg, bias, db1, out.index(0), dh, first * F, f0, left)
    for i in range(n - 1):
        slot = i % BUFFERS
        following = (i + 1) % BUFFERS
        mbarrier.wait(full.index(following), ((i + 1) // BUFFERS) & 1)
        _wait_for(turns, group, i + 1)
        dw1_started = warpgroup_mma(dh_left, xs.index(slot), dw1, is_async=True)
        dw2_started = warpgroup_mma(g_left, ys.index(slot), dw2, is_async=True)
        h_started = warpgroup_mma(up, xs.index(following).permute([1, 0]), zero, use_acc=False, is_async=True)
        dw1, dw2, dh_left, g_left = warpgroup_mma_wait(1, deps=[dw1_started, dw2_started, dh_left, g_left])
        dg_started = warpgroup_mma(
            down.permute([1, 0]), ys.index(following).permute([1, 0]), zero, use_acc=False, is_async=True
        )
        _pass_on(turns, group, 2)
        mbarrier.arrive(empty.index(slot), count=1)
        h, dg = warpgroup_mma_wait(0, deps=[h_started, dg_started])
        dh_left, g_left, db1 = _activate(h, dg, bias, db1, out.index((i + 1) % 2), dh, (first + i + 1) * F, f0, left)
    slot_last = (n - 1) % BUFFERS
    _wait_for(turns, group, n)
    dw1_started = warpgroup_mma(dh_left, xs.index(slot_last), dw1, is_async=True)
    dw2_started = warpgroup_mma(g_left, ys.index(slot_last), dw2, is_async=True)
    _pass_on(turns, group, 2)
    dw1, dw2, dh_left, g_left = warpgroup_mma_wait(0, deps=[dw1_started, dw2_started, dh_left, g_left])
    tma.store_wait(0)
    part = gl.program_id(0) * 128 + group * 64
    row = part + gl.arange(0, 64, layout=gl.SliceLayout(1, grads))
    column = gl.arange(0, D, layout=gl.SliceLayout(0, grads))
    at = row[:, None] * D + column[None, :]
    gl.store(parts1 + at, dw1)
    gl.store(parts2 + at, dw2)
    gl.store(partsb + part + f, db1)
