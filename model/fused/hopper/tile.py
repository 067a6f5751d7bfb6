"""A warpgroup's 64 rows before and after the feed-forward's products, in Gluon: norm, residual, statistics."""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, mbarrier, tma

from model.fused.hopper.dropout import kept, thinned
from model.fused.hopper.statistics import store_statistics


@gluon.jit
def normalise_rows(
    rows: gl.shared_memory_descriptor, full: gl.shared_memory_descriptor, phase: gl.tensor, mean: gl.tensor,
    var: gl.tensor, eps: gl.tensor, xhat: tma.tensor_descriptor, tile: gl.tensor, D: gl.constexpr, KEEP: gl.constexpr,
) -> None:  # fmt: skip
    """Rows of x become rows of xhat in their place once they have arrived; KEEP: these go out."""
    plain: gl.constexpr = gl.BlockedLayout([1, 8], [2, 16], [4, 1], [1, 0])
    c = gl.arange(0, D, layout=gl.SliceLayout(0, plain))
    rstd = 1.0 / gl.sqrt(gl.load(var + c) + eps)
    shift = -gl.load(mean + c) * rstd
    mbarrier.wait(full, phase)
    values = rows.load(plain).to(gl.float32)
    rows.store((values * rstd[None, :] + shift[None, :]).to(gl.bfloat16))
    fence_async_shared()
    tma.store_wait(0)  # y of the tile before has left
    gl.thread_barrier()
    if KEEP:
        tma.async_copy_shared_to_global(xhat, [tile * 64, 0], rows)


@gluon.jit
def finish_rows(
    acc: gl.tensor, x: gl.tensor, gamma: gl.tensor, beta: gl.tensor, b2: gl.tensor, seed: gl.tensor, site: gl.tensor,
    y: tma.tensor_descriptor, rows: gl.shared_memory_descriptor, out: gl.shared_memory_descriptor,
    empty: gl.shared_memory_descriptor, partial: gl.tensor, tile: gl.tensor, M: gl.tensor, D: gl.constexpr,
    POST: gl.constexpr, PATH: gl.constexpr, STATISTICS: gl.constexpr,
) -> None:  # fmt: skip
    """y = dropout(acc + b2) + residual goes out, with its statistics; the buffer of xhat, `rows`, is free again.

    The residual is x or, with POST, gamma xhat + beta.
    """
    columns: gl.constexpr = gl.BlockedLayout([1, 2], [2, 16], [1, 4], [1, 0])
    narrow: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, D, 16])
    d = gl.arange(0, D, layout=gl.SliceLayout(0, narrow))
    bias = gl.load(b2 + d)
    if PATH > 0:
        acc = thinned(acc + bias[None, :], kept(seed, site, tile * 64, 0, 64, D, narrow, PATH, False), PATH)
    if POST:
        residual = rows.load(narrow).to(gl.float32) * gl.load(gamma + d)[None, :] + gl.load(beta + d)[None, :]
    else:
        row = tile * 64 + gl.arange(0, 64, layout=gl.SliceLayout(1, narrow))
        there = (row < M)[:, None] & (d < D)[None, :]
        residual = gl.load(x + row.to(gl.int64)[:, None] * D + d[None, :], mask=there, other=0.0).to(gl.float32)
    tma.store_wait(0)  # xhat has left
    gl.thread_barrier()
    mbarrier.arrive(empty, count=1)
    if PATH > 0:
        out.store((acc + residual).to(gl.bfloat16))
    else:
        out.store((acc + bias[None, :] + residual).to(gl.bfloat16))
    fence_async_shared()
    gl.thread_barrier()
    tma.async_copy_shared_to_global(y, [tile * 64, 0], out)
    if STATISTICS:
        store_statistics(out.load(columns).to(gl.float32), tile, M, partial, D, columns)
