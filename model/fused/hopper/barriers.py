"""Barriers in shared memory, by which the partitions of a warp-specialised kernel wait for each other, in Gluon."""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier


@gluon.jit
def barriers(NUMBER: gl.constexpr, COUNT: gl.constexpr) -> gl.shared_memory_descriptor:
    """So many barriers, each of which COUNT arrivals complete. A fence and a thread barrier must follow."""
    made = gl.allocate_shared_memory(gl.int64, [NUMBER, 1], mbarrier.MBarrierLayout())
    for k in gl.static_range(NUMBER):
        mbarrier.init(made.index(k), count=COUNT)
    return made
