"""Dropout's random bits: computed where they are needed, in the forward pass and again in the backward pass.

An element stays or goes by the step's seed, the site (which dropout of the model) and its row and column. Nothing of
it depends on tiles, so every kernel that asks for an element gets the same answer. Philox4x32 (Salmon et al. 2011)
makes 128 bits at a time, 16 for each of 8 elements. 7 rounds are the fewest that pass BigCrush there.

The 8 elements are those of a 16 x 16 block that one thread holds in the result of a product on tensor cores: rows r and
r + 8, columns 2 t, 2 t + 1, 2 t + 8 and 2 t + 9. So each thread computes the bits of its own elements, once.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def load_key(seed: tl.tensor, LEVEL: tl.constexpr) -> tl.tensor:
    """The step's seed, or 0 where nothing is dropped: seed is then any tensor."""
    if LEVEL > 0:
        return tl.load(seed)
    else:
        return 0


@triton.jit
def kept(
    key: tl.tensor,
    site: tl.tensor,
    start: tl.tensor,
    first: tl.tensor,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    LEVEL: tl.constexpr,
) -> tl.tensor:
    """Whether the elements of ROWS rows from `start` and of COLUMNS columns from `first` stay; all multiples of 16."""
    down = tl.arange(0, ROWS // 2)  # 8 for each block
    across = tl.arange(0, COLUMNS // 4)  # 4 for each block
    a, b, c, d = tl.philox(key, (start // 2 + down)[:, None], (first // 4 + across)[None, :], site, 0, 7)
    bits = _both(a, LEVEL) | (_both(b, LEVEL) << 2) | (_both(c, LEVEL) << 4) | (_both(d, LEVEL) << 6)
    bits = tl.reshape(bits, (ROWS // 16, 1, 8, COLUMNS // 16, 1, 4, 1))
    lower = tl.reshape(tl.arange(0, 2), (1, 2, 1, 1, 1, 1, 1)) * 4
    right = tl.reshape(tl.arange(0, 2), (1, 1, 1, 1, 2, 1, 1)) * 2
    odd = tl.reshape(tl.arange(0, 2), (1, 1, 1, 1, 1, 1, 2))
    return tl.reshape((bits >> (lower + right + odd)) & 1, (ROWS, COLUMNS)) != 0


@triton.jit
def _both(word: tl.tensor, LEVEL: tl.constexpr) -> tl.tensor:
    """One bit for each half of a word: whether it is at or above LEVEL."""
    return ((word & 0xFFFF) >= LEVEL).to(tl.int32) | (((word >> 16) >= LEVEL).to(tl.int32) << 1)


@triton.jit
def thinned(values: tl.tensor, stays: tl.tensor, LEVEL: tl.constexpr) -> tl.tensor:
    """A tile of which some elements stay, divided by the share that stays on average."""
    return tl.where(stays, values * (65536.0 / (65536 - LEVEL)), 0.0)


@triton.jit
def dropped(
    values: tl.tensor,
    key: tl.tensor,
    site: tl.tensor,
    start: tl.tensor,
    first: tl.tensor,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    LEVEL: tl.constexpr,
) -> tl.tensor:
    """A tile after dropout; as it is if LEVEL is 0. An element goes if its 16 bits, as a number, are below LEVEL."""
    if LEVEL > 0:
        values = thinned(values, kept(key, site, start, first, ROWS, COLUMNS, LEVEL), LEVEL)
    return values


@triton.jit(do_not_specialize=["site"])
def fused_dropout_mask(
    seed: tl.tensor,
    site: tl.tensor,
    mask: tl.tensor,
    M: tl.tensor,
    D: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    LEVEL: tl.constexpr,
) -> None:
    """The factors (M, D), fp32, by which a site multiplies: 0, or 1 / share that stays. Grid: M, D in tiles."""
    start = tl.program_id(0) * ROWS
    row = start + tl.arange(0, ROWS)
    first = tl.program_id(1) * COLUMNS
    column = first + tl.arange(0, COLUMNS)
    ones = tl.full((ROWS, COLUMNS), 1.0, dtype=tl.float32)
    factors = dropped(ones, load_key(seed, LEVEL), site, start, first, ROWS, COLUMNS, LEVEL)
    there = (row < M)[:, None] & (column < D)[None, :]
    tl.store(mask + row.to(tl.int64)[:, None] * D + column[None, :], factors, mask=there)
