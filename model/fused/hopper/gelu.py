"""The exact GELU in Gluon, with the approximate reciprocal and exponential instructions (each good to about 1 ulp).

The formula is that of `model/fused/feed_forward_kernels.py`: Abramowitz and Stegun 7.1.26 for Phi.
"""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl


@gluon.jit
def reciprocal(x: gl.tensor) -> gl.tensor:
    """1 / x for normal x."""
    return gl.inline_asm_elementwise("rcp.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=gl.float32, is_pure=True, pack=1)


@gluon.jit
def power_of_two(x: gl.tensor) -> gl.tensor:
    """2 to the power of x; 0 where that is subnormal."""
    return gl.inline_asm_elementwise("ex2.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=gl.float32, is_pure=True, pack=1)


@gluon.jit
def upper_tail(h: gl.tensor) -> gl.tensor:
    """1 - Phi(|h|) and exp(-h^2 / 2)."""
    t = reciprocal(1.0 + 0.2316418882 * gl.abs(h))  # 0.3275911 / sqrt(2)
    bell = power_of_two(h * (h * -0.7213475204))  # exp(-h^2 / 2)
    poly = 0.5307027145
    poly = poly * t - 0.7265760135
    poly = poly * t + 0.7107068705
    poly = poly * t - 0.142248368
    poly = poly * t + 0.127414796
    return poly * t * bell, bell


@gluon.jit
def gelu(h: gl.tensor) -> gl.tensor:
    """h Phi(h)."""
    tail, bell = upper_tail(h)
    return gl.maximum(h, 0.0) - gl.abs(h) * tail


@gluon.jit
def gelu_and_slope(h: gl.tensor) -> gl.tensor:
    """h Phi(h) and its derivative Phi(h) + h phi(h)."""
    tail, bell = upper_tail(h)
    phi = gl.where(h >= 0, 1.0 - tail, tail)
    return h * phi, phi + h * bell * 0.3989422804
