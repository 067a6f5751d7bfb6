"""Last kernel of a sublayer's backward pass for Hopper: dx of a linear layer behind a batch norm, and of the residual.

    dx = rstd (a w - mean(a w) - xhat mean(a w xhat)) + r
    dx = rstd (z - mean(z) - xhat mean(z xhat)), z = a w + gamma r, with POST: the residual is the norm's output

a is the gradient of the linear layer's output, w its weight with gamma folded in, r the residual's gradient. Both means
come from the weight's gradient, so that one pass suffices: they are gamma dbeta / M and gamma dgamma / M. With POST
also from `r_sums` (2, D): those of r and of r xhat.

Tensors: xhat r dx M x D, w K x D. a is M x K or, TILED, M / 64 x K x 64 transposed in tiles of rows. K is divided into
pieces of 128, the last of which may be narrower, REST: TMA reads zeros past K. A program has two warpgroups, each with
half the columns of all its tiles, and a warp that loads.
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


@gluon.jit
def _load(
    a: tma.tensor_descriptor, a_rest: tma.tensor_descriptor, xhat: tma.tensor_descriptor, r: tma.tensor_descriptor,
    pieces: gl.shared_memory_descriptor, rest: gl.shared_memory_descriptor, xs: gl.shared_memory_descriptor,
    rs: gl.shared_memory_descriptor, full: gl.shared_memory_descriptor, empty: gl.shared_memory_descriptor,
    n: gl.tensor, pid: gl.tensor, step: gl.tensor, PIECES: gl.constexpr, REST: gl.constexpr,
    BUFFERS: gl.constexpr, TILED: gl.constexpr, RESIDUAL: gl.constexpr,
) -> None:  # fmt: skip
    """Of every tile the pieces of a, which have a buffer each, then xhat and r, which have BUFFERS."""
    ALL: gl.constexpr = PIECES + (1 if REST else 0)
    for t in range(n):
        row = (pid + t * step) * 64
        for j in gl.static_range(PIECES):
            mbarrier.wait(empty.index(j), (t & 1) ^ 1)
            mbarrier.expect(full.index(j), 64 * 128 * 2)
            if TILED:
                at = row * (2 * PIECES) + j * 128
                tma.async_copy_global_to_shared(a, [at, 0], full.index(j), pieces.index(j))
            else:
                tma.async_copy_global_to_shared(a, [row, j * 128], full.index(j), pieces.index(j))
        if REST:
            mbarrier.wait(empty.index(PIECES), (t & 1) ^ 1)
            mbarrier.expect(full.index(PIECES), 64 * REST * 2)
            tma.async_copy_global_to_shared(a_rest, [row, PIECES * 128], full.index(PIECES), rest)
        q = t % BUFFERS
        mbarrier.wait(empty.index(ALL + q), ((t // BUFFERS) & 1) ^ 1)
        mbarrier.expect(full.index(ALL + q), (4 if RESIDUAL else 2) * 64 * 64 * 2)
        for half in gl.static_range(2):
            tma.async_copy_global_to_shared(xhat, [row, half * 64], full.index(ALL + q), xs.index(q * 2 + half))
            if RESIDUAL:
                tma.async_copy_global_to_shared(r, [row, half * 64], full.index(ALL + q), rs.index(q * 2 + half))


@gluon.jit
def _norm_sums(
    sums: gl.tensor, r_sums: gl.tensor, dgamma: gl.tensor, dbeta: gl.tensor, group: gl.tensor, pid: gl.tensor,
    D: gl.constexpr, POST: gl.constexpr, PARTS: gl.constexpr, PADDED: gl.constexpr, TARGET: gl.constexpr,
) -> gl.tensor:  # fmt: skip
    """dbeta and dgamma of this group's 64 columns: sums over (PARTS, 2, D), and r_sums with POST.

    The first program stores them.
    """
    layout: gl.constexpr = gl.BlockedLayout([1, 4], [2, 16], [4, 1], [1, 0])
    part = gl.arange(0, PADDED, layout=gl.SliceLayout(1, layout))
    column = group * 64 + gl.arange(0, 64, layout=gl.SliceLayout(0, layout))
    at = sums + part[:, None] * (2 * D) + column[None, :]
    there = (part < PARTS)[:, None] & (column < D)[None, :]
    beta = gl.sum(gl.load(at, mask=there, other=0.0), 0)
    gamma = gl.sum(gl.load(at + D, mask=there, other=0.0), 0)
    if POST:
        beta += gl.load(r_sums + column)
        gamma += gl.load(r_sums + D + column)
    if pid == 0:
        gl.store(dbeta + column, beta)
        gl.store(dgamma + column, gamma)
    return gl.convert_layout(beta, TARGET), gl.convert_layout(gamma, TARGET)


@gluon.jit
def _compute(
    dx: tma.tensor_descriptor, pieces: gl.shared_memory_descriptor, rest: gl.shared_memory_descriptor,
    w: gl.shared_memory_descriptor, w_rest: gl.shared_memory_descriptor, xs: gl.shared_memory_descriptor,
    rs: gl.shared_memory_descriptor, full: gl.shared_memory_descriptor, empty: gl.shared_memory_descriptor,
    weights: gl.shared_memory_descriptor, var: gl.tensor, gamma: gl.tensor, sums: gl.tensor, r_sums: gl.tensor,
    dgamma: gl.tensor, dbeta: gl.tensor, row_sums: gl.tensor, eps: gl.tensor, M: gl.tensor, n: gl.tensor,
    group: gl.tensor, pid: gl.tensor, step: gl.tensor, D: gl.constexpr, PIECES: gl.constexpr, REST: gl.constexpr,
    BUFFERS: gl.constexpr, TILED: gl.constexpr, TRAINING: gl.constexpr, RESIDUAL: gl.constexpr, POST: gl.constexpr,
    SUMS: gl.constexpr, PARTS: gl.constexpr, PADDED: gl.constexpr,
) -> None:  # fmt: skip
    """Columns 64 group to 64 group + 63 of every tile of the program."""
    ALL: gl.constexpr = PIECES + (1 if REST else 0)
    layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, 64, 16])
    column: gl.constexpr = gl.SliceLayout(0, layout)
    c = group * 64 + gl.arange(0, 64, layout=column)
    rstd = 1.0 / gl.sqrt(gl.load(var + c) + eps)
    beta_sum, gamma_sum = _norm_sums(sums, r_sums, dgamma, dbeta, group, pid, D, POST, PARTS, PADDED, column)
    gamma_c = gl.load(gamma + c)
    scale = rstd * gamma_c / M
    first = beta_sum * scale
    second = gamma_sum * scale
    total = gl.zeros([64, 64], gl.float32, layout)
    mbarrier.wait(weights.index(0), 0)
    for t in range(n):
        q = t % BUFFERS
        acc = gl.zeros([64, 64], gl.float32, layout)
        for j in gl.static_range(PIECES):
            mbarrier.wait(full.index(j), t & 1)
            piece = pieces.index(j)
            if TILED:
                piece = piece.permute([1, 0])
            started = warpgroup_mma(piece, w.index(2 * j + group), acc, use_acc=j > 0, is_async=True)
            acc = warpgroup_mma_wait(0, deps=[started])
            gl.thread_barrier()
            mbarrier.arrive(empty.index(j), count=1)
        if REST:
            mbarrier.wait(full.index(PIECES), t & 1)
            started = warpgroup_mma(rest, w_rest.index(group), acc, use_acc=PIECES > 0, is_async=True)
            acc = warpgroup_mma_wait(0, deps=[started])
            gl.thread_barrier()
            mbarrier.arrive(empty.index(PIECES), count=1)
        mbarrier.wait(full.index(ALL + q), (t // BUFFERS) & 1)
        xt = xs.index(q * 2 + group)
        rt = rs.index(q * 2 + group)
        if POST:
            acc += rt.load(layout).to(gl.float32) * gamma_c[None, :]
        found = acc * rstd[None, :]
        if TRAINING:
            found = found - (xt.load(layout).to(gl.float32) * second[None, :] + first[None, :])
        if RESIDUAL and not POST:
            residual = rt.load(layout).to(gl.float32)
            found = found + residual
            if SUMS:
                total += residual
        gl.thread_barrier()
        rt.store(found.to(gl.bfloat16))
        fence_async_shared()
        gl.thread_barrier()
        tma.async_copy_shared_to_global(dx, [(pid + t * step) * 64, group * 64], rt)
        tma.store_wait(0)
        gl.thread_barrier()
        mbarrier.arrive(empty.index(ALL + q), count=1)
    if SUMS:
        gl.store(row_sums + pid * D + c, gl.sum(total, 0))


@gluon.jit(do_not_specialize=["M", "tiles"])
def hopper_input_gradient(
    a: tma.tensor_descriptor, a_rest: tma.tensor_descriptor, w_piece: tma.tensor_descriptor,
    w_rest: tma.tensor_descriptor, xhat: tma.tensor_descriptor, r: tma.tensor_descriptor, dx: tma.tensor_descriptor,
    var: gl.tensor, gamma: gl.tensor, sums: gl.tensor, r_sums: gl.tensor, dgamma: gl.tensor, dbeta: gl.tensor,
    row_sums: gl.tensor, eps: gl.tensor, M: gl.tensor, tiles: gl.tensor, D: gl.constexpr, PIECES: gl.constexpr,
    REST: gl.constexpr, BUFFERS: gl.constexpr, TILED: gl.constexpr, TRAINING: gl.constexpr, RESIDUAL: gl.constexpr,
    POST: gl.constexpr, SUMS: gl.constexpr, PARTS: gl.constexpr, PADDED: gl.constexpr,
) -> None:  # fmt: skip
    """dx; dbeta and dgamma (D,) from sums (PARTS, 2, D); with SUMS also row_sums (programs, D), those of r.

    Not TRAINING: the statistics were constants. Without RESIDUAL r is not read. Grid: any number of programs.
    """
    ALL: gl.constexpr = PIECES + (1 if REST else 0)
    pid = gl.program_id(0)
    step = gl.num_programs(0)
    w = gl.allocate_shared_memory(gl.bfloat16, [2 * max(PIECES, 1), 128, 64], w_piece.layout)
    if TILED:
        pieces = gl.allocate_shared_memory(gl.bfloat16, [PIECES, 128, 64], a.layout)
    else:
        pieces = gl.allocate_shared_memory(gl.bfloat16, [max(PIECES, 1), 64, 128], a.layout)
    xs = gl.allocate_shared_memory(gl.bfloat16, [2 * BUFFERS, 64, 64], xhat.layout)
    rs = gl.allocate_shared_memory(gl.bfloat16, [2 * BUFFERS, 64, 64], r.layout)
    full = gl.allocate_shared_memory(gl.int64, [ALL + BUFFERS, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [ALL + BUFFERS, 1], mbarrier.MBarrierLayout())
    weights = gl.allocate_shared_memory(gl.int64, [1, 1], mbarrier.MBarrierLayout())
    for j in gl.static_range(ALL + BUFFERS):
        mbarrier.init(full.index(j), count=1)
        mbarrier.init(empty.index(j), count=2)
    mbarrier.init(weights.index(0), count=1)
    fence_async_shared()
    gl.thread_barrier()
    mbarrier.expect(weights.index(0), (PIECES * 128 + REST) * D * 2)
    for j in gl.static_range(PIECES):
        for half in gl.static_range(2):
            tma.async_copy_global_to_shared(w_piece, [j * 128, half * 64], weights.index(0), w.index(2 * j + half))
    if REST:
        w_left = gl.allocate_shared_memory(gl.bfloat16, [2, REST, 64], w_rest.layout)
        rest = gl.allocate_shared_memory(gl.bfloat16, [64, REST], a_rest.layout)
        for half in gl.static_range(2):
            tma.async_copy_global_to_shared(w_rest, [PIECES * 128, half * 64], weights.index(0), w_left.index(half))
    else:
        w_left = w
        rest = pieces
    n = (tiles - pid + step - 1) // step
    gl.warp_specialize([
        (_compute, (dx, pieces, rest, w, w_left, xs, rs, full, empty, weights, var, gamma, sums, r_sums, dgamma,
                    dbeta, row_sums, eps, M, n, 0, pid, step, D, PIECES, REST, BUFFERS, TILED, TRAINING, RESIDUAL, POST,
                    SUMS, PARTS, PADDED)),
        (_compute, (dx, pieces, rest, w, w_left, xs, rs, full, empty, weights, var, gamma, sums, r_sums, dgamma,
                    dbeta, row_sums, eps, M, n, 1, pid, step, D, PIECES, REST, BUFFERS, TILED, TRAINING, RESIDUAL, POST,
                    SUMS, PARTS, PADDED)),
        (_load, (a, a_rest, xhat, r, pieces, rest, xs, rs, full, empty, n, pid, step, PIECES, REST, BUFFERS,
                 TILED, RESIDUAL)),
    ], [4, 1], [240, 24])  # fmt: skip
