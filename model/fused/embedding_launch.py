"""Launches of the kernels before the layers: tile sizes with reasons, grids, scratch memory. No autograd.

One choice serves compute capability 8.0 to 9.0: by compiling, none spills more than 64 bytes a thread or needs more
than 99 KiB of shared memory, the most on 8.6 and 8.9 (tests/model/fused/test_embedding.py).

Shapes: M rows, N patches, P patch length, D model width.
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from model.fused import drop_kernels, embedding_kernels, launch
from model.fused.dropout import POSITION_SITE

PROGRAMS = 256  # of the embedding's backward kernel, at most: about two for each SM of a large GPU
MOST_PARTIAL = 2**22  # numbers that they leave to be added up, together: 16 MiB
# 32 elements a thread: 14 instructions each on 9.0, so memory is the limit; 39 registers.
DROP_ROWS, DROP_COLUMNS = 64, 64


def embedding(
    patches: Tensor, weight: Tensor, bias: Tensor, positions: Tensor, seed: Tensor | None, level: int,
    dtype: torch.dtype, *, statistics: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """dropout(patches weight^T + bias + positions) (M, D) in `dtype`, and its statistics by blocks if asked for."""
    b, c, n, p = patches.shape
    m, d = b * c * n, weight.shape[0]
    y = patches.new_empty((m, d), dtype=dtype)
    parts = launch.empty_statistics(y, d, statistics)
    embedding_kernels.fused_embedding[(triton.cdiv(m, launch.STAT_ROWS),)](
        patches, weight, bias, positions, patches if seed is None else seed, y, parts, m,
        N=n, P=p, D=d, ROWS=launch.STAT_ROWS, INNER=_slice(d, p), COLUMNS=_pad(d), SITE=POSITION_SITE, LEVEL=level,
        STATISTICS=statistics, PRECISION=launch.precision(y), num_warps=_warps(d), num_stages=2,
    )  # fmt: skip
    return y, parts


def embedding_backward(dy: Tensor, patches: Tensor) -> Tensor:
    """Gradients of weight (D, P) and bias (D,), one after the other (D P + D,), fp32. dy: (M, D), after dropout."""
    (m, d), p = dy.shape, patches.shape[3]
    size, inner = d * p + d, _slice(d, p)
    blocks = triton.cdiv(m, launch.STAT_ROWS)
    tiles = triton.cdiv(blocks, max(1, min(PROGRAMS, MOST_PARTIAL // size)))
    partial = dy.new_empty((triton.cdiv(blocks, tiles), size), dtype=torch.float32)
    embedding_kernels.fused_embedding_backward[(len(partial), triton.cdiv(p, inner))](
        dy, patches, partial, m,
        P=p, D=d, TILES=tiles, ROWS=launch.STAT_ROWS, INNER=inner, COLUMNS=_pad(d), PRECISION=launch.precision(dy),
        num_warps=_warps(d), num_stages=2,
    )  # fmt: skip
    return launch.add_up(partial)


def drop(x: Tensor, seed: Tensor, site: int, level: int) -> Tensor:
    """dropout(x) for x (M, D), contiguous."""
    (m, d), y = x.shape, torch.empty_like(x)
    drop_kernels.fused_dropout[(triton.cdiv(m, DROP_ROWS), triton.cdiv(d, DROP_COLUMNS))](
        x, seed, site, y, m, D=d, ROWS=DROP_ROWS, COLUMNS=DROP_COLUMNS, LEVEL=level, num_warps=4
    )
    return y


def _slice(d: int, p: int) -> int:
    """How much of P a program takes at a time: with D above 128 less, or two stages need more than 99 KiB."""
    return min(64 if d <= 128 else 32, _pad(p))


def _warps(d: int) -> int:
    """8 where rows are wide: with 4, a thread takes 182 registers at D = 128, and 89 with 8."""
    return 4 if d <= 64 else 8


def _pad(size: int) -> int:
    return max(16, triton.next_power_of_2(size))
