"""Tile sizes of the plain Triton kernels, by kernel, width and compute capability: one table, with its reasons.

Every kernel takes 64 rows a program, as blocks of statistics have 64, and all columns of a norm. What is chosen is how
many columns its loop takes at a time, how many warps share the rows, and how many stages the loop loads ahead.

Reasons. Up to a width of 128 on 9.0: measured on an H100 and an H200 (docs/measurements.md). Elsewhere: nothing was
measured; the tile is the largest one that keeps within the shared memory below and spills least, by compiling
(tests/model/fused/test_compiled.py).
- 8.x multiplies from registers, not from shared memory. With 4 warps the backward feed-forward spills 184 to 376 bytes
  a thread there; with 8 warps and slices of 32 at most 8.
- Above a width of 128 accumulators are twice as wide, so 8 warps share them. At 8.6 and 8.9 a slice of 64 needs 106 KB
  of shared memory forward and 131 KB backward; 32 needs 70 and 98. The backward one spills up to 700 bytes on 8.x.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

# Bytes of shared memory that one program may have: CUDA C++ Programming Guide 12.8, table "Technical Specifications per
# Compute Capability".
SHARED = {(8, 0): 166_912, (8, 6): 101_376, (8, 9): 101_376, (9, 0): 232_448}
NARROW, WIDE = 128, 256  # widths up to which a row of the table holds


@dataclass(frozen=True, kw_only=True)
class Tile:
    """How a kernel is launched."""

    step: int  # columns that its loop takes at a time
    warps: int
    stages: int

    @property
    def options(self) -> dict[str, int]:
        """As Triton takes them."""
        return {"num_warps": self.warps, "num_stages": self.stages}


_HOPPER = {
    ("linear", NARROW): Tile(step=128, warps=4, stages=1),
    ("linear", WIDE): Tile(step=64, warps=8, stages=1),
    ("linear_backward", NARROW): Tile(step=64, warps=4, stages=3),
    ("linear_backward", WIDE): Tile(step=32, warps=8, stages=2),
    ("feed_forward", NARROW): Tile(step=32, warps=4, stages=3),
    ("feed_forward", WIDE): Tile(step=32, warps=8, stages=2),
    ("feed_forward_backward", NARROW): Tile(step=64, warps=4, stages=1),
    ("feed_forward_backward", WIDE): Tile(step=32, warps=8, stages=1),
}
_AMPERE = _HOPPER | {("feed_forward_backward", NARROW): Tile(step=32, warps=8, stages=1)}
TABLE = {(8, 0): _AMPERE, (8, 6): _AMPERE, (8, 9): _AMPERE, (9, 0): _HOPPER}


def tile(kernel: str, width: int, capability: tuple[int, int]) -> Tile:
    """The tile of a kernel whose tiles have up to `width` columns; a GPU between two rows takes the earlier one's."""
    known = max((row for row in TABLE if row <= capability), default=min(TABLE))
    return TABLE[known][kernel, NARROW if width <= NARROW else WIDE]


def choose(kernel: str, width: int, x: Tensor) -> Tile:
    """The tile on the GPU of x; on a CPU, in the interpreter, that of 9.0."""
    return tile(kernel, width, _capability(x.device) if x.is_cuda else (9, 0))


@cache
def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)
