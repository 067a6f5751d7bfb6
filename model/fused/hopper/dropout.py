"""Dropout in Gluon, with the bits of `model/fused/dropout_kernels.py`: a seed and a site give the same mask there.

Every element asks for its own bits. A thread's elements of a 16 x 16 block share one call of Philox (two where the tile
is transposed), and the compiler computes equal calls once.
"""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl


@gluon.jit
def _philox(c0: gl.tensor, c1: gl.tensor, c2: gl.tensor, k0: gl.tensor, k1: gl.tensor) -> gl.tensor:
    """Philox4x32 with 7 rounds and a last counter of 0."""
    c3 = c0 & 0
    for _ in gl.static_range(7):
        a = c0
        b = c2
        c0 = gl.umulhi(b, 0xCD9E8D57) ^ c1 ^ k0
        c2 = gl.umulhi(a, 0xD2511F53) ^ c3 ^ k1
        c1 = b * 0xCD9E8D57
        c3 = a * 0xD2511F53
        k0 = k0 + 0x9E3779B9
        k1 = k1 + 0xBB67AE85
    return c0, c1, c2, c3


@gluon.jit
def kept(
    seed: gl.tensor, site: gl.tensor, start: gl.tensor, row: gl.tensor, column: gl.tensor, LEVEL: gl.constexpr
) -> gl.tensor:
    """Whether elements stay, of rows `start` + row and of columns `column`, which broadcast. 16 divides start."""
    key = gl.load(seed)
    k0 = key.to(gl.uint32)
    k1 = (key >> 32).to(gl.uint32)
    c0 = (start // 2 + (((row >> 4) << 3) | (row & 7))).to(gl.uint32) + (column & 0).to(gl.uint32)
    c1 = (((column >> 4) << 2) | ((column & 7) >> 1)).to(gl.uint32) + (row & 0).to(gl.uint32)
    c2 = (c0 & 0) + site.to(gl.uint32)
    a, b, c, d = _philox(c0, c1, c2, k0, k1)
    lower = (row & 8) != 0
    word = gl.where((column & 8) != 0, gl.where(lower, d, b), gl.where(lower, c, a))
    return ((word >> ((column & 1) * 16).to(gl.uint32)) & 0xFFFF) >= LEVEL


@gluon.jit
def share_over(LEVEL: gl.constexpr) -> gl.constexpr:
    """1 over the share that stays on average."""
    return 65536.0 / (65536 - LEVEL)


@gluon.jit
def silenced(h: gl.tensor, stays: gl.tensor) -> gl.tensor:
    """Where h does not stay, a number whose GELU and slope are 0: one choice for both, right after the product."""
    return gl.where(stays, h, -30.0)


@gluon.jit
def thinned(values: gl.tensor, stays: gl.tensor, LEVEL: gl.constexpr) -> gl.tensor:
    """A tile of which some elements stay, divided by the share that stays on average."""
    return gl.where(stays, values * share_over(LEVEL), 0.0)
