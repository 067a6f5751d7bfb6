"""Statistics of a tile of 64 rows, in Gluon, as the plain kernels of `model/fused/norm_kernels.py` leave them."""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl


@gluon.jit
def store_statistics(
    y: gl.tensor, tile: gl.tensor, M: gl.tensor, partial: gl.tensor, D: gl.constexpr, LAYOUT: gl.constexpr
) -> None:
    """Mean and M2 of the columns of y (64, D), which is block `tile` of 64 rows, to partial (blocks, 2, D)."""
    row = gl.arange(0, 64, layout=gl.SliceLayout(1, LAYOUT))
    column = gl.arange(0, D, layout=gl.SliceLayout(0, LAYOUT))
    valid = M - tile * 64
    there = (row < valid)[:, None] & (column >= 0)[None, :]
    mean = gl.sum(gl.where(there, y, 0.0), 0) / gl.minimum(valid, 64).to(gl.float32)
    away = gl.where(there, y - mean[None, :], 0.0)
    at = partial + tile * (2 * D) + column
    gl.store(at, mean)
    gl.store(at + D, gl.sum(away * away, 0))
