"""A pass over the gradient of what a sublayer leaves, for Hopper: dropout before the residual, the residual's own sums.

Tensors: dy xhat out M x D; out is dropout(dy) times a constant. A program takes tiles of 64 rows, each in two halves of
64 columns, and loads the next tile meanwhile. Rows past M are read as zeros, and TMA drops what is stored there.
"""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, mbarrier, tma

from model.fused.hopper.barriers import barriers
from model.fused.hopper.dropout import kept, thinned


@gluon.jit
def folded(values: gl.tensor) -> gl.tensor:
    """Half as many numbers for sums over rows (64, 64): a thread's rows r and r + 8 added."""
    return gl.sum(gl.reshape(values, [4, 2, 8, 64]), 1)


@gluon.jit
def store_folded(to: gl.tensor, sums: gl.tensor, LAYOUT: gl.constexpr) -> None:
    """Sums over the rows of what `folded` gave, to 64 numbers from `to` on."""
    column: gl.constexpr = gl.SliceLayout(0, LAYOUT)
    gl.store(to + gl.arange(0, 64, layout=column), gl.convert_layout(gl.sum(gl.sum(sums, 0), 0), column))


@gluon.jit
def _load(
    dy: tma.tensor_descriptor, xhat: tma.tensor_descriptor, ys: gl.shared_memory_descriptor,
    xs: gl.shared_memory_descriptor, full: gl.shared_memory_descriptor, slot: gl.tensor, row: gl.tensor,
    pred: gl.tensor, POST: gl.constexpr,
) -> None:  # fmt: skip
    mbarrier.expect(full.index(slot), (4 if POST else 2) * 64 * 64 * 2, pred=pred)
    for half in gl.static_range(2):
        to = 2 * slot + half
        tma.async_copy_global_to_shared(dy, [row, half * 64], full.index(slot), ys.index(to), pred=pred)
        if POST:
            tma.async_copy_global_to_shared(xhat, [row, half * 64], full.index(slot), xs.index(to), pred=pred)


@gluon.jit(do_not_specialize=["site", "tiles"])
def hopper_residual_gradient(
    dy: tma.tensor_descriptor, xhat: tma.tensor_descriptor, out: tma.tensor_descriptor, seed: gl.tensor,
    partial: gl.tensor, site: gl.tensor, tiles: gl.tensor, D: gl.constexpr, LEVEL: gl.constexpr, SCALE: gl.constexpr,
    WRITE: gl.constexpr, POST: gl.constexpr,
) -> None:  # fmt: skip
    """partial (programs, 3 with POST else 1, D): sums over rows of dropout(dy), of dy and of dy xhat.

    WRITE: dropout(dy) times SCALE goes to `out`. Grid: any number of programs, at most one for each tile.
    """
    layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, 64, 16])
    pid = gl.program_id(0)
    step = gl.num_programs(0)
    ys = gl.allocate_shared_memory(gl.bfloat16, [4, 64, 64], dy.layout)
    xs = gl.allocate_shared_memory(gl.bfloat16, [4, 64, 64], xhat.layout) if POST else ys
    os = gl.allocate_shared_memory(gl.bfloat16, [2, 64, 64], out.layout) if WRITE else ys
    full = barriers(2, 1)
    fence_async_shared()
    gl.thread_barrier()
    zero = folded(gl.zeros([64, 64], gl.float32, layout))
    t0, t1, g0, g1, p0, p1 = zero, zero, zero, zero, zero, zero
    n = (tiles - pid + step - 1) // step
    _load(dy, xhat, ys, xs, full, 0, pid * 64, True, POST)
    for t in range(n):
        slot = t % 2
        row = (pid + t * step) * 64
        _load(dy, xhat, ys, xs, full, slot ^ 1, row + step * 64, t + 1 < n, POST)
        mbarrier.wait(full.index(slot), (t // 2) & 1)
        if WRITE:
            tma.store_wait(0)  # the tile before has left
            gl.thread_barrier()
        for half in gl.static_range(2):
            grad = ys.index(2 * slot + half).load(layout).to(gl.float32)
            thin = grad
            if LEVEL > 0:
                thin = thinned(grad, kept(seed, site, row, half * 64, 64, 64, layout, LEVEL, False), LEVEL)
            if WRITE:
                os.index(half).store((thin * SCALE).to(gl.bfloat16))
            thin_sum = folded(thin)
            if POST:
                grad_sum = folded(grad)
                product_sum = folded(grad * xs.index(2 * slot + half).load(layout).to(gl.float32))
            if half == 0:
                t0 += thin_sum
                if POST:
                    g0 += grad_sum
                    p0 += product_sum
            else:
                t1 += thin_sum
                if POST:
                    g1 += grad_sum
                    p1 += product_sum
        fence_async_shared()
        gl.thread_barrier()
        if WRITE:
            for half in gl.static_range(2):
                tma.async_copy_shared_to_global(out, [row, half * 64], os.index(half))
    tma.store_wait(0)
    to = partial + pid * (3 * D if POST else D)
    store_folded(to, t0, layout)
    store_folded(to + 64, t1, layout)
    if POST:
        store_folded(to + D, g0, layout)
        store_folded(to + D + 64, g1, layout)
        store_folded(to + 2 * D, p0, layout)
        store_folded(to + 2 * D + 64, p1, layout)
