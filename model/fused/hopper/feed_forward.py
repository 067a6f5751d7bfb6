"""The feed-forward sublayer's forward pass for Hopper: y = r + w2 gelu(w1 xhat + b1) + b2, warp-specialised.

The residual r is x or, with POST, gamma xhat + beta. INSIDE and PATH are dropout's levels after gelu and before the
residual, 0 for none; their sites are `site` and `site` + 1.

Tensors: x y xhat M x D, w1 F x D with the norm's gamma folded in, b1 (F,) with its beta, w2 D x F; bf16, biases fp32.

A program has three warpgroups that compute, each on 64 rows of its own, one warp that streams slices of the weights to
all three, and one that loads rows. Barriers in shared memory connect them, so that one warpgroup multiplies while
another is at GELU. Rows past M are read as zeros, their statistics are masked, and their stores are dropped by TMA.
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
from model.fused.hopper.dropout import kept, share_over, silenced
from model.fused.hopper.gelu import gelu
from model.fused.hopper.tile import finish_rows, normalise_rows


@gluon.jit
def _load_weights(
    w1: tma.tensor_descriptor, w2: tma.tensor_descriptor, up: gl.shared_memory_descriptor,
    down: gl.shared_memory_descriptor, full: gl.shared_memory_descriptor, empty: gl.shared_memory_descriptor,
    rounds: gl.tensor, SLICES: gl.constexpr, SLICE: gl.constexpr, D: gl.constexpr, BUFFERS: gl.constexpr,
) -> None:  # fmt: skip
    """All slices of both weights, once a round."""
    for k in range(rounds * SLICES):
        slot = k % BUFFERS
        first = (k % SLICES) * SLICE
        mbarrier.wait(empty.index(slot), ((k // BUFFERS) & 1) ^ 1)
        mbarrier.expect(full.index(slot), 2 * SLICE * D * 2)
        tma.async_copy_global_to_shared(w1, [first, 0], full.index(slot), up.index(slot))
        tma.async_copy_global_to_shared(w2, [0, first], full.index(slot), down.index(slot))


@gluon.jit
def _load_rows(
    x: tma.tensor_descriptor, rows: gl.shared_memory_descriptor, full: gl.shared_memory_descriptor,
    empty: gl.shared_memory_descriptor, rounds: gl.tensor, pid: gl.tensor, step: gl.tensor, tiles: gl.tensor,
    D: gl.constexpr, GROUPS: gl.constexpr,
) -> None:  # fmt: skip
    """One tile of rows for each warpgroup, once a round."""
    for r in range(rounds):
        for group in gl.static_range(GROUPS):
            tile = (r * GROUPS + group) * step + pid
            more = tile < tiles
            mbarrier.wait(empty.index(group), (r & 1) ^ 1, pred=more)
            mbarrier.expect(full.index(group), 64 * D * 2, pred=more)
            tma.async_copy_global_to_shared(x, [tile * 64, 0], full.index(group), rows.index(group), pred=more)


@gluon.jit
def _compute(
    y: tma.tensor_descriptor, xhat: tma.tensor_descriptor, rows: gl.shared_memory_descriptor,
    out: gl.shared_memory_descriptor, up: gl.shared_memory_descriptor, down: gl.shared_memory_descriptor,
    full: gl.shared_memory_descriptor, empty: gl.shared_memory_descriptor, rows_full: gl.shared_memory_descriptor,
    rows_empty: gl.shared_memory_descriptor, x: gl.tensor, b1: gl.tensor, b2: gl.tensor, mean: gl.tensor,
    var: gl.tensor, gamma: gl.tensor, beta: gl.tensor, seed: gl.tensor, partial: gl.tensor, eps: gl.tensor,
    site: gl.tensor, M: gl.tensor, tiles: gl.tensor, rounds: gl.tensor, group: gl.tensor, pid: gl.tensor,
    step: gl.tensor, D: gl.constexpr, SLICES: gl.constexpr, SLICE: gl.constexpr, BUFFERS: gl.constexpr,
    GROUPS: gl.constexpr, POST: gl.constexpr, INSIDE: gl.constexpr, PATH: gl.constexpr, KEEP: gl.constexpr,
    STATISTICS: gl.constexpr,
) -> None:  # fmt: skip
    """A warpgroup's tiles, one a round. Without a tile in the last round it still frees the weights."""
    wide: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, SLICE, 16])
    narrow: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, D, 16])
    left: gl.constexpr = gl.DotOperandLayout(0, narrow, 2)
    f = gl.arange(0, SLICE, layout=gl.SliceLayout(0, wide))
    zero = gl.zeros([64, SLICE], gl.float32, wide)
    for r in range(rounds):
        tile = (r * GROUPS + group) * step + pid
        if tile < tiles:
            normalise_rows(rows, rows_full, r & 1, mean, var, eps, xhat, tile, D, KEEP)
            acc = gl.zeros([64, D], gl.float32, narrow)
            for s in range(SLICES):
                k = r * SLICES + s
                slot = k % BUFFERS
                bias = gl.load(b1 + s * SLICE + f)
                mbarrier.wait(full.index(slot), (k // BUFFERS) & 1)
                started = warpgroup_mma(rows, up.index(slot).permute([1, 0]), zero, use_acc=False, is_async=True)
                h = warpgroup_mma_wait(0, deps=[started])
                h += bias[None, :]
                if INSIDE > 0:
                    h = silenced(h, kept(seed, site, tile * 64, s * SLICE, 64, SLICE, wide, INSIDE, False))
                g_left = gl.convert_layout(gelu(h).to(gl.bfloat16), left)
                started = warpgroup_mma(g_left, down.index(slot).permute([1, 0]), acc, is_async=True)
                acc, g_left = warpgroup_mma_wait(0, deps=[started, g_left])
                gl.thread_barrier()
                mbarrier.arrive(empty.index(slot), count=1)
            if INSIDE > 0:
                acc *= share_over(INSIDE)
            finish_rows(
                acc, x, gamma, beta, b2, seed, site + 1, y, rows, out, rows_empty, partial, tile, M, D, POST, PATH,
                STATISTICS,
            )  # fmt: skip
        else:
            for s in range(SLICES):
                k = r * SLICES + s
                mbarrier.wait(full.index(k % BUFFERS), (k // BUFFERS) & 1)
                mbarrier.arrive(empty.index(k % BUFFERS), count=1)
    tma.store_wait(0)


@gluon.jit(do_not_specialize=["site", "M", "tiles"])
def hopper_feed_forward(
    x_rows: tma.tensor_descriptor, w1: tma.tensor_descriptor, w2: tma.tensor_descriptor, y: tma.tensor_descriptor,
    xhat: tma.tensor_descriptor, x: gl.tensor, b1: gl.tensor, b2: gl.tensor, mean: gl.tensor, var: gl.tensor,
    gamma: gl.tensor, beta: gl.tensor, seed: gl.tensor, partial: gl.tensor, eps: gl.tensor, site: gl.tensor,
    M: gl.tensor, tiles: gl.tensor, D: gl.constexpr, F: gl.constexpr, SLICE: gl.constexpr, BUFFERS: gl.constexpr,
    POST: gl.constexpr, INSIDE: gl.constexpr, PATH: gl.constexpr, KEEP: gl.constexpr, STATISTICS: gl.constexpr,
) -> None:  # fmt: skip
    """KEEP: xhat is stored for the backward pass. STATISTICS: those of y by blocks of 64 rows. Grid: any number."""
    GROUPS: gl.constexpr = 3
    SLICES: gl.constexpr = F // SLICE
    pid = gl.program_id(0)
    step = gl.num_programs(0)
    rows = gl.allocate_shared_memory(gl.bfloat16, [GROUPS, 64, D], x_rows.layout)
    out = gl.allocate_shared_memory(gl.bfloat16, [GROUPS, 64, D], y.layout)
    up = gl.allocate_shared_memory(gl.bfloat16, [BUFFERS, SLICE, D], w1.layout)
    down = gl.allocate_shared_memory(gl.bfloat16, [BUFFERS, D, SLICE], w2.layout)
    full = barriers(BUFFERS, 1)
    empty = barriers(BUFFERS, GROUPS)
    rfull = barriers(GROUPS, 1)
    rempty = barriers(GROUPS, 1)
    fence_async_shared()
    gl.thread_barrier()
    rounds = (tiles - pid + step * GROUPS - 1) // (step * GROUPS)
    gl.warp_specialize([
        (_compute, (
            y, xhat, rows.index(0), out.index(0), up, down, full, empty, rfull.index(0), rempty.index(0), x, b1, b2,
            mean, var, gamma, beta, seed, partial, eps, site, M, tiles, rounds, 0, pid, step, D, SLICES, SLICE, BUFFERS,
            GROUPS, POST, INSIDE, PATH, KEEP, STATISTICS,
        )),
        (_compute, (
            y, xhat, rows.index(1), out.index(1), up, down, full, empty, rfull.index(1), rempty.index(1), x, b1, b2,
            mean, var, gamma, beta, seed, partial, eps, site, M, tiles, rounds, 1, pid, step, D, SLICES, SLICE, BUFFERS,
            GROUPS, POST, INSIDE, PATH, KEEP, STATISTICS,
        )),
        (_compute, (
            y, xhat, rows.index(2), out.index(2), up, down, full, empty, rfull.index(2), rempty.index(2), x, b1, b2,
            mean, var, gamma, beta, seed, partial, eps, site, M, tiles, rounds, 2, pid, step, D, SLICES, SLICE, BUFFERS,
            GROUPS, POST, INSIDE, PATH, KEEP, STATISTICS,
        )),
        (_load_weights, (w1, w2, up, down, full, empty, rounds, SLICES, SLICE, D, BUFFERS)),
        (_load_rows, (x_rows, rows, rfull, rempty, rounds, pid, step, tiles, D, GROUPS)),
    ], [4, 4, 1, 1], [160, 160, 24, 24])  # fmt: skip
