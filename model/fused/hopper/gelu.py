"""The exact GELU in Gluon, with the approximate reciprocal and exponential instructions (each good to about 1 ulp).

The formula is that of `model/fused/feed_forward_kernels.py`, scaled by the density, so that one multiplication fewer
gives the slope: Abramowitz and Stegun 26.2.17 for Phi (absolute error at most 7.5e-8).
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
    """1 - Phi(|h|) and phi(h), of the standard normal distribution."""
    t = reciprocal(1.0 + 0.2316418882 * gl.abs(h))
    density = power_of_two(h * (h * -0.7213475204) - 1.3257480647)  # exp(-h^2 / 2) / sqrt(2 pi)
    poly = 1.330274429
    poly = poly * t - 1.821255978
    poly = poly * t + 1.781477937
    poly = poly * t - 0.356563782
    poly = poly * t + 0.319381530
    return poly * t * density, density


@gluon.jit
def gelu(h: gl.tensor) -> gl.tensor:
    """h Phi(h)."""
    tail, density = upper_tail(h)
    return gl.maximum(h, 0.0) - gl.abs(h) * tail


@gluon.jit
def gelu_and_slope(h: gl.tensor) -> gl.tensor:
    """h Phi(h) and its derivative Phi(h) + h phi(h)."""
    tail, density = upper_tail(h)
    phi = gl.where(h >= 0, 1.0 - tail, tail)
    return h * phi, phi + h * density
