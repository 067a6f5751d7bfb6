"""Dropout in Gluon, with the bits of `model/fused/dropout_kernels.py`: a seed and a site give the same mask there.

A call of Philox gives the bits of 8 elements of a 16 x 16 block, which one thread holds of a product on tensor cores.
Of a transposed product, whose lines are columns of the mask, it holds 4, and the lane 4 further on the others: each of
them makes one of their two calls and gives the other lane what that needs.
"""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl


@gluon.jit
def _product(a: gl.tensor, b: gl.tensor) -> gl.tensor:
    """Both halves of 64 bits, the lower one first, by one instruction."""
    return gl.inline_asm_elementwise(
        "{ .reg .u64 both; mul.wide.u32 both, $2, $3; mov.b64 {$0, $1}, both; }", "=r,=r,r,r", [a, b],
        dtype=(gl.uint32, gl.uint32), is_pure=True, pack=1,
    )  # fmt: skip


@gluon.jit
def _philox(c0: gl.tensor, c1: gl.tensor, c2: gl.tensor, k0: gl.tensor, k1: gl.tensor) -> gl.tensor:
    """Philox4x32 with 7 rounds and a last counter of 0."""
    c3 = c0 & 0
    for _ in gl.static_range(7):
        b_low, b_high = _product(c2, (c2 & 0) + 0xCD9E8D57)
        a_low, a_high = _product(c0, (c0 & 0) + 0xD2511F53)
        c0 = b_high ^ c1 ^ k0
        c2 = a_high ^ c3 ^ k1
        c1 = b_low
        c3 = a_low
        k0 = k0 + 0x9E3779B9
        k1 = k1 + 0xBB67AE85
    return c0, c1, c2, c3


@gluon.jit
def _halves(a: gl.tensor, b: gl.tensor, upper: gl.tensor) -> gl.tensor:
    """The lower halves of a and b in one word, or their upper halves."""
    return gl.inline_asm_elementwise(
        "prmt.b32 $0, $1, $2, $3;", "=r,r,r,r", [a, b, gl.where(upper, 0x7632, 0x5410)],
        dtype=gl.uint32, is_pure=True, pack=1,
    )  # fmt: skip


@gluon.jit
def _exchanged(word: gl.tensor) -> gl.tensor:
    """The word of the lane whose number differs in bit 2."""
    return gl.inline_asm_elementwise(
        "shfl.sync.bfly.b32 $0, $1, 4, 31, 0xffffffff;", "=r,r", [word], dtype=gl.uint32, is_pure=True, pack=1
    )


@gluon.jit
def _shared(a: gl.tensor, b: gl.tensor, odd: gl.tensor) -> gl.tensor:
    """Of the calls of both lanes, the lower one's first, the halves of a and b that belong to this lane."""
    own = _halves(a, b, odd)
    other = _exchanged(_halves(a, b, odd == 0))
    return gl.where(odd, other, own), gl.where(odd, own, other)


@gluon.jit
def _spread(word: gl.tensor, zero: gl.tensor, LAYOUT: gl.constexpr) -> gl.tensor:
    """The word of each element's call, in a tile."""
    word = gl.expand_dims(gl.expand_dims(gl.expand_dims(word, 1), 4), 6)
    return gl.convert_layout(gl.reshape(word | zero, [zero.shape[0] * 16, zero.shape[3] * 16]), LAYOUT)


@gluon.jit
def kept(
    seed: gl.tensor, site: gl.tensor, start: gl.tensor, first: gl.tensor, LINES: gl.constexpr, WIDTH: gl.constexpr,
    LAYOUT: gl.constexpr, LEVEL: gl.constexpr, TURNED: gl.constexpr,
) -> gl.tensor:  # fmt: skip
    """Whether elements of a tile (LINES, WIDTH) stay: rows from `start` on, columns from `first` on, both times 16.

    TURNED: the tile's lines are columns from `first` on.
    """
    line = gl.arange(0, LINES, layout=gl.SliceLayout(1, LAYOUT))[:, None]
    place = gl.arange(0, WIDTH, layout=gl.SliceLayout(0, LAYOUT))[None, :]
    # What all elements of a thread in a block have in common: bits of their line and place.
    blocks = gl.reshape(((line & 0xFFF7) << 16) | (place & 0xFFF6), [LINES // 16, 2, 8, WIDTH // 16, 2, 4, 2])
    zero = (blocks & 0).to(gl.uint32)
    code = gl.min(gl.min(gl.min(blocks, 6), 4), 1)
    if TURNED:
        row = (code & 0xFFFF) | ((code >> 16) & 1)  # this lane's call
        column = code >> 16
    else:
        row = code >> 16
        column = code & 0xFFFF
    c0 = (start // 2 + ((row >> 4) << 3) + (row & 7)).to(gl.uint32)
    c1 = (first // 4 + ((column >> 4) << 2) + ((column & 7) >> 1)).to(gl.uint32)
    key = gl.load(seed)
    a, b, c, d = _philox(c0, c1, (c0 & 0) + site.to(gl.uint32), key.to(gl.uint32), (key >> 32).to(gl.uint32))
    if TURNED:
        odd = (column & 1) != 0
        even_ab, odd_ab = _shared(a, b, odd)
        even_cd, odd_cd = _shared(c, d, odd)
        lower = (place & 8) != 0
        even = gl.where(lower, _spread(even_cd, zero, LAYOUT), _spread(even_ab, zero, LAYOUT))
        uneven = gl.where(lower, _spread(odd_cd, zero, LAYOUT), _spread(odd_ab, zero, LAYOUT))
        word = gl.where((place & 1) != 0, uneven, even)
        upper = (line >> 3) & 1
    else:
        left = gl.where((line & 8) != 0, _spread(c, zero, LAYOUT), _spread(a, zero, LAYOUT))
        right = gl.where((line & 8) != 0, _spread(d, zero, LAYOUT), _spread(b, zero, LAYOUT))
        word = gl.where((place & 8) != 0, right, left)
        upper = place & 1
    return (word << ((upper ^ 1) * 16).to(gl.uint32)) >= LEVEL * 65536  # bits below do not change the answer


@gluon.jit
def share_over(LEVEL: gl.constexpr) -> gl.constexpr:
    """1 over the share that stays on average."""
    return 65536.0 / (65536 - LEVEL)


@gluon.jit
def silenced(h: gl.tensor, stays: gl.tensor) -> gl.tensor:
    """Where h does not stay, a number whose GELU and slope are 0: one choice for both, right after the product.

    What stays is not divided by the share that stays: whoever multiplies by it does that.
    """
    return gl.where(stays, h, -30.0)


@gluon.jit
def thinned(values: gl.tensor, stays: gl.tensor, LEVEL: gl.constexpr) -> gl.tensor:
    """A tile of which some elements stay, divided by the share that stays on average."""
    return gl.where(stays, values * share_over(LEVEL), 0.0)
