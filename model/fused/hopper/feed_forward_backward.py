"""First kernel of the feed-forward's backward pass for Hopper: dh, and both weights' gradients kept in registers.

Tensors: xhat dy M x D, w1 F x D with the norm's gamma folded in, w2 D x F, b1 (F,); dh is stored in tiles, M / 64 x F x
64, transposed as the products leave it. Products are transposed throughout: h^T = w1 xhat^T, so that g^T and dh^T stay
in registers as left factors of g^T dy (the gradient of w2, transposed) and dh^T xhat.

A program owns 128 columns of F, 64 for each of two warpgroups, and a chunk of the tiles of rows; a warp loads tiles.
With INSIDE, gelu's dropout, g and dh are thinned by the forward pass' mask. dy is then that after the path's dropout,
divided by the share of g that stays: it is a factor of both products that g's dropout scales.
The parts of chunks are added up in a fixed order by `fused_reduce_weight_gradients`. Rows past M are read as zeros and
add nothing: dy is zero there, and so is dh.
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
from model.fused.hopper.dropout import kept, silenced
from model.fused.hopper.gelu import gelu_and_slope


@gluon.jit
def _load_tiles(
    xhat: tma.tensor_descriptor, dy: tma.tensor_descriptor, xs: gl.shared_memory_descriptor,
    ys: gl.shared_memory_descriptor, full: gl.shared_memory_descriptor, empty: gl.shared_memory_descriptor,
    first: gl.tensor, n: gl.tensor, D: gl.constexpr, BUFFERS: gl.constexpr,
) -> None:  # fmt: skip
    for i in range(n):
        slot = i % BUFFERS
        mbarrier.wait(empty.index(slot), ((i // BUFFERS) & 1) ^ 1)
        mbarrier.expect(full.index(slot), 2 * 64 * D * 2)
        tma.async_copy_global_to_shared(xhat, [(first + i) * 64, 0], full.index(slot), xs.index(slot))
        tma.async_copy_global_to_shared(dy, [(first + i) * 64, 0], full.index(slot), ys.index(slot))


@gluon.jit
def _own_columns(
    dh: tma.tensor_descriptor, xs: gl.shared_memory_descriptor, ys: gl.shared_memory_descriptor,
    full: gl.shared_memory_descriptor, empty: gl.shared_memory_descriptor, weights: gl.shared_memory_descriptor,
    up: gl.shared_memory_descriptor, down: gl.shared_memory_descriptor, out: gl.shared_memory_descriptor,
    b1: gl.tensor, seed: gl.tensor, parts1: gl.tensor, parts2: gl.tensor, partsb: gl.tensor, site: gl.tensor,
    f0: gl.tensor, local: gl.tensor, first: gl.tensor, n: gl.tensor, D: gl.constexpr, F: gl.constexpr,
    BUFFERS: gl.constexpr, INSIDE: gl.constexpr,
) -> None:  # fmt: skip
    """Columns f0 to f0 + 63 of F, which are rows `local` and on of the program's part."""
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
    for i in range(n):
        slot = i % BUFFERS
        mbarrier.wait(full.index(slot), (i // BUFFERS) & 1)
        xt = xs.index(slot)
        yt = ys.index(slot)
        h_started = warpgroup_mma(up, xt.permute([1, 0]), zero, use_acc=False, is_async=True)
        dg_started = warpgroup_mma(down.permute([1, 0]), yt.permute([1, 0]), zero, use_acc=False, is_async=True)
        h = warpgroup_mma_wait(1, deps=[h_started])
        h += bias[:, None]
        if INSIDE > 0:
            h = silenced(h, kept(seed, site, (first + i) * 64, f0, 64, 64, wide, INSIDE, True))
        g, slope = gelu_and_slope(h)
        g_left = gl.convert_layout(g.to(gl.bfloat16), left)
        dg = warpgroup_mma_wait(0, deps=[dg_started])
        dh_exact = slope * dg
        db1 += gl.sum(dh_exact, 1)
        dh_rounded = dh_exact.to(gl.bfloat16)
        dh_left = gl.convert_layout(dh_rounded, left)
        dw1_started = warpgroup_mma(dh_left, xt, dw1, is_async=True)
        dw2_started = warpgroup_mma(g_left, yt, dw2, is_async=True)
        out.index(i % 2).store(dh_rounded)
        fence_async_shared()
        gl.thread_barrier()
        tma.async_copy_shared_to_global(dh, [(first + i) * F + f0, 0], out.index(i % 2))
        tma.store_wait(1)  # the other buffer is free
        dw1, dw2, dh_left, g_left = warpgroup_mma_wait(0, deps=[dw1_started, dw2_started, dh_left, g_left])
        gl.thread_barrier()
        mbarrier.arrive(empty.index(slot), count=1)
    tma.store_wait(0)
    part = gl.program_id(0) * 128 + local
    own = part + gl.arange(0, 64, layout=gl.SliceLayout(1, grads))
    column = gl.arange(0, D, layout=gl.SliceLayout(0, grads))
    at = own[:, None] * D + column[None, :]
    gl.store(parts1 + at, dw1)
    gl.store(parts2 + at, dw2)
    gl.store(partsb + part + f, db1)


@gluon.jit(do_not_specialize=["site", "tiles", "chunks"])
def hopper_feed_forward_backward(
    xhat: tma.tensor_descriptor, dy: tma.tensor_descriptor, w1: tma.tensor_descriptor, w2: tma.tensor_descriptor,
    dh: tma.tensor_descriptor, b1: gl.tensor, seed: gl.tensor, parts1: gl.tensor, parts2: gl.tensor, partsb: gl.tensor,
    site: gl.tensor, tiles: gl.tensor, chunks: gl.tensor, D: gl.constexpr, F: gl.constexpr, BUFFERS: gl.constexpr,
    INSIDE: gl.constexpr,
) -> None:  # fmt: skip
    """parts1 and parts2 (programs, 128, D): dh^T xhat and g^T dy; partsb (programs, 128): sums of dh.

    Grid: chunks times F / 128; program p takes columns 128 (p mod F / 128) and on of chunk p / (F / 128).
    """
    SLICES: gl.constexpr = F // 128
    pid = gl.program_id(0)
    chunk = pid // SLICES
    first = (chunk * tiles) // chunks
    n = ((chunk + 1) * tiles) // chunks - first
    f0 = (pid % SLICES) * 128
    up = gl.allocate_shared_memory(gl.bfloat16, [2, 64, D], w1.layout)
    down = gl.allocate_shared_memory(gl.bfloat16, [2, D, 64], w2.layout)
    xs = gl.allocate_shared_memory(gl.bfloat16, [BUFFERS, 64, D], xhat.layout)
    ys = gl.allocate_shared_memory(gl.bfloat16, [BUFFERS, 64, D], dy.layout)
    out0 = gl.allocate_shared_memory(gl.bfloat16, [2, 64, 64], dh.layout)
    out1 = gl.allocate_shared_memory(gl.bfloat16, [2, 64, 64], dh.layout)
    full = barriers(BUFFERS, 1)
    empty = barriers(BUFFERS, 2)
    weights = barriers(1, 1)
    fence_async_shared()
    gl.thread_barrier()
    mbarrier.expect(weights.index(0), 2 * 128 * D * 2)
    for k in gl.static_range(2):
        tma.async_copy_global_to_shared(w1, [f0 + k * 64, 0], weights.index(0), up.index(k))
        tma.async_copy_global_to_shared(w2, [0, f0 + k * 64], weights.index(0), down.index(k))
    gl.warp_specialize([
        (_own_columns, (
            dh, xs, ys, full, empty, weights, up.index(0), down.index(0), out0, b1, seed, parts1, parts2, partsb, site,
            f0, 0, first, n, D, F, BUFFERS, INSIDE,
        )),
        (_own_columns, (
            dh, xs, ys, full, empty, weights, up.index(1), down.index(1), out1, b1, seed, parts1, parts2, partsb, site,
            f0 + 64, 64, first, n, D, F, BUFFERS, INSIDE,
        )),
        (_load_tiles, (xhat, dy, xs, ys, full, empty, first, n, D, BUFFERS)),
    ], [4, 1], [240, 24])  # fmt: skip
